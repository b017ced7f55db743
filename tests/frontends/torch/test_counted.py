"""Numbers of rows that only run time knows, by torch.export: masks as indices, `nonzero`, boxes that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tessera.frontends.torch import load
from tessera.ir.diagnostics import Diagnostic

from .agreeing import Call, agree


def kept(x: torch.Tensor) -> torch.Tensor:
    return x.sum(1) > -0.5


USES: dict[str, Callable[..., Any]] = {
    "rows of a mask": lambda x: x[kept(x)],
    "columns of a mask": lambda x: x[:, kept(x[:, :4].mT)],
    "elements of a mask": lambda x: (x[x > 0], torch.masked_select(x, x > 0)),
    "places": lambda x: (torch.nonzero(x > 0), *torch.where(x > 0)),
    "two of one mask": lambda x: x[kept(x)] * x[kept(x)].exp(),
    "a layer behind it": lambda x: torch.softmax(x[kept(x)] @ torch.ones(4, 3), -1),
    "sums": lambda x: (x[kept(x)].sum(0), x[kept(x)].sum(), torch.cat([x[kept(x)], x]).amax(0), torch.cat([x[kept(x)], x]).mean(0)),
    "softmax over them": lambda x: x[kept(x)].softmax(0),
    "joined": lambda x: torch.cat([x[kept(x)], x, x[~kept(x)]]),
    "written back": lambda x: x.index_put((torch.nonzero(kept(x)).squeeze(1),), x[kept(x)].tanh()),
    "by place": lambda x: x[torch.nonzero(kept(x)).squeeze(1)][:, 1],
    "with one another": lambda x: (x[kept(x)] @ x[kept(x)].mT).softmax(1) @ x[kept(x)],
    "as many as are asked for": lambda x: torch.nonzero_static(x > 0, size=5),
}  # fmt: skip
QUICK = ("rows of a mask", "joined")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.extended) for n in USES])
def test_a_use(name: str) -> None:
    def make(size: int) -> tuple[torch.Tensor]:
        return (torch.randn(size, 4, generator=torch.Generator().manual_seed(size)),)

    agree(USES[name], make, ({0: "N"},), sizes=(6, 5, 9))


@pytest.mark.extended
def test_boxes_that_stay() -> None:
    """The tail of a detector; torchvision's op is declared here as torchvision declares it."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    if not hasattr(torch.ops.torchvision, "nms"):
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

        @torch.library.impl(library, "nms", "CPU")
        def _(boxes: torch.Tensor, scores: torch.Tensor, overlap: float) -> torch.Tensor:
            area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            stay: list[int] = []
            for at in scores.argsort(descending=True, stable=True).tolist():
                side = (torch.minimum(boxes[at, 2:], boxes[stay, 2:]) - torch.maximum(boxes[at, :2], boxes[stay, :2])).clamp(min=0)
                shared = side.prod(1)
                if not (shared / (area[at] + area[stay] - shared) > overlap).any():
                    stay.append(at)
            return torch.tensor(stay, dtype=torch.int64)

        @torch.library.register_fake("torchvision::nms", lib=library)
        def _(boxes: torch.Tensor, scores: torch.Tensor, overlap: float) -> torch.Tensor:
            return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int64)

    def tail(low: torch.Tensor, size: torch.Tensor, logits: torch.Tensor) -> Any:
        score, label = logits.softmax(-1).max(-1)
        boxes = torch.cat([low, low + size], 1)
        # Boxes of different classes do not meet.
        at = torch.ops.torchvision.nms(boxes + label.unsqueeze(1) * 100.0, score, 0.4)
        return boxes[at], score[at], label[at]

    def make(size: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(size)
        draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
        return draw(size, 2) * 8, draw(size, 2) * 6 + 1, draw(size, 3) * 4

    agree(tail, make, ({0: "N"}, {0: "N"}, {0: "N"}), sizes=(12, 7, 30))


def test_a_capacity_and_a_use_that_is_refused() -> None:
    x = torch.randn(6, 4)
    imported = load(Call(lambda x: x[kept(x)]).eval(), x, dynamic_shapes=(({0: "N"},),), capacity=2)
    assert imported.counted == {"output": {0: "output_count"}}
    assert str(imported.module.graph.outputs[0].type) == "f32[min(2, N), 4]"
    with pytest.raises(Diagnostic, match="turned round") as error:
        load(Call(lambda x: x[kept(x)].flip(0)).eval(), x)
    assert error.value.code == "E0780"
