"""Tokenizers as syntax; reading it gives an equal tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ....ir.tokenizer import Tokenizer
from ....ir.tokenizer_parts import ADDED, FROM, MEASURE, REPEATED, STAGES, TRAIN, Opt, is_default
from ..syntax import ast
from .fmt import format_file
from .static import literal


def print_tokenizer(tokenizer: Tokenizer) -> str:
    """The tokenizer as Tessera source."""
    return format_file(ast.File("", [], [tokenizer_declaration(tokenizer)]))


def tokenizer_declaration(tokenizer: Tokenizer) -> ast.Tokenizer:
    """A tokenizer as a declaration, stage by stage in the order in which a text passes them."""
    stages: list[Any] = []
    for token in tokenizer.added:
        flags = {opt.name: getattr(token, opt.name) for opt in ADDED.options}
        flags["normalized"] = None if token.normalized is not token.special else token.normalized
        word = "special" if token.special else "inject"
        stages.append(ast.StageToken(word, token.text, token.id, _args(ADDED.options, flags.items())))
    for stage in STAGES:
        found = getattr(tokenizer, stage)
        parts = found if stage in REPEATED else () if found is None else (found,)
        stages += [ast.StagePart(stage, p.name, _args(STAGES[stage][p.name].options, p.options)) for p in parts]
    if tokenizer.family:
        stages.append(ast.StageList("family", [literal(size) for size in tokenizer.family]))
    if tokenizer.training is not None:
        training = tokenizer.training
        stages.append(ast.StageFiles("train", training.corpus, _args(TRAIN.options, training.options)))
    if tokenizer.source is not None:
        options = [("sha256", tokenizer.source.sha256), ("first", tokenizer.source.first)]
        stages.append(ast.StageFiles("from", tokenizer.source.path, _args(FROM.options, options)))
    if tokenizer.measured is not None:
        options = [("analyser", tokenizer.measured.analyser), ("language", tokenizer.measured.language)]
        stages.append(ast.StageFiles("measure", tokenizer.measured.corpus, _args(MEASURE.options, options)))
    for gate in tokenizer.gates:
        stages.append(ast.RequireStmt(ast.Binary(gate.op, ast.Name(gate.metric), literal(gate.bound)), gate.message))
    return ast.Tokenizer(tokenizer.name, stages, tokenizer.doc or None)


def _args(options: Iterable[Opt], values: Iterable[tuple[str, Any]]) -> list[ast.Arg]:
    """The options that are not what they are without being written."""
    by_name = {opt.name: opt for opt in options}
    return [
        ast.Arg(name, ast.Name(value) if by_name[name].words else literal(value))
        for name, value in values
        if not is_default(by_name[name], value)
    ]
