"""The language server: the protocol's requests, answered by the modules beside this one.

What an edit makes stale is looked at piece by piece between requests, so that none waits for more than one piece.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path

from ...ir.diagnostics import Diagnostic, Note, Span
from . import actions, complete, describe, hints, hover, navigation
from .document import Document
from .text import Edit, Place, Range, lines_of, place_of, to_units

T = TypeVar("T")
# So long after the last key does the look at what it made stale begin; requests do not wait for it.
PAUSE = 0.15

_COMPLETIONS = {
    "function": lsp.CompletionItemKind.Function, "variable": lsp.CompletionItemKind.Variable,
    "type": lsp.CompletionItemKind.Struct, "keyword": lsp.CompletionItemKind.Keyword,
    "property": lsp.CompletionItemKind.Property, "module": lsp.CompletionItemKind.Module,
    "value": lsp.CompletionItemKind.Value, "constant": lsp.CompletionItemKind.Constant,
}  # fmt: skip
_SYMBOLS = {
    "fn": lsp.SymbolKind.Function, "op": lsp.SymbolKind.Function, "layer": lsp.SymbolKind.Class, "model": lsp.SymbolKind.Class,
    "flow": lsp.SymbolKind.Function, "record": lsp.SymbolKind.Struct, "const": lsp.SymbolKind.Constant,
    "rewrite": lsp.SymbolKind.Operator, "program": lsp.SymbolKind.Namespace, "compile": lsp.SymbolKind.Event,
    "pipeline": lsp.SymbolKind.Namespace, "tokenizer": lsp.SymbolKind.Namespace,
    "param": lsp.SymbolKind.Field, "state": lsp.SymbolKind.Field, "random": lsp.SymbolKind.Field, "tap": lsp.SymbolKind.Field,
    "field": lsp.SymbolKind.Field, "entry": lsp.SymbolKind.Method, "host": lsp.SymbolKind.Method,
}  # fmt: skip


class TessServer(LanguageServer):
    """The open texts by their URIs, and a task for each that looks at what its last edit made stale; ``offered`` is the last
    completion, by label."""

    def __init__(self) -> None:
        super().__init__("tessera", version("tessera"))
        self.documents: dict[str, Document] = {}
        self.offered: dict[str, complete.Item] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def encoding(self) -> str:
        found = self.workspace.position_encoding or "utf-16"
        return str(getattr(found, "value", found))

    # Places ---------------------------------------------------------------------------------------------------------

    def place(self, document: Document, position: lsp.Position) -> Place:
        return place_of(document.lines, position.line, position.character, self.encoding)

    def range(self, lines: list[str], place: Range) -> lsp.Range:
        """A range of a text of these lines, in the units of the protocol."""
        return lsp.Range(*(self._position(lines, p) for p in place))

    def _position(self, lines: list[str], place: Place) -> lsp.Position:
        line = lines[place[0]] if place[0] < len(lines) else ""
        return lsp.Position(place[0], to_units(line, place[1], self.encoding))

    def within(self, document: Document, place: lsp.Range) -> Range:
        return Range(self.place(document, place.start), self.place(document, place.end))

    def edit(self, document: Document, edit: Edit) -> lsp.TextEdit:
        return lsp.TextEdit(self.range(document.lines, edit.range), edit.text)

    def location(self, document: Document, found: navigation.Location) -> lsp.Location:
        lines = document.lines if found.path == document.path else _lines_on_disk(found.path)
        return lsp.Location(self.uri(found.path), self.range(lines, found.range))

    def uri(self, path: str) -> str:
        """The URI of a file: that under which it is open, if it is."""
        opened = next((uri for uri, d in self.documents.items() if d.path == path), None)
        return opened or from_fs_path(str(Path(path).resolve())) or path

    # Diagnostics ----------------------------------------------------------------------------------------------------

    def changed(self, uri: str, pause: float = PAUSE) -> None:
        """Look at a text when nothing is typed for a moment."""
        if uri in self.tasks:
            self.tasks[uri].cancel()
        self.tasks[uri] = asyncio.get_running_loop().create_task(self._look(uri, pause))

    async def _look(self, uri: str, pause: float) -> None:
        await asyncio.sleep(pause)
        document = self.documents[uri]
        for piece in document.stale():
            document.findings(piece)
            await asyncio.sleep(0)
        self.text_document_publish_diagnostics(
            lsp.PublishDiagnosticsParams(uri, [self._diagnostic(uri, document, e) for e in document.diagnostics()])
        )
        if getattr(self.client_capabilities.workspace, "inlay_hint", None):
            # What is known of a function may have come from a caller that has only been looked at now.
            self.workspace_inlay_hint_refresh(None)

    def _diagnostic(self, uri: str, document: Document, error: Diagnostic) -> lsp.Diagnostic:
        place = document.range_of(error.span) if error.span is not None else None
        text = error.message if not error.help else f"{error.message}\nhelp: {error.help}"
        related = [self._note(uri, document, note) for note in error.notes]
        warning = error.severity == "warning"
        return lsp.Diagnostic(
            self.range(document.lines, place or Range((0, 0), (0, 0))), text,
            lsp.DiagnosticSeverity.Warning if warning else lsp.DiagnosticSeverity.Error, error.code, source="tessera",
            related_information=[one for one in related if one is not None],
        )  # fmt: skip

    def _note(self, uri: str, document: Document, note: Note) -> lsp.DiagnosticRelatedInformation | None:
        span: Span | None = note.span
        if span is None:
            return None
        here = document.range_of(span)
        if here is not None:
            location = lsp.Location(uri, self.range(document.lines, here))
        elif Path(span.file).is_file():
            place = Range((span.line - 1, span.column - 1), (span.end_line - 1, span.end_column - 1))
            location = lsp.Location(self.uri(span.file), self.range(_lines_on_disk(span.file), place))
        else:
            return None
        return lsp.DiagnosticRelatedInformation(location, note.message)


def _lines_on_disk(path: str) -> list[str]:
    return lines_of(Path(path).read_text(encoding="utf-8", errors="replace"))


def _refusing(answer: Callable[..., T]) -> Callable[..., T]:
    """A refusal of ours is the request's error, with the text that a user reads."""

    @wraps(answer)
    def call(*args: Any) -> T:
        try:
            return answer(*args)
        except Diagnostic as error:
            raise JsonRpcInvalidParams(f"{error.message}{f'; {error.help}' if error.help else ''}") from None

    return call


