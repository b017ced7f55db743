"""Every composite of std on every backend against the NumPy meaning of its body: no elements, one, odd numbers, many.

Each row is one way to call a composite; one artifact with free sizes is run at every scale. Indices and truths are compared
exactly, floats to ``TOLERANCE``. CI takes the f32 rows on torch and ONNX Runtime, the suite ``extended`` every dtype, and MLIR.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tessera.backends import mlir
from tessera.backends.mlir.assemble import plan
from tessera.backends.onnx import runnable
from tessera.backends.onnx.session import Session
from tessera.backends.torch import build
from tessera.backends.triton.claims import KERNELS, claims, launched
from tessera.frontends.source import resolve
from tessera.frontends.source.elaborate.library import SPECS
from tessera.frontends.torch import load_mlir
from tessera.ir.analysis.evaluate import evaluate_graph
from tessera.ir.builder import Builder
from tessera.ir.dims.dim import Dim, const, sym
from tessera.ir.graph import Graph, Value
from tessera.ir.op import Composite
from tessera.ir.signature import Pattern
from tessera.ir.types import DType, TensorType, boolean, i64

from .test_ops_onnx import artifact
from .test_ops_torch import FLOATS, assert_same, to_numpy, to_torch

B, T = sym("B"), sym("T")
# Axes of a fixed length; every other symbol of a signature is a free size.
FIXED = {"D": 8, "K": 6, "V": 5, "C": 6, "E": 4, "I": 6, "O": 5, "P": 3, "H": 4, "G": 2}
LEAD = ("L", "M")
SCALES: dict[str, dict[str, int]] = {
    "zero": {"B": 0, "L": 0, "batch": 0, "N": 9, "T": 5, "S": 7, "M": 5, "k": 3, "tokens": 5},
    "one": dict.fromkeys(("B", "L", "batch", "N", "T", "S", "M", "k", "tokens"), 1),
    "odd": {"B": 3, "L": 3, "batch": 3, "N": 9, "T": 5, "S": 7, "M": 5, "k": 3, "tokens": 5},
    "large": {"B": 2, "L": 2, "batch": 2, "N": 130, "T": 65, "S": 131, "M": 129, "k": 33, "tokens": 77},
}
TOLERANCE = {"f64": 1e-6, "f32": 3e-5, "f16": 2e-2, "bf16": 1e-1}


@dataclass(frozen=True)
class Row:
    """One way to call a composite: which optional operands are given, with which attributes.

    Args:
        shapes: dimensions in the place of a signature's symbols, for operands that broadcast.
        below: integer operands, and the symbol or number that their elements stay below.
        scales: the names of the scales at which there is a result.
        selects: whether rounding to half precision would select other elements, or grows from step to step.
    """

    given: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Dim] = field(default_factory=dict)
    below: Mapping[str, str | int] = field(default_factory=dict)
    scales: tuple[str, ...] = ("zero", "one", "odd", "large")
    selects: bool = False


SOME = ("one", "odd", "large")  # a mean of nothing is no number
MAP: dict[str, str | int] = {"map.source": "T"}
MASK = {"Mb": B, "Mh": const(1), "Mt": const(1)}
FULL = {"Mb": B, "Mh": const(4), "Mt": T, "Ab": const(1), "Ah": const(4), "At": T}
SLOTS = {"C": sym("N"), "S": sym("k")}
ROUTED = {"N": T, "K": const(2), "F": const(3)}
PACKED = {"C": sym("N"), "Q": const(6), "P": const(6), "R": const(4)}
ENDS: dict[str, str | int] = {"r.ends": "N", "q.ends": "N", "k.ends": "S", "v.ends": "S", "lengths": "T", "group": 5}
_RAGGED: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(("segment_ids", "row_positions", "row_mask", "row_ends", "row_lengths", "mask_rows", "keep_rows"), ({},)),
    **dict.fromkeys(("ragged_sum", "ragged_mean", "ragged_max", "ragged_softmax"), ({},)),
    "ragged_from_padded": ({}, {"capacity": 4}), "padded_from_ragged": ({"length": 4},), "sort_by_group": ({"groups": 4},),
    "varlen_attention": ({"heads": 2}, {"heads": 2, "causal": True}),
}  # fmt: skip
# Tables of an automaton, so small that no step leaves them.
_TEXT: dict[str, str | int] = {"text": 256, "pages": 1, "cells": 5, "spellings": 90, "base": 4, "check": 6, "value": 6}
ROWS: dict[str, tuple[Row, ...]] = {
    **{
        f"std.ragged.{name}": tuple(Row(attrs=attrs, shapes=PACKED, below=ENDS, scales=SOME) for attrs in options)
        for name, options in _RAGGED.items()
    },
    "std.token.by_mass": (
        Row(attrs={"r": T // 2}, below=MAP), Row(attrs={"r": 2, "protect": 1}, below=MAP, scales=("odd", "large")),
    ),
    **{
        f"std.token.{name}": (Row(attrs={"r": T // 2, **attrs}, shapes={"L": const(3)}, below=MAP, selects=True),)
        for name, attrs in {
            "prune.by_row": {"heads": "max"}, "prune.fastv": {}, "prune.by_relevance": {}, "prune.by_repetition": {},
            "prune.by_correlation": {}, "dart.dart": {"pivots": 1},
        }.items()
    },
    **{
        f"std.token.{name}": (Row(attrs={"r": 2, **attrs}, below=MAP, selects=True, scales=("odd", "large")),)
        for name, attrs in {
            "prune.diverse": {"objective": "k_center"}, "prune.divprune": {}, "prune_layers.hired": {"width": 1, "parts": 1},
            "prune_fuse.evit": {}, "visionzip.visionzip": {},
        }.items()
    },
    "std.token.prune_layers.hiprune": (
        Row(attrs={"r": 2, "width": 1, "middle": 0, "alpha": 0.8}, below=MAP, selects=True, scales=("large",)),
    ),
    "std.token.prune.spread_out": tuple(
        Row(attrs={"k": 3, "objective": objective}, selects=True, scales=("odd", "large")) for objective in ("max_sum", "k_center")
    ),
    "std.token.last_member": (Row(below=MAP),),
    "std.token.put.put_map": (Row(attrs={"count": 6, "k": T // 2}, below={"number": 6, "host": 6}, scales=("odd", "large")),),
    "std.token.drop.drop_span": (Row(attrs={"r": 2, "start": 1}, below=MAP, scales=("odd", "large")),),
    **{
        f"std.token.merge.{name}": (Row(attrs={"r": 2, **attrs}, below=MAP, selects=True, scales=("odd", "large")),)
        for name, attrs in {"energy_merge": {}, "norm_merge": {"r": T // 2}, "window_merge": {"window": 2}}.items()
    },
    "std.token.merge.grid_merge": (
        Row(attrs={"r": 3, "rows": 3, "columns": 4, "protect": 1}, shapes={"T": const(13)}, below={"map.source": 13}, selects=True,
            scales=("large",)),
    ),
    "std.token.pool.adaptive_pool": (
        Row(attrs={"k": 7, "rows": 3, "columns": 4, "height": 2, "width": 3, "protect": 1}, shapes={"T": const(13)},
            below={"map.source": 13}, scales=("large",)),
    ),
    **{
        f"std.token.spans.{name}": (Row(attrs={"k": 4}, below={**MAP, "spans": 4}, scales=("odd", "large")),)
        for name in ("span_mean", "span_first", "span_softmax")
    },
    "std.token.cluster.superpixels": (
        Row(attrs={"k": 5, "height": 3, "width": 4, "rows": 2, "columns": 2, "protect": 1, "temperature": 1.0},
            shapes={"T": const(13)}, below={"map.source": 13}, selects=True, scales=("large",)),
    ),
    "std.token.cluster.reconstruct": tuple(
        Row(attrs={"protect": 1, "neighbours": 2, "norm": norm}, shapes={"P": const(12), "T": const(5)}, below={"map.source": 5},
            selects=True, scales=("large",)) for norm in ("sum", "l2")
    ),
    "std.token.slots.latest_slots": (Row(attrs={"k": 6}, shapes={"C": sym("N")}, below={"length": "N"}),),
    "std.token.slots.token_vote": (
        Row(attrs={"k": 6, "sinks": 1, "recent": 2}, shapes={"C": sym("N")}, below={"length": "N"}, selects=True),
    ),
    "std.token.slots.page_bounds": (
        Row(attrs={"k": 4, "page": 2}, shapes={"C": const(12)}, below={"length": 12}, selects=True),
    ),
    "std.token.slots.renewed_bounds": (
        Row(attrs={"tokens": 3, "page": 2}, shapes={"C": const(12), "P": const(6), "G": const(2), "K": const(4), "W": const(16)},
            below={"start": 12}, selects=True),
    ),
    "std.token.memo.asked": (Row(),),
    "std.token.memo.again": (
        Row(attrs={"tokens": 2, "reuse": 0.1}, shapes={"M": const(5), "Q": const(6)},
            below={"memo.place": 9, "memo.made": 2, "memo.hits": 9, "length": 12, "count": 2}),
    ),
    "std.token.memo.remembered": (
        Row(shapes={"M": const(5), "Q": const(6)},
            below={"memo.place": 9, "memo.made": 2, "memo.hits": 9, "place": 9, "length": 12, "count": 2}),
    ),
    **{
        f"std.token.kv.{name}": (
            Row(attrs={"k": 6, **attrs}, selects=True),
            Row(("there",), {"k": 6, **attrs, **rows}, dict.fromkeys(rows, B), selects=True),
        )
        for name, attrs, rows in (
            ("sinks_and_recent", {}, {"rows": B}), ("heavy_hitters", {}, {}), ("window_vote", {"window": 2}, {}),
        )
    },
    "std.attention.attend": (Row(("mask",), {"causal": True}, FULL),),
    "std.attention.column_mass": (Row(scales=SOME, attrs={"block": 64}), Row(("mask",), {"block": 2}, MASK, scales=SOME)),
    "std.attention.attention_row": (
        Row(attrs={"row": -1, "causal": True}), Row(("mask", "bias"), {"row": 0, "softcap": 5.0}, FULL),
    ),
    **{
        f"std.attention.{name}": (
            Row(attrs={"causal": True}), Row(("mask",), shapes=MASK), Row(("mask", "bias"), {"softcap": 5.0}, FULL),
        )
        for name in ("received", "last_row")
    },
    "std.token.by_chance": (Row(attrs={"r": T // 2}, below=MAP),),
    "std.arrays.argsort": tuple(Row(attrs={"descending": d}) for d in (False, True)),
    "std.arrays.one_hot": (Row(attrs={"classes": 5}, below={"index": 7}),),
    **{f"std.arrays.tri{side}": (Row(), Row(attrs={"diagonal": -2}), Row(attrs={"diagonal": 1})) for side in "lu"},
    "std.arrays.roll": tuple(Row(attrs={"shift": s, "axis": 1}) for s in (0, 1, -3, 200)),
    "std.math.clamp": (Row(attrs={"low": -0.5}), Row(attrs={"low": -0.5, "high": 0.25})),
    **{f"std.math.cum{name}": (Row(attrs={"axis": 1}), Row(attrs={"axis": 0}, scales=SOME)) for name in ("prod", "min")},
    "std.attention.attention": (
        Row(), Row(attrs={"causal": True}), Row(("mask",), shapes=MASK), Row(("mask", "bias"), shapes=FULL),
        Row(("bias",), {"softcap": 5.0, "scale": 0.25}, FULL),
        Row(attrs={"column_mass": True, "row": 0, "log_sum_exp": True}), Row(("mask",), {"column_mass": True}, MASK),
    ),
    "std.attention.rope": tuple(Row(shapes={"Rb": b}, attrs={"interleaved": i}) for b, i in ((B, False), (const(1), True))),
    "std.cache.write_rows": (Row(shapes=SLOTS, below={"start": "N"}),),
    "std.cache.append": (
        Row(shapes=SLOTS, below={"cache.length": "N"}),
        Row(("count",), shapes=SLOTS, below={"cache.length": "N", "count": "k"}),
    ),
    "std.cache.evict": (
        Row(shapes={"C": T, "N": sym("k")}, below={"cache.length": "T", "index": "T"}),
        Row(("count",), shapes={"C": T, "N": sym("k")}, below={"cache.length": "T", "index": "T", "count": "k"}),
    ),
    "std.cache.keep": (
        Row(shapes={"C": T, "N": sym("k")}, below={"cache.length": "T", "index": "T"}),
    ),
    "std.token.evict.snap_kv": tuple(
        Row(attrs={"k": 2, "window": 1, "pool": p}, below={"length": "S", "count": "T"}, scales=SOME, selects=True)
        for p in (1, 3)
    ),
    "std.token.evict.heavy_keys": (
        Row(attrs={"k": 3}, below={"length": "S", "count": "T"}, scales=SOME, selects=True),
    ),
    "std.cache.window": (
        Row(attrs={"sinks": 1, "recent": 2}, shapes={"C": T}, below={"cache.length": "T"}, scales=("zero", "odd", "large")),
    ),
    "std.cache.gather_path": tuple(
        Row(given, shapes=SLOTS, below={"cache.length": "N", "start": 4, "path": 3, "count": 4}, scales=("zero", "odd", "large"))
        for given in ((), ("count",))
    ),
    "std.cache.visible": tuple(
        Row(given, {"queries": 3}, shapes={"C": T}, below={"cache.length": "T", "count": 4}) for given in ((), ("count",))
    ),
    "std.cache.rollback": (Row(shapes={"C": T}, below={"cache.length": "T", "length": "T"}),),
    "std.cache.fork": (Row(shapes={"C": T, "R": sym("N")}, below={"cache.length": "T", "row": "B"}, scales=SOME),),
    "std.cache.picked": (
        Row(shapes={"C": T, "N": sym("k")}, below={"cache.length": "T", "index": "T"}),
        Row(("count",), shapes={"C": T, "N": sym("k")}, below={"cache.length": "T", "index": "T", "count": "k"}),
    ),
    "std.cache.turned": (
        Row(shapes={"C": T, "Rb": const(1)}, below={"cache.length": "T"}),
        Row(attrs={"interleaved": True}, shapes={"C": T, "Rb": B}, below={"cache.length": "T"}),
    ),
    "std.cache.read": (
        Row(shapes={"C": sym("S"), "R": const(2), "Mb": const(1), "Mt": const(1)}, below={"cache.length": "S"}),
    ),
    "std.cache.scores": (Row(shapes={"C": sym("S"), "R": const(2)}, below={"cache.length": "S"}),),
    **{
        f"std.cache.narrow.{kind}_{name}": row
        for kind in ("half", "narrow")
        for name, row in {
            "evict": (Row(("count",), shapes={"C": T, "N": sym("k")}, below={"cache.length": "T", "index": "T", "count": "k"}),),
            "keep": (Row(shapes={"C": T, "N": sym("k")}, below={"cache.length": "T", "index": "T"}),),
            "gather_path": (
                Row(("count",), shapes=SLOTS, below={"cache.length": "N", "start": 4, "path": 3, "count": 4},
                    scales=("zero", "odd", "large")),
            ),
            "rollback": (Row(shapes={"C": T}, below={"cache.length": "T", "length": "T"}),),
            "fork": (Row(shapes={"C": T, "R": sym("N")}, below={"cache.length": "T", "row": "B"}, scales=SOME),),
        }.items()
    },
    "std.cache.cached_attention": (Row(("count",), shapes=SLOTS, below={"cache.length": "N", "count": "k"}),),
    "std.cache.narrow.half_append": (Row(("count",), shapes=SLOTS, below={"cache.length": "N", "count": "k"}),),
    "std.cache.narrow.narrow_append": (Row(("count",), shapes=SLOTS, below={"cache.length": "N", "count": "k"}),),
    "std.cache.narrow.narrowed": (Row(shapes={"S": T}),),
    "std.cache.narrow.widened": (Row(shapes={"S": T}),),
    "std.cache.ring.write_around": (Row(shapes={"C": sym("N"), "S": sym("k")}, below={"start": "N"}),),
    "std.cache.ring.ring_append": (Row(shapes={"C": sym("N"), "S": sym("k")}, below={"cache.seen": "N"}),),
    "std.cache.ring.ring_places": (Row(shapes={"C": T}, below={"cache.seen": "N"}),),
    "std.cache.ring.ring_visible": (Row(attrs={"queries": 3}, shapes={"C": T}, below={"cache.seen": "N"}),),
    "std.cache.paged.gathered": (
        Row(shapes={"M": const(3), "P": sym("N"), "S": const(2)}, below={"cache.length": 6, "cache.table": "N"}),
    ),
    "std.cache.paged.share": (
        Row(
            shapes={"M": const(3), "P": sym("N"), "S": const(2), "R": sym("k")},
            below={"cache.length": 6, "cache.table": "N", "row": "B"}, scales=("one", "odd", "large"),
        ),
    ),
    "std.cache.paged.page_picked": (
        Row(
            shapes={"M": const(3), "P": sym("N"), "S": const(2), "N": sym("k")},
            below={"cache.length": 6, "cache.table": "N", "index": 6}, scales=("one", "odd", "large"),
        ),
    ),
    "std.cache.paged.page_append": tuple(
        # One row: two that share a page would write to the same slots.
        Row(
            given, shapes={"B": const(1), "M": const(1), "P": sym("N"), "S": sym("S"), "N": const(1)},
            below={"cache.length": 1, "cache.table": "N", "count": 2}, scales=("one", "odd", "large"),
        )
        for given in ((), ("count",))
    ),
    "std.losses.cross_entropy": tuple(Row(attrs={"smoothing": s}, below={"target": 6}, scales=SOME) for s in (0.0, 0.1)),
    "std.losses.kl_divergence": (Row(scales=SOME), Row(attrs={"temperature": 2.0}, scales=SOME)),
    "std.losses.mse": (Row(scales=SOME),),
    "std.losses.router_z": (Row(scales=SOME),),
    "std.losses.load_balance": (Row(below={"expert": 4}, scales=SOME),),
    "std.nn.softmax": (Row(), Row(attrs={"axis": 0}, scales=SOME)),
    "std.nn.log_softmax": (Row(), Row(attrs={"axis": 0}, scales=SOME)),
    "std.nn.layer_normalize": (Row(), Row(("weight",)), Row(("weight", "bias"), {"eps": 1e-3})),
    "std.nn.rms_normalize": (Row(), Row(("weight",))),
    "std.nn.group_normalize": tuple(Row(("weight", "bias"), {"groups": g}) for g in (1, 3, 6)),
    "std.nn.batch_normalize": (Row(), Row(("weight", "bias"))),
    "std.nn.affine": (Row(), Row(("bias",))),
    "std.nn.parameter_attention": tuple(
        Row(attrs={"form": form}, scales=SOME) for form in ("l2_norm_gelu", "gelu_l2_norm", "softmax")
    ),
    "std.pooling.mean_pool": (Row(), Row(("weight",))),
    "std.pooling.max_pool": (Row(), Row(("mask",))),
    "std.audio.dft": (Row(attrs={"bins": 5}), Row(("imaginary",), {"bins": 4, "inverse": True})),
    "std.audio.real_signal": (Row(attrs={"size": 9}, shapes={"M": const(5)}), Row(attrs={"size": 8}, shapes={"M": const(5)})),
    "std.detection.suppress": tuple(
        Row(attrs={"capacity": 9, "most": 1, **attrs}, scales=SOME)
        for attrs in ({"most": 2, "overlap": 0.1, "capacity": 7}, {"least": 0.2}, {"centred": True})
    ),
    "std.text.code_points": (Row(below={"count": "N", **_TEXT}, scales=SOME),),
    "std.text.spelled": tuple(
        Row(attrs=attrs, below={"count": "N", **_TEXT}, scales=SOME,
            shapes={"C": const(256), "S": const(5), "W": const(4 * each), "K": const(300)})
        for attrs, each in (({}, 1), ({"root": 1, "longest": 3}, 2), ({"raw": 2}, 1))
    ),
    "std.text.word_begins": (Row(below={"symbols": 256}),),
    "std.text.longest_match": (Row(attrs={"steps": 3}, below={"symbols": 3, "at": 6, "further": 3, **_TEXT}),),
    "std.text.longest_pieces": tuple(
        Row(attrs={"first": 1, "inner": 2, "steps": 3, "most": 2, "unknown": 7, **mode}, below={"symbols": 48, **_TEXT})
        for mode in ({}, {"whole": True}, {"single": True})
    ),
    "std.text.reached": (Row(below={"jump": "M"}),),
    "std.text.pairs.next_marked": (Row(),),
    "std.text.pairs.pair_ranks": (
        Row(attrs={"origin": 1, "missing": 7}, below={"ids": 3, "next": "M", **_TEXT}, shapes={"K": const(9)}),
    ),
    "std.text.pairs.merged_pairs": (
        Row(attrs={"origin": 1}, below={"ids": 3, "merges": 6, **_TEXT}, shapes={"K": const(9), "R": const(6)}),
    ),
    "std.text.letters.fronted": tuple(
        Row(attrs={"front": 20, "alone": 4, "room": room, "always": always, "unless": unless}, below={"symbols": 48})
        for room, always, unless in ((1, False, True), (9, True, False))
    ),
    "std.text.unigram.entries_by_length": (
        Row(attrs={"steps": 3}, below={"symbols": 3, "at": 6, "further": 3, **_TEXT}, shapes={"K": const(9)}),
    ),
    "std.text.unigram.likeliest": (Row(shapes={"L": const(3)}),),
    "std.text.token_rows": (
        Row(attrs={"length": 4}, below={"ids": 50}),
        Row(attrs={"length": 5, "front": (1, 2), "behind": (3,), "padding": 9, "left": True}, below={"ids": 50}),
    ),
    "std.vision.grid_sample": tuple(
        Row(attrs={"mode": mode, "padding": padding, "align_corners": corners}, shapes={"W": T, "Q": const(3)},
            scales=SOME, selects=mode == "nearest")
        for mode, padding, corners in (
            ("bilinear", "zeros", False), ("nearest", "border", True), ("bicubic", "reflection", False),
        )
    ),
    "std.recurrent.linear_attention": (
        Row(attrs={"scale": 0.5}, shapes={"Q": const(4), "E": const(1), "P": const(1)}),
        Row(("decay", "beta"), shapes={"Q": const(4), "E": const(6), "P": const(2)}, scales=("one", "odd"), selects=True),
    ),
    **{
        f"std.recurrent.{name}_sequence": (
            Row(attrs=attrs), Row(("bias_ih", "bias_hh", "lengths"), {"reverse": True}, below={"lengths": "T"}),
        )
        for name, attrs in (("rnn", {"relu": True}), ("lstm", {}), ("gru", {"reset_first": True}))
    },
    "std.recover.scores.scores": (Row(attrs={"scale": 0.5}), Row(("mask", "bias"), {"scale": 0.5, "softcap": 2.0}, FULL)),
    "std.token.select_top": (Row(attrs={"k": 1}), Row(attrs={"k": (T + 1) // 2})),
    "std.token.gather_tokens": (Row(below={"index": "T"}),),
    "std.token.scatter_tokens": (Row(below={"index": "T"}),),
    "std.token.token_map": (
        Row(("valid",), {"batch": sym("batch"), "tokens": sym("tokens")}), Row(attrs={"batch": 2, "tokens": 5}),
    ),
    "std.token.bipartite_merge": (
        Row(attrs={"r": T // 2}, below=MAP, scales=("zero", "odd", "large"), selects=True),
        Row(attrs={"r": 0}, below=MAP, scales=("zero", "odd", "large"), selects=True),
        Row(attrs={"r": 2, "protect": 1, "padding": False}, below=MAP, scales=("zero", "odd", "large"), selects=True),
    ),
    "std.token.unmerge": (Row(below=MAP),),
    **{
        f"std.moe.route.{name}": tuple(
            Row(given, attrs, shapes={"N": T, "K": const(2)}, below={"routes.expert": 6}, selects=True) for given, attrs in options
        )
        for name, options in {
            "token_choice": (
                ((), {"k": 2}), (("bias",), {"k": 1, "score": "sigmoid", "scale": 2.5}), ((), {"k": 2, "score": "chosen"}),
                ((), {"k": 1, "groups": 2, "limit": 1, "best": 1}), ((), {"k": 2, "score": "one"}),
            ),
            "without_null": (((), {"experts": 3}), ((), {"experts": 3, "scale": 2.0})),
            "sparse_mixer": (((), {"k": 2}), ((), {"k": 1, "jitter": 0.3})),
            "renumbered": (((), {"table": (1, 0, 1, 0)}),), "loads": (((), {"experts": 4}),),
        }.items()
    },
    "std.moe.route.expert_choice": (Row(attrs={"k": 1}, selects=True),),
    "std.moe.route.balanced_bias": (Row(below={"load": 9}),),
    **{
        f"std.moe.experts.{name}": (Row(attrs=attrs, shapes=ROUTED, below={"routes.expert": 6, "inverse": 2}, scales=SOME),)
        for name, attrs in {"dispatch": {"experts": 4}, "combine": {}}.items()
    },
    "std.moe.experts.gated": (
        Row(shapes=ROUTED, below={"routes.expert": 6}, scales=SOME),
        Row(("gate_up_bias", "down_bias"), {"interleaved": True, "limit": 2.0, "offset": 1.0}, ROUTED, {"routes.expert": 6}, SOME),
    ),
    "std.moe.experts.plain": (
        Row(shapes=ROUTED, below={"routes.expert": 6}, scales=SOME),
        Row(("up_bias", "down_bias"), {}, ROUTED, {"routes.expert": 6}, SOME),
    ),
    **{
        f"std.moe.losses.{name}": (
            Row(attrs=attrs, shapes=ROUTED, below={"routes.expert": 4, "expert": 4, "load": 9}, scales=SOME),
        )
        for name, attrs in {"balance": {}, "balance_of": {}, "null_balance": {"experts": 3}, "routing_contrastive": {}}.items()
    },
    "std.moe.across.without_padding": (Row(attrs={"experts": 4}, below={"routes.expert": 6}),),
    "std.moe.across.balance_part": tuple(Row(given, below={"load": 9, "tokens": 9}, scales=SOME) for given in ((), ("mask",))),
    "std.moe.across.checked_loads": (Row(attrs={"k": 2}, below={"load": 1, "tokens": 1}),),
    "std.moe.across.accumulated": (Row(below={"so_far.load": 9, "so_far.steps": 9, "load": 9, "step": 1}),),
    "std.moe.lora.low_rank": (Row(shapes={**ROUTED, "I": const(6), "R": const(2)}, below={"routes.expert": 6}, scales=SOME),),
    "std.moe.lora.standardized_scores": (Row(scales=SOME),),
    "std.moe.centroids.distances": (Row(),),
    "std.moe.centroids.centroid_choice": tuple(Row(attrs={"k": 2, "farthest": f}, selects=True) for f in (False, True)),
    "std.moe.centroids.k_means": (Row(attrs={"steps": 3}, scales=SOME, selects=True),),
    "std.moe.sinkhorn.sinkhorn_choice": tuple(
        Row(attrs={"k": 2, "score": score}, scales=SOME, selects=True) for score in ("sigmoid", "softmax")
    ),
    "std.moe.prototypes.prototype_scores": (Row(),),
    "std.moe.prototypes.two_step": (Row(attrs={"k": 2}, selects=True),),
    "std.moe.prototypes.gated_pairs": (
        Row(shapes={"P": T, "F": const(3)}, below={"token": "N", "expert": 6}, scales=SOME),
    ),
    "std.token.size_bias": (Row(below=MAP),),
    "std.token.size_mask": (Row(below=MAP),),
    **{
        f"std.vision.{name}_matrix": tuple(Row(attrs={"source": a, "target": b}) for a, b in ((7, 3), (3, 7), (1, 4), (65, 130)))
        for name in ("bicubic", "bilinear", "pool")
    },
}  # fmt: skip


def shipped() -> list[str]:
    """Every ``op`` that a file of std declares, by its qualified name; those of 8-bit numbers have rows of their own in
    ``tests/backends/test_quantized.py``."""
    found = []
    for path in sorted(p for p in (SPECS / "std").rglob("*.tess") if p.stem != "quantized"):
        module = ".".join(path.relative_to(SPECS).with_suffix("").parts)
        found += [f"{module}.{name}" for name in re.findall(r"^op (\w+)", path.read_text("utf-8"), re.MULTILINE)]
    return found


def call(name: str, row: Row, dtype: str) -> Graph:
    """A graph that is one call, with its operands as inputs."""
    op = resolve(name)
    assert isinstance(op, Composite)
    b = Builder(Graph("call"))
    operands: list[Value | None] = []
    for leaf, pattern, optional in op.signature.leaves():
        assert isinstance(pattern, Pattern)
        if optional and leaf not in row.given:
            operands.append(None)
            continue
        shape: list[Dim] = []
        for dim in pattern.shape:
            shape += [dimension(d, row) for d in ([dim] if isinstance(dim, Dim) else map(sym, LEAD))]
        element = dtype if pattern.dtype in ("float", "num", "any") else "i64" if pattern.dtype == "int" else str(pattern.dtype)
        operands.append(b.input(leaf.replace(".", "_"), TensorType.of(element, shape)))
    for i, value in enumerate(b.multi(op, *operands, **row.attrs)):
        b.graph.add_output(value, f"y{i}")
    return b.graph


def dimension(dim: Dim, row: Row) -> Dim:
    return dim.subs({name: row.shapes.get(name, const(FIXED[name]) if name in FIXED else sym(name)) for name in dim.symbols})


def operands(graph: Graph, row: Row, sizes: dict[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    below = {name.replace(".", "_"): bound for name, bound in row.below.items()}
    made = {}
    for value in graph.inputs:
        shape = [d.evaluate(sizes) for d in value.type.shape]
        made[value.name] = array(value.name, shape, value.type.dtype, below.get(value.name), sizes, rng)
    return made


def array(name: str, shape: list[int], dtype: DType, below: Any, sizes: dict[str, int], rng: Any) -> np.ndarray:
    if dtype == boolean:
        return rng.random(shape) < 0.7
    if name == "map_position" or (name == "index" and below == "T"):  # ascending places, each once
        most = sizes["N" if name == "map_position" else str(below)]
        rows = [np.sort(rng.permutation(most)[: shape[-1]]) for _ in range(int(np.prod(shape[:-1])))]
        return np.array(rows, np.int64).reshape(shape)
    if dtype == i64 or (dtype.kind == "int" and below is not None):
        return rng.integers(0, sizes.get(below, below) if isinstance(below, str) else below, shape).astype(dtype.numpy)
    if name == "map_size":
        return rng.integers(0, 4, shape).astype(np.float32)
    drawn = rng.uniform(0.5, 2.0, shape) if name in ("running_var", "weight") else rng.standard_normal(shape)
    return drawn.astype(dtype.numpy)


# Backends -------------------------------------------------------------------------------------------------------------

# PyTorch is called below the check that a free size is at least 1: an op of no elements has an answer.
Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


def through_torch(graph: Graph) -> Run:
    module = build(graph)
    return lambda feed: [to_numpy(y) for y in module.forward(*map(to_torch, feed.values())).values()]


def through_bodies(graph: Graph) -> Run:
    module = build(graph, claims=False)
    return lambda feed: [to_numpy(y) for y in module.forward(*map(to_torch, feed.values())).values()]


def through_triton(graph: Graph) -> Run:
    module = build(graph, claims=claims())
    assert ("fused." in module.source) == any(launched(node) for node in graph.nodes())
    return lambda feed: [to_numpy(y) for y in module.forward(*map(to_torch, feed.values())).values()]


def through_onnx(graph: Graph) -> Run:
    session = Session(artifact(graph))
    return lambda feed: list(session(feed).values())


def through_mlir(graph: Graph) -> Run:
    pytest.importorskip("torch_mlir", reason="torch-mlir (extra `mlir`) is not installed")
    refused = plan().refused(graph)
    if refused is not None:
        pytest.skip(refused.message)
    text = mlir.build(graph)
    mlir.check(text)
    imported = load_mlir(text)
    module = build(imported.module, imported.weights)
    return lambda feed: [to_numpy(y) for y in module.forward(*map(to_torch, feed.values())).values()]


BACKENDS = {"torch": through_torch, "bodies": through_bodies, "onnx": through_onnx, "mlir": through_mlir, "triton": through_triton}


def cases() -> Iterator[Any]:
    for name in shipped():
        for number, row in enumerate(ROWS.get(name, (Row(),))):
            for backend in BACKENDS:
                for dtype in FLOATS:
                    if dtype != "f32" and (backend == "mlir" or row.selects):
                        continue
                    if backend == "triton" and (name not in KERNELS or dtype == "f64"):
                        continue
                    case = f"{name.removeprefix('std.')}-{number}-{backend}-{dtype}"
                    sampled = zlib.crc32(case.encode()) % 8 == 0
                    quick = backend in ("torch", "onnx") and (dtype == "f32" or sampled)
                    yield pytest.param(
                        name, row, backend, dtype, id=case, marks=() if quick else (pytest.mark.extended,)
                    )


@pytest.mark.parametrize(("name", "row", "backend", "dtype"), list(cases()))
def test_composite(name: str, row: Row, backend: str, dtype: str, request: pytest.FixtureRequest) -> None:
    graph = call(name, row, dtype)
    if backend == "onnx" and not runnable(graph):
        pytest.skip("ONNX Runtime has no kernels for this dtype")
    run = BACKENDS[backend](graph)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for scale in row.scales:
        if scale == "zero" and backend == "onnx":
            continue
        sizes = {symbol: SCALES[scale][symbol] for symbol in graph.symbols()}
        feed = operands(graph, row, {**SCALES[scale], **sizes}, rng)
        wanted = evaluate_graph(graph, feed, sizes)
        found = run(feed)
        repro = f"{scale}: {sizes}\nreproduce: python -m pytest '{request.node.nodeid}'"
        assert len(found) == len(wanted), repro
        for output, (_, value) in zip(found, wanted.items(), strict=True):
            assert_same(output, value, repro, TOLERANCE)


def test_every_row_is_of_a_composite_that_is_shipped() -> None:
    assert set(ROWS) <= set(shipped())
