"""``lsp``: the language server that editors start."""

from __future__ import annotations

import click

from ...ir.diagnostics import Diagnostic


@click.command()
@click.option("--stdio", is_flag=True, help="Speak over stdin and stdout, which it does in any case.")
def lsp(stdio: bool) -> None:
    """Speak the Language Server Protocol over stdin and stdout.

    Editors start it: diagnostics, hover, completion, shapes between the lines. It needs the extra `lsp`.
    """
    from importlib.util import find_spec

    if find_spec("pygls") is None:
        raise Diagnostic(
            "E0015", "the language server needs pygls, which is not installed", help="pip install 'tessera[lsp]'"
        )
    from ..editor.server import serve

    serve()
