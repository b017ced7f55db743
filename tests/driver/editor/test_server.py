"""A session with the server as an editor has it: another process, over stdin and stdout."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import pytest

from tessera.driver.cli import main

lsp: Any = pytest.importorskip("lsprotocol.types", reason="the extra lsp is not installed")
client_module: Any = pytest.importorskip("pygls.lsp.client")

TEXT = """\
# 😀 an emoji counts two
use std.nn (linear)

model m(x: float[B, 4]) -> float[B, 3] {
    y = lineer(x, out=3)  # 😀
    return y
}
"""


class Session:
    """A client and one open file."""

    def __init__(self, client: Any, uri: str) -> None:
        self.client = client
        self.file = lsp.TextDocumentIdentifier(uri)
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.version = 1

    def open(self, text: str) -> None:
        item = lsp.TextDocumentItem(self.file.uri, "tess", self.version, text)
        self.client.text_document_did_open(lsp.DidOpenTextDocumentParams(item))

    def type(self, line: int, start: int, end: int, text: str) -> None:
        """Replace some columns of a line."""
        self.change(lsp.Range(lsp.Position(line, start), lsp.Position(line, end)), text)

    def delete(self, line: int) -> None:
        """Take a line out."""
        self.change(lsp.Range(lsp.Position(line, 0), lsp.Position(line + 1, 0)), "")

    def change(self, where: Any, text: str) -> None:
        self.version += 1
        change = lsp.TextDocumentContentChangePartial(range=where, text=text)
        file = lsp.VersionedTextDocumentIdentifier(version=self.version, uri=self.file.uri)
        self.client.text_document_did_change(lsp.DidChangeTextDocumentParams(file, [change]))

    async def diagnostics(self) -> list[Any]:
        params = await asyncio.wait_for(self.told.get(), 60)
        assert params.uri == self.file.uri
        return list(params.diagnostics)


def converse(uri: str, talk: Callable[[Session], Awaitable[None]], encodings: list[str] | None = None) -> Any:
    """Start a server, talk to it, and stop it; the server's capabilities."""

    async def run() -> Any:
        client = client_module.LanguageClient("test", "1")
        session = Session(client, uri)

        @client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def told(params: Any) -> None:
            session.told.put_nowait(params)

        await client.start_io(sys.executable, "-m", "tessera", "lsp", "--stdio")
        general = lsp.GeneralClientCapabilities(position_encodings=encodings)
        capabilities = lsp.ClientCapabilities(general=general)
        answer = await client.initialize_async(lsp.InitializeParams(capabilities=capabilities))
        client.initialized(lsp.InitializedParams())
        await talk(session)
        await client.shutdown_async(None)
        client.exit(None)
        await client.stop()
        return answer.capabilities

    return asyncio.run(asyncio.wait_for(run(), 240))


