"""Elaborating a ``tokenizer``: its clauses as stages, and what the file that it names says of those it leaves out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Note, Span, did_you_mean, several
from ....ir.dims.dim import Dim
from ....ir.notation import show_value
from ....ir.tokenizer import Added, Gate, Measuring, Part, TableFile, Tokenizer, Training
from ....ir.tokenizer_parts import (
    ADDED,
    FROM,
    MEASURE,
    METRICS,
    OF_WORDS,
    REPEATED,
    SERIES,
    STAGES,
    TRAIN,
    part,
    shown,
    values,
)
from ....runtime.tokenizers.analysers import TABLE, check_analyser
from ....runtime.tokenizers.engine import check_hash, folder_of
from ....runtime.tokenizers.files import open_tables, read_json
from ....runtime.tokenizers.pieces import SUFFIX as PIECES
from ....runtime.tokenizers.pieces import is_pieces, read_pieces
from ....runtime.tokenizers.ranks import SUFFIX, ranked
from ....runtime.tokenizers.training import check_training
from ..syntax import ast
from .differing import differences_of
from .library import LOCAL, Declared
from .options import options, places

if TYPE_CHECKING:
    from .elaborate import Elaborator


_LONGEST_SERIES = 100_000
# A static parameter within a path.
_BRACES = re.compile(r"\{(\w+)\}")
# Models of which fewer tokens are not the first of more.
_NOT_NESTED = {"unigram": "fewer pieces have other scores", "longest": "of fewer entries too, every letter is one"}


def elaborate_tokenizer(
    elaborator: Elaborator, declared: Declared, params: Mapping[str, Any] | None = None, *, tables: bool = True
) -> Tokenizer:
    """The tokenizer that a declaration describes.

    Args:
        params: values of its static parameters; others are what they are by default.
        tables: whether it is compared with the file of its tables, which says what the declaration leaves out.

    Raises:
        Diagnostic: E1001, E1002 for a stage, E1005 for tokens, E0204 for what stands there twice, E0005 for a file outside of the
            project, E0001, E1003, E1004 for the file, E1006 without a model, E1010 for a training that has no size.
    """
    node = declared.node
    assert isinstance(node, ast.Tokenizer)
    return _Declaration(elaborator, declared, node, _statics(elaborator, declared, node, params or {})).tokenizer(tables)


def _statics(elaborator: Elaborator, declared: Declared, node: ast.Tokenizer, params: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the static parameters. Raises E0401 to E0403."""
    header = ast.Function("tokenizer", node.name, [], node.statics, [], [], name_span=node.name_span)
    signature = elaborator.signatures.function(declared.unit, header)
    bound = elaborator.given_statics(declared.unit, header, signature, params, {})
    return {name: value.value if isinstance(value, Dim) else value for name, value in bound.statics.items()}


