"""Options and fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from zlib import crc32

import pytest

# Where there is no GPU, Triton's kernels run in its interpreter; it reads this when it is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What everything else rests on comes first, so that a fault shows early.
ORDER = (
    "test_house.py", "ir", "frontends/source", "errors", "specs", "programs", "passes", "backends", "differential", "runtime",
    "frontends", "driver",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the expected files of golden tests instead of comparing"
    )
    parser.addoption(
        "--sample", type=int, default=1, metavar="N", help="run one in N of the extended tests, the same ones each time"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort by room, and take a sample of the heavy tables where one is asked for."""
    items.sort(key=lambda item: _rank(item.path))
    every = config.getoption("--sample")
    left_out = [i for i in items if i.get_closest_marker("extended") and crc32(i.nodeid.encode()) % every]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [i for i in items if i not in gone]


@cache
def _rank(path: Path) -> int:
    name = path.relative_to(Path(__file__).parent).as_posix()
    return next((i for i, start in enumerate(ORDER) if name.startswith(start)), len(ORDER))


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def quiet_transformers() -> Iterator[None]:
    """Models of transformers, which say nothing and keep no gradients."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither use nor fill the user's cache, and the commands that they start are compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("TESSERA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