def test_a_session(tmp_path: Path) -> None:
    async def talk(s: Session) -> None:
        s.open(TEXT)
        (wrong,) = await s.diagnostics()
        assert (wrong.code, wrong.range.start, wrong.range.end) == ("E0201", lsp.Position(4, 8), lsp.Position(4, 14))
        assert "did you mean `linear`?" in wrong.message
        here = lsp.Range(wrong.range.start, wrong.range.start)
        (action,) = await s.client.text_document_code_action_async(
            lsp.CodeActionParams(s.file, here, lsp.CodeActionContext([wrong]))
        )
        (edit,) = action.edit.changes[s.file.uri]
        assert (edit.new_text, edit.range) == ("linear", wrong.range)

        s.type(4, 8, 14, "linear")
        found = await s.client.text_document_hover_async(lsp.HoverParams(s.file, lsp.Position(4, 9)))
        assert "layer linear(" in found.contents.value
        assert "here `f32[B, 3]`" in found.contents.value
        assert await s.diagnostics() == []
        s.type(4, 0, 0, "    w = x\n")
        assert [(d.code, d.severity) for d in await s.diagnostics()] == [("W0103", lsp.DiagnosticSeverity.Warning)]
        s.type(4, 4, 5, "_w")
        assert await s.diagnostics() == []
        s.delete(4)
        assert await s.diagnostics() == []

        whole = lsp.Range(lsp.Position(0, 0), lsp.Position(9, 0))
        shapes = await s.client.text_document_inlay_hint_async(lsp.InlayHintParams(s.file, whole))
        assert [(h.position.line, h.label) for h in shapes] == [(4, "f32[B, 3]"), (5, "f32[B, 3]")]
        home = await s.client.text_document_definition_async(lsp.DefinitionParams(s.file, lsp.Position(4, 9)))
        assert home.uri.endswith("specs/std/nn.tess")
        uses = await s.client.text_document_references_async(
            lsp.ReferenceParams(lsp.ReferenceContext(True), s.file, lsp.Position(4, 4))
        )
        assert [u.range.start for u in uses] == [lsp.Position(4, 4), lsp.Position(5, 11)]
        renamed = await s.client.text_document_rename_async(lsp.RenameParams(s.file, lsp.Position(4, 4), "z"))
        assert [e.new_text for e in renamed.changes[s.file.uri]] == ["z", "z"]
        with pytest.raises(Exception, match="shipped"):
            await s.client.text_document_rename_async(lsp.RenameParams(s.file, lsp.Position(4, 9), "z"))
        outline = await s.client.text_document_document_symbol_async(lsp.DocumentSymbolParams(s.file))
        assert [o.name for o in outline] == ["m"]
        colours = await s.client.text_document_semantic_tokens_full_async(lsp.SemanticTokensParams(s.file))
        # The comment with the emoji is as long as an editor counts.
        assert list(colours.data[:5]) == [0, 0, len(TEXT.splitlines()[0]) + 1, 11, 0]

        s.type(5, 11, 12, "y + lin")
        offered = await s.client.text_document_completion_async(lsp.CompletionParams(s.file, lsp.Position(5, 18)))
        linear = next(i for i in offered if i.label == "linear")
        told = await s.client.completion_item_resolve_async(linear)
        assert "torch.nn.Linear" in told.documentation.value
        s.type(5, 15, 18, "linear(x, ")
        help_ = await s.client.text_document_signature_help_async(lsp.SignatureHelpParams(s.file, lsp.Position(5, 25)))
        assert (help_.signatures[0].label.startswith("layer linear("), help_.active_parameter) == (True, 1)
        # What was typed before may have been looked at as well.
        while not (await s.diagnostics())[0].code.startswith("E01"):
            pass
        s.type(5, 4, 25, "return  y")
        options = lsp.FormattingOptions(tab_size=4, insert_spaces=True)
        (edit,) = await s.client.text_document_formatting_async(lsp.DocumentFormattingParams(s.file, options))
        assert edit.new_text == "    return y\n"

    capabilities = converse((tmp_path / "m.tess").as_uri(), talk)
    assert capabilities.position_encoding == "utf-16"


def test_other_encodings_and_files_beside(tmp_path: Path) -> None:
    """A client that counts in bytes; and a change of a file that the open one uses."""
    part = tmp_path / "part.tess"
    part.write_text("fn twice(x: float[B]) -> float[B] {\n    return x * 2\n}\n", encoding="utf-8")

    async def talk(s: Session) -> None:
        s.open('use "part.tess" (twice)\nmodel m(x: float[B]) -> float[B] {  # é😀\n    return twice(x)\n}\n')
        assert await s.diagnostics() == []
        colours = await s.client.text_document_semantic_tokens_full_async(lsp.SemanticTokensParams(s.file))
        rows = [colours.data[i : i + 5] for i in range(0, len(colours.data), 5)]
        assert [row[2] for row in rows if row[3] == 11] == [len("# é😀".encode())]
        part.write_text("fn thrice(x: float[B]) -> float[B] {\n    return x * 3\n}\n", encoding="utf-8")
        saved = lsp.DidSaveTextDocumentParams(lsp.TextDocumentIdentifier(part.as_uri()))
        s.client.text_document_did_save(saved)
        (wrong,) = await s.diagnostics()
        assert "declares no `twice`" in wrong.message

    capabilities = converse((tmp_path / "m.tess").as_uri(), talk, ["utf-8", "utf-16"])
    assert capabilities.position_encoding == "utf-8"


def test_without_pygls_there_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["lsp"]) == 1
    err = capsys.readouterr().err
    assert "E0015" in err
    assert "pip install 'tessera[lsp]'" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str) -> None:
    from click.shell_completion import ShellComplete, get_completion_class

    from tessera.driver.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    assert "_TESSERA_COMPLETE" in kind(cli, {}, "tessera", "_TESSERA_COMPLETE").source()
    complete = ShellComplete(cli, {}, "tessera", "_TESSERA_COMPLETE")
    assert "compile" in [item.value for item in complete.get_completions([], "com")]
    assert "--target" in [item.value for item in complete.get_completions(["compile"], "--ta")]
    assert isinstance(cli, click.Group)
