"""What to tell the author when the parser stops: which mistake this is, and what to write instead.

``explain`` tries the rules of this module and of ``foreign.py`` in turn; the last resort is ``found X, expected Y``.
"""

from __future__ import annotations

from collections.abc import Callable

from ....ir.diagnostics import Diagnostic, did_you_mean
from .builder import AstBuilder
from .foreign import FOREIGN_RULES
from .lexer import END, MAX_NESTING, RESERVED
from .site import CLOSERS, DECLARATIONS, OPENERS, OPERAND_STARTS, STATEMENTS, Site, expected_words, found_words
from .tables import Row


def explain(builder: AstBuilder, rows: list[Row], at: int) -> Diagnostic:
    """The diagnostic for token ``at``, which the parser in the state ``rows`` cannot take."""
    site = Site(builder, rows, at)
    for rule in (_too_deep, *FOREIGN_RULES, *_RULES):
        found = rule(site)
        if found is not None:
            return found
    return site.error("E0101", f"found {found_words(site)}, expected {expected_words(site)}", _hint(site))


def _hint(site: Site) -> str | None:
    """Help for the last resort, where the place gives it away."""
    words = _statement_words(site)
    if site.kind == "COMMA" and "RPAR" in site.expected and words[:1] == ["return"]:
        return "several results need no brackets: `return x, y`"
    if site.kind == "COMMA" and "RPAR" in site.expected and "TRUE" not in site.expected:
        return "there are no tuples: write a list `[a, b]`, or several names `a, b = …`"
    if site.kind == "COMMA" and site.inside == "LBRACE" and "RETURN" in site.expected:
        return "one expression stands behind `=`; names are exchanged one by one: `t = a`, `a = b`, `b = t`"
    if site.kind == "COLON" and site.inside == "LPAR" and site.kind_at(-1) == "NAME":
        return f"an argument gets its name with `=`: `{site.text_at(-1)}=…`"
    if site.text in ("*", "**") and site.inside == "LPAR" and "TRUE" in site.expected:
        return "every argument is written out: `concat(a, b, axis=1)`"
    if site.kind == "LBRACE" and "TRUE" in site.expected:
        return "braces hold statements; a list is written `[a, b]`"
    arrow = "=>" in {text for text, kind in site.tokens.known.items() if kind in site.expected}
    if site.kind == "EQUAL" and arrow:
        return "before a pattern, a result gets its name so: `let values, indices = topk(x, k=k) in`"
    if site.kind == "EQUAL" and "BINARY" in site.expected:
        return "`=` gives a name to a value; two values are compared with `==`"
    if site.text == "->" and arrow:
        return "a pattern and its replacement are separated by `=>`"
    if site.text.startswith("//") or site.text == "/":
        return "a comment starts with `#`"
    if site.kind == "DOT" and site.kind_at(1) == "INT":
        return f"write `0.{site.text_at(1)}`"
    if site.kind == "ELSE":
        return "an `else` follows the `}` of its `if`"
    if site.kind == "COLON" and words[:1] == ["const"]:
        return "a constant takes no type: `const N = 12`"
    if site.kind == "LSQB" and words[:1] in (["param"], ["buffer"], ["state"]):
        return f"its type follows a colon: `{words[0]} {site.text_at(-1)}: float[…]`"
    if site.kind == "COLON" and site.inside == "LBRACE":
        return "only `param`, `buffer`, `state` and `random` take a type; otherwise write `name = expression`"
    if words[:1] == ["random"] and "EQUAL" in site.expected:
        return "a random input says how it is drawn: `random u: f32[B] = normal(0, 1)`"
    if site.kind != "LPAR" and site.expected == {"LPAR"} and len(words) > 1:
        return f"what it takes stands in parentheses: `{words[0]} {words[1]}(x: float[B, D]) -> float[B, D] {{ … }}`"
    if site.text == "->" and site.inside == "LBRACE":
        return "there are no functions without a name: declare a `fn`, and pass its name"
    if words[:1] == ["require"] and "COMMA" in site.expected:
        return 'a requirement has a message: `require r <= T // 2, "r is too large"`'
    if words[:1] == ["while"]:
        return "a loop names what it carries, and has a bound: `while i < n from (i, x) limit 64 { … }`"
    if words[:1] == ["fold"]:
        return "a loop names what it carries from step to step: `fold i in n from (x, y) { … }`"
    if words[:1] == ["cond"]:
        return "a choice names what it rebinds: `cond p from (x) { … } else { … }`"
    if words[:1] == ["use"]:
        return "list the names to use: `use std.nn (linear, mlp as ff)`"
    return None