class _Declaration:
    def __init__(self, elaborator: Elaborator, declared: Declared, node: ast.Tokenizer, statics: dict[str, Any]) -> None:
        self.elaborator = elaborator
        self.statics = statics
        self.unit = declared.unit
        self.node = node
        self.stages: dict[str, list[Part]] = {stage: [] for stage in STAGES}
        self.seen: dict[str, Span | None] = {}
        self.added: list[Added] = []
        self.texts: dict[str, Added] = {}
        self.ids: dict[int, Added] = {}
        self.family: tuple[int, ...] = ()
        self.source: TableFile | None = None
        self.training: Training | None = None
        self.measured: Measuring | None = None
        self.gates: list[Gate] = []

    def tokenizer(self, tables: bool) -> Tokenizer:
        node = self.node
        errors: list[Diagnostic] = []
        for clause in node.stages:
            try:
                self._clause(clause)
            except Diagnostic as error:
                errors.append(error)
        if errors:
            raise several(errors)
        normalize, split, process, decode = (tuple(self.stages[stage]) for stage in REPEATED)
        single = {stage: next(iter(parts), None) for stage, parts in self.stages.items()}
        model = single["model"]
        written = Tokenizer(
            node.name, model or Part(""), tuple(self.added), normalize, split, process, decode, single["truncate"],
            single["pad"], single["round"], self.family, self.source, self.training, self.measured, tuple(self.gates),
            doc=node.doc or "", path=self.unit.path, span=node.name_span,
        )  # fmt: skip
        unasked = next((gate for gate in self.gates if gate.metric in OF_WORDS), None)
        if unasked is not None and (self.measured is None or self.measured.analyser is None):
            raise Diagnostic(
                "E1015", f"nothing says who knows the words that `{unasked.metric}` is a share of", unasked.span,
                help='name an analyser: `measure "held/*.txt" (analyser="simplemma", language="tr")`',
            )  # fmt: skip
        if self.gates and self.measured is None and self.training is None:
            raise Diagnostic(
                "E1010", "nothing says which texts this is required of", self.gates[0].span,
                help='name the files: `measure "held/*.txt"`',
            )  # fmt: skip
        declared = written
        if written.source is not None and (tables or model is None):
            written = self._filled(written)
        elif model is None:
            raise Diagnostic(
                "E1006", f"the tokenizer `{node.name}` has no model", node.name_span,
                help='take all from a file, `from "tokenizer.json"`, or write `model bpe(vocab=8192)` and `train "corpus/*.txt"`',
            )  # fmt: skip
        self._check_family(written)
        if written.training is not None:
            # Training goes by what stands here; the file says what only it can.
            check_training(declared if model is not None else written)
        return written

    def _clause(self, clause: ast.StagePart | ast.StageToken | ast.StageFiles | ast.StageList | ast.RequireStmt) -> None:
        if isinstance(clause, ast.StagePart) and clause.stage == "inject":
            self._series(clause)
        elif isinstance(clause, ast.StagePart):
            if clause.stage not in REPEATED:
                self._once(clause.stage, clause.span)
            self._part(clause)
        elif isinstance(clause, ast.StageToken):
            self._token(clause)
        elif isinstance(clause, ast.StageFiles):
            self._once(clause.word, clause.span)
            self._files(clause)
        elif isinstance(clause, ast.StageList) and clause.word != "family":
            self._listed(clause)
        elif isinstance(clause, ast.StageList):
            self._once("family", clause.span)
            self.family = self._family(clause)
        else:
            self.gates.append(self._gate(clause))

    def _once(self, word: str, span: Span | None) -> None:
        """Raises E0204 for the second clause of a word."""
        if word in self.seen:
            raise Diagnostic(
                "E0204", f"a tokenizer has one `{word}`", span, notes=[Note("the first one is here", self.seen[word])],
                help="leave one of them",
            )  # fmt: skip
        self.seen[word] = span

    def _options(self, args: list[ast.Arg]) -> dict[str, Any]:
        found = options(args, self.elaborator, self.unit, self.statics)
        return {name: value.value if isinstance(value, Dim) else value for name, value in found.items()}

    def _part(self, clause: ast.StagePart) -> None:
        made = part(clause.stage, clause.name, self._options(clause.args), clause.span, places(clause.args))
        self.stages[clause.stage].append(made)

    def _token(self, clause: ast.StageToken) -> None:
        found = values(ADDED, f"{clause.word} {clause.text!r}", self._options(clause.args), clause.span, places(clause.args))
        self._add(clause.word, clause.text, clause.span, clause.id, **dict(found))

    def _listed(self, clause: ast.StageList) -> None:
        """Tokens of a list; a constant in it may be a list itself."""
        for expr in clause.items:
            value = self.elaborator.static(self.unit, expr, self.statics)
            for text in value if isinstance(value, tuple) else (value,):
                if not isinstance(text, str):
                    raise Diagnostic("E1005", f"a token is a text, and this is {show_value(text)}", expr.span)
                self._add(clause.word, text, expr.span)

    def _series(self, clause: ast.StagePart) -> None:
        """Numbers, or runs of a text. Raises E1001 for another word, E1005 where there are none of them, or too many."""
        if clause.name not in SERIES:
            raise Diagnostic(
                "E1001", f"there is no `inject {clause.name}`", clause.span,
                help=did_you_mean(clause.name, SERIES)
                or f"write a list in brackets, `inject [{clause.name}]`, or one of {', '.join(SERIES)}",
            )  # fmt: skip
        series = part("inject", clause.name, self._options(clause.args), clause.span, places(clause.args))
        first, last = series["first"], series["last"]
        if not first <= last < first + _LONGEST_SERIES:
            raise Diagnostic(
                "E1005", f"`inject {shown('inject', series)}` is no series of one to {_LONGEST_SERIES:,} tokens", clause.span,
                help="write the smaller one first",
            )  # fmt: skip
        for number in range(first, last + 1):
            self._add("inject", str(number) if series.name == "numbers" else series["text"] * number, clause.span)

    def _add(
        self, word: str, text: str, span: Span | None, id: int | None = None, *, normalized: bool | None = None, **flags: bool
    ) -> None:
        """Declare a token. Raises E1005 for an empty one, and for a text or an id that another one has."""
        if not text:
            raise Diagnostic("E1005", "a token is no empty text", span)
        twin = self.texts.get(text) or (None if id is None else self.ids.get(id))
        if twin is not None:
            raise Diagnostic(
                "E1005", f"{f'`{text}`' if twin.text == text else f'the id {id}'} is declared twice", span,
                notes=[Note("the first one is here", twin.span)], help="each token has one id, and each id one token",
            )  # fmt: skip
        special = word == "special"
        made = Added(text, id, special, normalized=not special if normalized is None else normalized, span=span, **flags)
        self.added.append(made)
        self.texts[text] = made
        if id is not None:
            self.ids[id] = made

    def _family(self, clause: ast.StageList) -> tuple[int, ...]:
        sizes = [self.elaborator.static(self.unit, size, self.statics) for size in clause.items]
        wrong = next((s for s, size in zip(clause.items, sizes, strict=True) if type(size) is not int or size < 1), None)
        if wrong is not None:
            raise Diagnostic("E1005", "the members of a family are sizes of vocabularies", wrong.span)
        for expr, size, before in zip(clause.items[1:], sizes[1:], sizes, strict=False):
            if size <= before:
                raise Diagnostic(
                    "E1005", f"the family is not nested: {size} stands behind {before}", expr.span,
                    help="write the sizes from the smallest to the largest: the ids of each are the first of the next",
                )  # fmt: skip
        return tuple(sizes)

    def _check_family(self, written: Tokenizer) -> None:
        """Raises E1005 where the ids of the smallest member are not the first of the others."""
        if not self.family:
            return
        least, largest, span = self.family[0], self.family[-1], self.seen["family"]
        why = _NOT_NESTED.get(written.model.name)
        if why is not None:
            raise Diagnostic(
                "E1005", f"a family of `model {written.model.name}` cannot be nested: {why}",
                written.model.span or span, [Note("the family is here", span)], "declare `model bpe`",
            )  # fmt: skip
        if written.round is not None:
            raise Diagnostic(
                "E1005", "the members of a family are as large as they are declared: nothing fills them up",
                written.round.span, [Note("the family is here", span)], "leave `round` out",
            )  # fmt: skip
        vocab = dict(written.model.options).get("vocab")
        if vocab not in (None, largest):
            raise Diagnostic(
                "E1005", f"`model {written.model.name}` has {vocab} tokens, and the largest of the family {largest}",
                written.model.span or span, [Note("the family is here", span)], f"write `{written.model.name}(vocab={largest})`",
            )  # fmt: skip
        for token in written.added:
            if not token.special or (token.id or 0) >= least:
                raise Diagnostic(
                    "E1005", f"the smallest member of the family has no token `{token.text}`", token.span or span,
                    [Note("the family is here", span)],
                    f"declare it `special`, with an id below {least}; what is injected stands behind all that is trained",
                )  # fmt: skip

    def _gate(self, clause: ast.RequireStmt) -> Gate:
        test = clause.condition
        if not (isinstance(test, ast.Binary) and test.op in ("<", "<=", ">", ">=") and isinstance(test.left, ast.Name)):
            raise Diagnostic(
                "E1002", "a tokenizer requires that a metric is below or above a number", test.span,
                help='write `require tokens_per_character < 0.3, "…"`',
            )  # fmt: skip
        metric = test.left.id
        if metric not in METRICS:
            raise Diagnostic(
                "E1002", f"there is no metric `{metric}`", test.left.span,
                help=did_you_mean(metric, METRICS) or f"the metrics are {', '.join(METRICS)}",
            )  # fmt: skip
        bound = self.elaborator.static(self.unit, test.right, self.statics)
        if isinstance(bound, bool) or not isinstance(bound, (int, float)):
            raise Diagnostic("E1002", f"`{metric}` is compared with a number, which this is not", test.right.span)
        return Gate(metric, test.op, float(bound), clause.message, clause.span)

    # Files ------------------------------------------------------------------------------------------------------------

    def _path(self, clause: ast.StageFiles) -> str:
        """The path of a clause. Raises E0005 where it leaves the project, E0403 for a place of no parameter."""
        clause = replace(clause, path=self._placed(clause))
        root = self.unit.root
        if root is None and self.unit.module != LOCAL:
            # What is shipped lies in a folder of its own.
            root = Path(self.unit.path).parent
        if root is None:
            raise Diagnostic("E0005", f'only files of a project can name files: `"{clause.path}"`', clause.span)
        target = Path(self.unit.path).resolve().parent / clause.path
        if not target.resolve().is_relative_to(root.resolve()):
            raise Diagnostic(
                "E0005", f'`"{clause.path}"` is outside of the project', clause.span,
                help="a program may only read files in the folder of its main file, or below it",
            )  # fmt: skip
        return clause.path

    def _placed(self, clause: ast.StageFiles) -> str:
        """The path with the values of static parameters where it has their names in braces."""
        if not self.node.statics:
            return clause.path
        unknown = next((name for name in _BRACES.findall(clause.path) if name not in self.statics), None)
        if unknown is not None:
            raise Diagnostic(
                "E0403", f"the tokenizer `{self.node.name}` has no static parameter `{unknown}`", clause.span,
                help=did_you_mean(unknown, self.statics) or f"its static parameters are {', '.join(self.statics)}",
            )  # fmt: skip
        return _BRACES.sub(lambda found: str(self.statics[found[1]]), clause.path)

    def _files(self, clause: ast.StageFiles) -> None:
        row = {"from": FROM, "train": TRAIN, "measure": MEASURE}[clause.word]
        found = values(row, clause.word, self._options(clause.args), clause.span, places(clause.args))
        path = self._path(clause)
        if clause.word == "from":
            self.source = TableFile(path, **dict(found), span=clause.span)
            if self.source.first and not path.endswith(PIECES):
                raise Diagnostic(
                    "E1002", f"`{path}` says itself which ids its tokens have", places(clause.args)["first"],
                    help="`first` is of a model of SentencePiece, whose ids a published model may have in another order",
                )  # fmt: skip
        elif clause.word == "train":
            self.training = Training(path, found, clause.span)
        else:
            self.measured = self._measuring(clause, path, dict(found))

    def _measuring(self, clause: ast.StageFiles, path: str, found: dict[str, Any]) -> Measuring:
        name, places_ = found["analyser"], places(clause.args)
        if name is None:
            return Measuring(path, **found, span=clause.span)
        where = places_["analyser"]
        try:
            check_analyser(name, found["language"])
        except Diagnostic as error:
            error.span = where
            raise
        if name.endswith(TABLE):
            self._path(replace(clause, path=name, span=where))
        return Measuring(path, **found, span=where)

    def _filled(self, written: Tokenizer) -> Tokenizer:
        """What a declaration says together with its file. Raises E1004 where they differ."""
        source = written.source
        assert source is not None
        place = folder_of(written) / source.path
        if written.training is not None and not place.is_file() and written.model.name:
            # It is still to be trained.
            return written
        data, digest = open_tables(place, source.path, source.span)
        check_hash(written, digest)
        found = _said(data, written)
        differences = list(differences_of(written, found))
        if differences:
            raise several(differences)
        model = found.model
        if written.round is not None and written.model.name:
            # What is filled up lies in the table too; the declaration says how much of it is trained.
            model = Part(model.name, tuple((n, written.model[n] if n == "vocab" else v) for n, v in model.options))
        return replace(
            written, model=model, added=found.added, normalize=found.normalize, split=found.split, process=found.process,
            decode=found.decode, truncate=found.truncate, pad=found.pad, size=found.size,
            source=replace(source, sha256=digest),
        )  # fmt: skip


def _said(data: bytes, written: Tokenizer) -> Tokenizer:
    """What the file of a declaration says, with what is declared where such a file says nothing. Raises E1003, E1004, E1005."""
    source = written.source
    assert source is not None
    if is_pieces(written):
        return read_pieces(data, written)
    if source.path.endswith(SUFFIX):
        data = ranked(data, written)
    return read_json(data, source.path, source.span)[0]