def make() -> TessServer:
    """A server with all its answers."""
    server = TessServer()
    for register in (_texts, _reading, _moving, _writing, _showing):
        register(server)
    return server


def _texts(server: TessServer) -> None:
    @server.feature(lsp.INITIALIZED)
    def initialized(_: lsp.InitializedParams) -> None:
        # What the first completion would else wait for.
        describe.library()
        gc.collect()
        gc.freeze()

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    def did_open(params: lsp.DidOpenTextDocumentParams) -> None:
        uri = params.text_document.uri
        server.documents[uri] = Document(params.text_document.text, to_fs_path(uri) or uri)
        server.changed(uri, 0)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    def did_change(params: lsp.DidChangeTextDocumentParams) -> None:
        uri = params.text_document.uri
        server.documents[uri].edit(server.workspace.get_text_document(uri).source)
        server.changed(uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    def did_save(params: lsp.DidSaveTextDocumentParams) -> None:
        # Other texts may use the file that lies on the disk now.
        for uri, document in server.documents.items():
            if uri != params.text_document.uri:
                document.refresh()
                server.changed(uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def did_close(params: lsp.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        server.tasks.pop(uri).cancel()
        del server.documents[uri]
        server.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri, []))


def _reading(server: TessServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    def hover_(params: lsp.HoverParams) -> lsp.Hover | None:
        document = server.documents[params.text_document.uri]
        found = hover.hover(document, server.place(document, params.position))
        if found is None:
            return None
        text = lsp.MarkupContent(lsp.MarkupKind.Markdown, found.text)
        return lsp.Hover(text, server.range(document.lines, found.range))

    options = lsp.SignatureHelpOptions(["(", ","])

    @server.feature(lsp.TEXT_DOCUMENT_SIGNATURE_HELP, options)
    def signature_help(params: lsp.SignatureHelpParams) -> lsp.SignatureHelp | None:
        document = server.documents[params.text_document.uri]
        found = hover.signature_help(document, server.place(document, params.position))
        if found is None:
            return None
        doc = lsp.MarkupContent(lsp.MarkupKind.Markdown, found.doc)
        parameters = [lsp.ParameterInformation(name) for name in found.parameters]
        one = lsp.SignatureInformation(found.label, doc, parameters, found.active)
        return lsp.SignatureHelp([one], 0, found.active)


def _moving(server: TessServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
    def definition(params: lsp.DefinitionParams) -> lsp.Location | None:
        document = server.documents[params.text_document.uri]
        found = navigation.definition(document, server.place(document, params.position))
        return None if found is None else server.location(document, found)

    @server.feature(lsp.TEXT_DOCUMENT_REFERENCES)
    def references(params: lsp.ReferenceParams) -> list[lsp.Location]:
        document = server.documents[params.text_document.uri]
        found = navigation.references(document, server.place(document, params.position))
        return [server.location(document, one) for one in found]

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT)
    def highlight(params: lsp.DocumentHighlightParams) -> list[lsp.DocumentHighlight]:
        document = server.documents[params.text_document.uri]
        found = navigation.highlights(document, server.place(document, params.position))
        return [lsp.DocumentHighlight(server.range(document.lines, one)) for one in found]

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def symbols(params: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
        document = server.documents[params.text_document.uri]

        def shown(found: Iterable[navigation.Symbol]) -> list[lsp.DocumentSymbol]:
            return [
                lsp.DocumentSymbol(
                    s.name, _SYMBOLS[s.kind], server.range(document.lines, s.range),
                    server.range(document.lines, s.selection), detail=s.kind, children=shown(s.children),
                )
                for s in found
            ]  # fmt: skip

        return shown(navigation.symbols(document))


def _writing(server: TessServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions([".", "(", "[", " "], resolve_provider=True))
    def completion(params: lsp.CompletionParams) -> list[lsp.CompletionItem]:
        document = server.documents[params.text_document.uri]
        found = complete.complete(document, server.place(document, params.position))
        server.offered = {item.label: item for item in found}
        return [
            lsp.CompletionItem(
                item.label, kind=_COMPLETIONS[item.kind], detail=item.detail, insert_text=item.insert or None,
                additional_text_edits=[server.edit(document, edit) for edit in item.edits] or None,
                # Names in scope before the library's.
                sort_text=f"{1 if item.edits else 0}{number:05}",
            )
            for number, item in enumerate(found)
        ]  # fmt: skip

    @server.feature(lsp.COMPLETION_ITEM_RESOLVE)
    def resolve(item: lsp.CompletionItem) -> lsp.CompletionItem:
        offered = server.offered.get(item.label)
        text = complete.doc(offered) if offered is not None else ""
        item.documentation = lsp.MarkupContent(lsp.MarkupKind.Markdown, text) if text else None
        return item

    @server.feature(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
    @_refusing
    def prepare_rename(params: lsp.PrepareRenameParams) -> lsp.Range:
        document = server.documents[params.text_document.uri]
        return server.range(
            document.lines, navigation.can_rename(document, server.place(document, params.position)).range
        )

    @server.feature(lsp.TEXT_DOCUMENT_RENAME, lsp.RenameOptions(prepare_provider=True))
    @_refusing
    def rename(params: lsp.RenameParams) -> lsp.WorkspaceEdit:
        document = server.documents[params.text_document.uri]
        edits = navigation.rename(document, server.place(document, params.position), params.new_name)
        changes = {}
        for path, rows in edits.items():
            lines = document.lines if path == document.path else _lines_on_disk(path)
            changes[server.uri(path)] = [lsp.TextEdit(server.range(lines, e.range), e.text) for e in rows]
        return lsp.WorkspaceEdit(changes)

    @server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
    def formatting(params: lsp.DocumentFormattingParams) -> list[lsp.TextEdit]:
        document = server.documents[params.text_document.uri]
        return [server.edit(document, edit) for edit in actions.formatted(document)]

    @server.feature(lsp.TEXT_DOCUMENT_CODE_ACTION, lsp.CodeActionOptions([lsp.CodeActionKind.QuickFix]))
    def code_action(params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
        uri = params.text_document.uri
        document = server.documents[uri]
        return [
            lsp.CodeAction(
                one.title, lsp.CodeActionKind.QuickFix, [server._diagnostic(uri, document, one.diagnostic)],
                is_preferred=one.sure, edit=lsp.WorkspaceEdit({uri: [server.edit(document, e) for e in one.edits]}),
            )
            for one in actions.actions(document, server.within(document, params.range))
        ]  # fmt: skip


def _showing(server: TessServer) -> None:
    @server.feature(lsp.TEXT_DOCUMENT_INLAY_HINT)
    def inlay_hint(params: lsp.InlayHintParams) -> list[lsp.InlayHint]:
        document = server.documents[params.text_document.uri]
        found = hints.hints(document, server.within(document, params.range))
        return [
            lsp.InlayHint(server._position(document.lines, h.place), h.text, lsp.InlayHintKind.Type, padding_left=True)
            for h in found
        ]

    legend = lsp.SemanticTokensLegend(list(hints.KINDS_OF_WORDS), list(hints.MODIFIERS))

    @server.feature(lsp.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL, legend)
    def semantic_tokens(params: lsp.SemanticTokensParams) -> lsp.SemanticTokens:
        document = server.documents[params.text_document.uri]
        return lsp.SemanticTokens(hints.encoded(document, server.encoding))


def serve() -> None:
    """Speak the protocol over stdin and stdout until the client says that it is enough."""
    make().start_io()