def _statement_words(site: Site) -> list[str]:
    """The tokens since the latest keyword that starts a statement or a declaration."""
    for index in range(site.at - 1, max(-1, site.at - 200), -1):
        if site.tokens.texts[index] in (*STATEMENTS, *DECLARATIONS):
            return site.tokens.texts[index : site.at]
    return []


# Rules ---------------------------------------------------------------------------------------------------------------


def _too_deep(site: Site) -> Diagnostic | None:
    if site.at != site.tokens.too_deep:
        return None
    return site.error("E0118", f"brackets are nested more than {MAX_NESTING} deep", "give an inner part a name first")


def _scope(site: Site) -> Diagnostic | None:
    before = site.kind_at(-1)
    if before == "SCOPE" and site.kind in ("LPAR", "LSQB", "DOT", "SCOPE"):
        scope = site.text_at(-1)
        return site.error(
            "E0122",
            f"`{site.text}` cannot follow `{scope}` directly",
            f"put the call and its scope in parentheses: `(f(x) {scope})…`",
        )
    if before == "AS":
        return site.error(
            "E0122",
            f"found {found_words(site)} after `as`, expected a scope",
            "a scope is a dotted name: `f(x) as encoder.0`",
        )
    if site.kind == "SCOPE" and _statement_words(site)[:1] == ["use"]:
        return site.error(
            "E0122", "a file cannot be renamed by `use`", "list the names to use: `use std.nn (linear, mlp as ff)`"
        )
    if site.kind == "SCOPE":
        return site.error("E0122", f"there is no call before `{site.text}`", "write `f(x) as scope`")
    return None


def _result_type(site: Site) -> Diagnostic | None:
    arrow = site.tokens.known["->"]
    if arrow not in site.expected or site.text == "->":
        return None
    name = _statement_words(site)[1:2]
    return site.error(
        "E0114",
        f"`{name[0] if name else 'this'}` has no result type",
        "write it after the parameters: `fn f(x: float[B, D]) -> float[B, D] { … }`",
    )


def _brace(site: Site) -> Diagnostic | None:
    if "LBRACE" not in site.expected or site.kind in CLOSERS:
        return None
    if site.kind == "COLON":
        return site.error("E0115", "found `:`, expected `{`", "blocks stand in braces: `if c { … }`, not `if c: …`")
    if site.starts_line() or site.kind == END or site.text in STATEMENTS:
        return site.error("E0115", f"found {found_words(site)}, expected `{{`", "the block stands in braces: `{ … }`")
    return None


def _closing(site: Site) -> Diagnostic | None:
    if site.kind not in CLOSERS:
        return None
    if not site.open or (site.inside == "LBRACE" and site.kind != "RBRACE"):
        return site.error(
            "E0104", f"there is nothing for this `{site.text}` to close", "remove it, or open its bracket before it"
        )
    opener = site.open[-1]
    if site.tokens.kinds[opener] == CLOSERS[site.kind]:
        return None
    shown = site.tokens.texts[opener]
    if site.kind == "RBRACE":
        return _unclosed(site, opener, f"`{site.text}` comes first")
    return site.error(
        "E0104",
        f"`{shown}` cannot be closed by `{site.text}`",
        f"write `{_closer(site, opener)}`, or open the `{site.text}` before it",
        notes=[site.note("opened here", opener)],
    )


def _closer(site: Site, opener: int) -> str:
    kind = OPENERS[site.tokens.kinds[opener]]
    return next(text for text, known in site.tokens.known.items() if known == kind)


def _unclosed(site: Site, opener: int, reason: str) -> Diagnostic:
    shown, closer = site.tokens.texts[opener], _closer(site, opener)
    return site.error(
        "E0103", f"this `{shown}` is never closed", f"close it with `{closer}`", opener, [site.note(reason, site.at)]
    )


def _end(site: Site) -> Diagnostic | None:
    if site.kind != END or not site.open:
        return None
    return _unclosed(site, _culprit(site), "the file ends here")


