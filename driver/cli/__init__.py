"""The command line. ``main`` turns every outcome into an exit code; the commands are in the modules beside this one.

Exit codes: 0 done, 1 the user's input is wrong (one diagnostic on stderr), 2 the command line is wrong, 70 a bug in Tessera,
130 interrupted, 141 the reader of a pipe went away.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from ...ir.diagnostics import Diagnostic

_COMMANDS = {
    "check": "sources", "lint": "sources", "fmt": "sources", "show": "show", "compile": "build", "run": "run", "explain": "explain",
    "view": "view", "optimize": "optimize", "bench": "bench", "generate": "generate", "serve": "serve", "lsp": "lsp",
    "tokenizer": "tokenizer", "ops": "lists", "passes": "lists", "specs": "lists", "help": "lists",
}  # fmt: skip


# What the system refuses is no bug of ours: no space, over quota, a broken disk.
_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Commands(click.Group):
    """Commands by name, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        name = f"{cmd_name}_" if cmd_name == "help" else cmd_name
        command: click.Command = getattr(import_module(f"{__name__}.{module}"), name)
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        # Where --help and --version print.
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError:
            _discard_output()
            raise click.exceptions.Exit(141) from None

    def invoke(self, ctx: click.Context) -> Any:
        # click itself would turn this into exit code 1, which says that the user made a mistake.
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            _discard_output()
            return 141

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from ...ir.diagnostics import did_you_mean

            hint = did_you_mean(args[0], _COMMANDS)
            raise click.UsageError(f"no such command `{args[0]}`" + (f"; {hint}" if hint else ""), ctx)
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"tessera {version('tessera')}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`tessera help E0302` explains an error. `tessera COMMAND --help` shows a command's options.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """A language and a compiler for the token level of transformers.

    FILE is a path to a .tess file, or the name of a shipped spec (`zoo/vit`) or of a shipped model (`vit_s16`); where a model
    is meant, also an .onnx file, a Hugging Face folder of a family in the zoo, or torch MLIR text (.mlir).
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    _open_streams()
    previous = _terminate_cleanly()
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_output()
        return 141
    except OSError as error:
        _discard_output()
        return _report(_unwritable(error), as_json=False)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run(argv: Sequence[str] | None) -> int:
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(args=args, prog_name="tessera", standalone_mode=False, obj=args)
        # click gives back the code of an early exit, else what the command returned: None.
        return code if isinstance(code, int) else 0
    except Diagnostic as error:
        return _report(error, "--json" in args)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except MemoryError:
        print("error: out of memory", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno not in _SYSTEM or error.filename is not None:
            return _bug(error)
        raise
    except Exception as error:
        return _bug(error)


def _open_streams() -> None:
    """A process may be started with its streams closed; files that it opens must not take their places."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            free = os.open(os.devnull, os.O_RDWR)
            if free != number:
                os.dup2(free, number)
                os.close(free)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _discard_output() -> None:
    """Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unwritable(error: OSError) -> Diagnostic:
    return Diagnostic("E0010", f"cannot write: {error.strerror}")


def _report(error: Diagnostic, as_json: bool) -> int:
    from ...ir.diagnostics import by_place
    from .common import diagnostic_json, paint, print_json

    errors = by_place([error, *error.others], error.span.file if error.span else "")
    if as_json:
        several = {"errors": [diagnostic_json(e) for e in errors]} if len(errors) > 1 else {}
        print_json({"error": diagnostic_json(error), **several})
    for one in errors:
        print(paint(one.render()), file=sys.stderr)
    return 1


def _bug(error: Exception) -> int:
    if os.environ.get("TESSERA_DEBUG"):
        import traceback

        traceback.print_exception(error)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else ""
    reason = (str(error).strip() or "no message").splitlines()[0][:300]
    print(
        f"internal error: {type(error).__name__}: {reason}{where}\n"
        "  This is a bug in Tessera, not a mistake of yours. Please report it with the command that you ran.\n"
        "  help: set TESSERA_DEBUG=1 to see the traceback",
        file=sys.stderr,
    )
    return 70


def _terminate_cleanly() -> dict[int, Any]:
    """Let SIGTERM, and SIGHUP of a terminal that is closed, unwind like an exception, so that files written aside are removed.
    Returns the handlers to restore."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    previous: dict[int, Any] = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Under `nohup` it stays ignored.
        if number is None or signal.getsignal(number) is signal.SIG_IGN:
            continue
        try:
            previous[number] = signal.signal(number, stop)
        except ValueError:  # not in the main thread
            break
    return previous
