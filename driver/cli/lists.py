"""``ops``, ``passes``, ``specs`` and ``help``: what there is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ...ir.diagnostics import Diagnostic, did_you_mean
from .common import columns, first_sentence, json_option, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...passes.engine import Pass


search_option = click.option("--search", metavar="WORDS", help="Only what these words stand in: names, signatures, documentation.")


def _fits(words: str, *texts: str) -> bool:
    """Whether each of some words stands in one of the texts."""
    return all(any(word in text.lower() for text in texts) for word in words.lower().split())


def _declared_in_std() -> list[dict[str, str]]:
    """What the modules of std declare: name, module, head and documentation."""
    from ...frontends.source.elaborate.library import shared
    from ...frontends.source.syntax import ast
    from ..editor.describe import head, modules

    return [
        {"name": f"{module}.{name}", "family": module, "signature": head(declared.node), "doc": declared.node.doc or ""}
        for module in modules()
        if module.startswith("std.")
        for name, declared in shared().std(module).names.items()
        if shared().std(module).local(name) and not isinstance(declared.node, ast.Rewrite)
    ]


@click.command()
@click.argument("name", required=False)
@search_option
@json_option
def ops(name: str | None, search: str | None, as_json: bool) -> None:
    """List the core ops, or show one.

    What std declares has a dotted name, as in `std.nn.gelu`. --search looks through the functions of std as well.
    """
    from ...ir.notation import show_signature
    from ...ir.ops import OPS

    if name is None:
        rows = [
            {"name": o.name, "family": o.family, "signature": show_signature(o.signature), "doc": o.doc}
            for o in OPS.values()
        ]
        if search is not None:
            rows = [r for r in [*rows, *_declared_in_std()] if _fits(search, r["name"], r["signature"], r["doc"])]
        if as_json:
            print_json(rows)
            return
        if not rows:
            click.echo(f"no op has the words `{search}` in its name or its documentation")
        families: dict[str, list[dict[str, str]]] = {}
        for row in sorted(rows, key=lambda r: r["name"]):
            families.setdefault(row["family"], []).append(row)
        for family, members in families.items():
            click.echo(f"{family}")
            click.echo(columns([[m["name"], first_sentence(m["doc"])] for m in members], indent="  "))
        return
    declared = {} if name in OPS else {row["name"]: row for row in _declared_in_std()}
    if name in declared and not declared[name]["signature"].startswith("op "):
        info = declared[name]
    else:
        op = OPS.get(name) or _composite(name, OPS, declared)
        info = {"name": op.qualified, "family": op.family, "signature": show_signature(op.signature), "doc": op.doc}
    if as_json:
        print_json(info)
    else:
        click.echo(f"{info['signature']}\n\n{info['doc']}\n\nfamily: {info['family']}")


def _composite(name: str, core: Iterable[str], declared: Iterable[str]) -> Any:
    from ...ir.library import composite

    if "." in name:
        return composite(name)
    in_std = {dotted.rpartition(".")[2]: dotted for dotted in declared}
    if name in in_std:
        raise Diagnostic("E0013", f"there is no core op `{name}`", help=f"std declares it: `tessera ops {in_std[name]}`")
    known = [*core, *in_std]
    raise _unknown("op", name, known, "`tessera ops` lists them; composites have dotted names, as in `std.nn.gelu`")


@click.command()
@click.argument("name", required=False)
@click.option("--method", help="Show this method of a pass that has several, as in `tessera passes prune_tokens --method by_mass`.")
@json_option
def passes(name: str | None, method: str | None, as_json: bool) -> None:
    """List the passes, or show the options of one."""
    import inspect

    from ...ir.notation import show_value
    from ...passes.engine import find, registry
    from ...passes.options import options_of

    known = registry()
    if name is None:
        if as_json:
            print_json([{**_pass(p), "doc": p.summary()} for p in known.values()])
        else:
            click.echo(columns([[", ".join([n, *p.aliases]), p.contract, p.summary()] for n, p in known.items()]))
        return
    found = find(name)
    if method is not None:
        text = found.method_help(method)
        if not text:
            raise Diagnostic("E0702", f"the pass `{found.name}` has no option `method`")
        click.echo(text)
        return
    options = [{"name": o.name, "type": o.kind, "default": o.default, "doc": o.doc} for o in options_of(found).values()]
    if as_json:
        print_json({**_pass(found), "doc": inspect.getdoc(found), "options": options})
        return
    click.echo(f"{found.name} ({found.contract})\n\n{inspect.getdoc(found)}")
    if found.aliases:
        click.echo(f"\nalso called: {', '.join(found.aliases)}")
    if options:
        click.echo("\noptions")
        rows = [[o["name"], o["type"], f"= {show_value(o['default'])}", o["doc"]] for o in options]
        click.echo(columns(rows, indent="  "))
    choices = found.method_help(None)
    if choices:
        click.echo(f"\n{choices}")


def _pass(found: type[Pass]) -> dict[str, Any]:
    return {"name": found.name, "aliases": list(found.aliases), "contract": found.contract}


@click.command()
@click.argument("name", required=False)
@search_option
@json_option
def specs(name: str | None, search: str | None, as_json: bool) -> None:
    """List the shipped specs, or print one."""
    from ...specs import catalog

    known = catalog.names()
    if name is not None:
        path = name.replace(".", "/")
        found = next((n for n in (path, f"zoo/{path}", f"seeds/{path}") if n in known), None)
        if found is None:
            raise _unknown("spec", name, known, "`tessera specs` lists them")
        text = (catalog.FOLDER / found).with_suffix(".tess").read_text(encoding="utf-8")
        if as_json:
            print_json({**_spec(found), "source": text})
        else:
            click.echo(text, nl=False)
        return
    if search is not None:
        texts = {n: (catalog.FOLDER / n).with_suffix(".tess").read_text(encoding="utf-8").lower() for n in known}
        known = [n for n in known if _fits(search, texts[n], n)]
    listing = [_spec(n) for n in known]
    if as_json:
        print_json(listing)
        return
    if not listing:
        click.echo(f"no spec has the words `{search}` in it")
        return
    click.echo(columns([[s["name"], " ".join(s["models"]) or "-", first_sentence(s["doc"])] for s in listing]))
    seeds = [[s["name"], s["seed"]["kind"], s["seed"]["paper"], s["seed"]["measured"]] for s in listing if "seed" in s]
    if seeds:
        click.echo(f"\npublished systems\n{columns([['name', 'kind', 'paper', 'measured'], *seeds])}")


def _spec(name: str) -> dict[str, Any]:
    from ...specs import catalog

    found = catalog.seed(name)
    said = {"seed": asdict(found)} if found is not None else {}
    return {"name": name, "models": catalog.models_of(name), "doc": catalog.summary(name), **said}


@click.command("help")
@click.argument("code", required=False)
@json_option
def help_(code: str | None, as_json: bool) -> None:
    """Explain an error code, or list them all."""
    from ...ir.codes import all_codes

    table = all_codes()
    if code is None:
        if as_json:
            print_json({c: {"title": e.title, "text": e.text} for c, e in table.items()})
        else:
            click.echo(columns([[c, e.title] for c, e in table.items()]))
        return
    key = code.upper()
    if key not in table:
        raise _unknown("code", code, table, "`tessera help` lists the codes; `tessera --help` the commands")
    entry = table[key]
    if as_json:
        print_json({"code": key, "title": entry.title, "text": entry.text})
    else:
        click.echo(f"{key}: {entry.title}\n\n{_wrapped(entry.text)}")


def _wrapped(text: str) -> str:
    """Prose at a readable width; indented lines are examples and stay."""
    import textwrap
    from itertools import groupby

    parts: list[str] = []
    for example, lines in groupby(text.splitlines(), key=lambda line: line.startswith(" ")):
        rows = list(lines)
        parts += rows if example else [textwrap.fill(" ".join(rows), 100)]
    return "\n".join(parts)


def _unknown(kind: str, name: str, known: Any, help: str) -> Diagnostic:
    return Diagnostic("E0013", f"there is no {kind} `{name}`", help=did_you_mean(name, known) or help)