def _culprit(site: Site) -> int:
    """Of the brackets open here, the one to blame: the brace whose `}` went to an outer one, as indentation tells."""
    stack: list[int] = []
    for index, kind in enumerate(site.tokens.kinds[: site.at]):
        if kind in OPENERS:
            stack.append(index)
        elif kind in CLOSERS and stack:
            start = stack.pop()
            if kind == "RBRACE" and site.starts_line(index) and site.indent(start) > site.tokens.columns[index]:
                return start
    return site.open[-1]


def _declaration_inside(site: Site) -> Diagnostic | None:
    if site.text not in DECLARATIONS or not site.open or site.kind_at(1) not in ("NAME", "EXACT", "APPROXIMATE"):
        return None
    opener = site.open[-1]
    if site.starts_line() and site.tokens.columns[site.at] <= site.indent(opener):
        return _unclosed(site, _culprit(site), "a declaration starts here")
    return site.error(
        "E0127",
        f"a `{site.text}` cannot stand inside another declaration",
        "move it out of the braces",
        notes=[site.note("this is still open", opener)],
    )


def _outside(site: Site) -> Diagnostic | None:
    if site.open or "CONST" not in site.expected:
        return None
    if site.kind == "USE":
        return site.error("E0127", "a `use` stands before all declarations", "move it to the top of the file")
    if site.kind == "NAME" and site.kind_at(1) == "EQUAL":
        return site.error(
            "E0116", "a statement stands outside of a declaration", f"did you mean `const {site.text} = …`?"
        )
    if site.text in STATEMENTS or site.kind_at(1) in ("EQUAL", "COMMA"):
        return site.error(
            "E0116", "a statement stands outside of a declaration", "put it into the braces of a `fn` or `layer`"
        )
    if site.kind == "NAME":
        starts = ", ".join(f"`{word}`" for word in DECLARATIONS[:-1])
        help = did_you_mean(site.text, DECLARATIONS) or f"a declaration starts with one of {starts}"
        return site.error("E0116", f"`{site.text}` starts no declaration", help)
    return None


def _type_missing(site: Site) -> Diagnostic | None:
    if "COLON" not in site.expected or "BINARY" in site.expected or site.kind_at(-1) != "NAME":
        return None
    if site.kind not in ("COMMA", "RPAR", "EQUAL", "RBRACE", "NAME", END, "AS"):
        return None
    name = site.text_at(-1)
    return site.error(
        "E0125", f"`{name}` has no type", f"write it after a colon: `{name}: float[B, D]` or `{name}: int`", site.at - 1
    )


def _contract(site: Site) -> Diagnostic | None:
    if "EXACT" not in site.expected:
        return None
    return site.error(
        "E0128",
        "a rewrite says whether it is `exact` or `approximate`",
        "write `rewrite exact name(…)` if both sides compute the same, else `rewrite approximate name(…)`",
    )


def _unused_value(site: Site) -> Diagnostic | None:
    """A statement that starts with an expression: `f(x)`, `x[0] = 1`, `"docstring"`."""
    at_name = site.expected == {"EQUAL", "COMMA"} and site.kind_at(-1) == "NAME"
    starts = "RETURN" in site.expected and site.kind in OPERAND_STARTS and site.kind != "NAME"
    assigned = site.kind == "EQUAL" and site.kind_at(-1) in ("RPAR", "RSQB") and "BINARY" in site.expected
    if assigned and site.inside == "LBRACE":
        opener = _matching(site, site.at - 1)
        if site.starts_line(opener):
            return _starts_with_parenthesis(site, opener)
        return _assigned(site, opener)
    if at_name and site.kind in ("LPAR", "LSQB", "DOT"):
        index = site.at
        depth = 0
        while index < len(site.tokens.kinds) - 1:
            kind = site.tokens.kinds[index]
            depth += (kind in OPENERS) - (kind in CLOSERS)
            if depth == 0 and site.tokens.kinds[index + 1] not in ("LPAR", "LSQB", "DOT") and kind != "DOT":
                break
            index += 1
        if site.tokens.kinds[min(index + 1, len(site.tokens.kinds) - 1)] == "EQUAL":
            return _assigned(site, site.at - 1)
        return site.error("E0126", "this value is computed and not used", "give it a name: `y = f(x)`", site.at - 1)
    if at_name and site.kind in ("BINARY", "STAR", "MINUS", "SCOPE"):
        return site.error("E0126", "this value is computed and not used", "give it a name: `y = a + b`", site.at - 1)
    if starts and site.kind == "LPAR":
        return _starts_with_parenthesis(site, site.at)
    if starts and site.kind == "STRING":
        return site.error("E0126", "a string is not a statement", "a comment starts with `#`, a doc with `##`")
    if starts:
        return site.error("E0126", "this value is computed and not used", "give it a name: `y = …`")
    return None


def _matching(site: Site, closer: int) -> int:
    """The opening bracket of a closing one."""
    depth = 0
    for index in range(closer, -1, -1):
        kind = site.tokens.kinds[index]
        depth += (kind in CLOSERS) - (kind in OPENERS)
        if depth == 0:
            return index
    return closer


def _starts_with_parenthesis(site: Site, at: int) -> Diagnostic:
    return site.error("E0117", "a statement cannot start with a bracket", "write `a, b = …`, without brackets", at)


def _assigned(site: Site, at: int) -> Diagnostic:
    return site.error(
        "E0117",
        "only a name can be assigned to, not a part of a value",
        "values do not change: compute a new one, as `y = where(mask, a, x)` or `y = concat(a, b, axis=1)`",
        at,
    )


def _misspelt(site: Site) -> Diagnostic | None:
    """`retrun x`: two names at the start of a line, the first of which is nearly a keyword."""
    first = site.at - 1
    if site.expected != {"EQUAL", "COMMA"} or site.kind_at(-1) != "NAME" or not site.starts_line(first) or site.starts_line():
        return None
    meant = did_you_mean(site.text_at(-1), STATEMENTS)
    return site.error("E0116", f"`{site.text_at(-1)}` starts no statement", meant, first) if meant else None


def _nothing_follows(site: Site) -> Diagnostic | None:
    """`x = a +` and `const N =` at the end of a line."""
    before = site.kind_at(-1)
    ends = site.kind == END or (site.starts_line() and site.text in (*STATEMENTS, *DECLARATIONS, "}"))
    if not ends or "TRUE" not in site.expected or before not in ("BINARY", "EQUAL", "MINUS", "STAR", "NOT", "RETURN"):
        return None
    what = "its value" if before in ("EQUAL", "RETURN") else "its operand"
    return site.error("E0101", f"nothing follows this `{site.text_at(-1)}`", f"write {what} behind it", site.at - 1)


def _reserved(site: Site) -> Diagnostic | None:
    before = site.text_at(-1)
    if site.kind == "EQUAL" and "NAME" in site.expected and before in RESERVED:
        return _reserved_name(site, before, site.at - 1)
    if not site.is_word() or "NAME" not in site.expected or site.text in ("else", "in"):
        return None
    # After a complete statement a keyword is more likely out of place than meant as a name.
    if "BINARY" in site.expected and site.kind_at(1) not in ("EQUAL", "COMMA"):
        return None
    return _reserved_name(site, site.text, site.at)


def _reserved_name(site: Site, word: str, at: int) -> Diagnostic:
    return site.error(
        "E0109", f"`{word}` is a reserved word and cannot be a name", f"choose another, such as `{word}_`", at
    )


def _comma(site: Site) -> Diagnostic | None:
    if "COMMA" not in site.expected or not (site.kind in OPERAND_STARTS or site.is_word() or site.kind == "STAR"):
        return None
    if site.inside not in ("LPAR", "LSQB"):
        if site.expected == {"EQUAL", "COMMA"} and site.kind == "NAME":
            return site.error("E0102", f"missing `,` before `{site.text}`", "separate names with commas: `a, b = …`")
        return None
    opener = site.open[-1]
    if site.starts_line() and site.tokens.columns[site.at] <= site.indent(opener):
        return _unclosed(site, opener, "the next line starts here")
    if site.kind in OPERAND_STARTS or site.kind == "STAR":
        return site.error(
            "E0102",
            f"missing `,` before {found_words(site)}",
            "separate the items with commas",
            notes=[site.note("in the brackets opened here", opener)],
        )
    return None


_RULES: tuple[Callable[[Site], Diagnostic | None], ...] = (
    _scope,
    _result_type,
    _closing,
    _end,
    _declaration_inside,
    _outside,
    _brace,
    _contract,
    _nothing_follows,
    _misspelt,
    _comma,
    _type_missing,
    _unused_value,
    _reserved,
)
