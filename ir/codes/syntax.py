"""E01xx: syntax. The program under ``Wrong`` gives the code, the one under ``Right`` parses; a test runs both."""

from __future__ import annotations

from textwrap import dedent, indent

from . import Code


def _code(title: str, why: str, wrong: str, right: str) -> Code:
    parts = [" ".join(why.split())]
    for label, program in (("Wrong", wrong), ("Right", right)):
        parts.append(f"{label}:\n\n{indent(dedent(program).strip(), '    ')}")
    return Code(title, "\n\n".join(parts))


CODES = {
    "E0101": _code(
        "unexpected token",
        """The text cannot continue like this. The message names what stands there and what could stand there instead;
        the mistake may also be just before it.""",
        "const N = * 3",
        "const N = 4 * 3",
    ),
    "E0102": _code(
        "missing comma",
        "Arguments, parameters, list items and the names on the left of `=` are separated by commas.",
        "const N = max(3 4)",
        "const N = max(3, 4)",
    ),
    "E0103": _code(
        "bracket never closed",
        """A bracket is still open where something else must start, or where the file ends. The message points at the
        bracket; for braces it uses the indentation to tell which one it is.""",
        """
        fn twice(x: float[B]) -> float[B] {
            return add(x, x
        }
        """,
        """
        fn twice(x: float[B]) -> float[B] {
            return add(x, x)
        }
        """,
    ),
    "E0104": _code(
        "stray closing bracket",
        "A closing bracket has no opening one, or follows an opening one of another kind.",
        "const SIZES = [16, 32)",
        "const SIZES = [16, 32]",
    ),
    "E0105": _code(
        "string not closed",
        "A string starts and ends with a double quote on one line. A line break within is written `\\n`.",
        'const METRIC = "keys',
        'const METRIC = "keys"',
    ),
    "E0106": _code(
        "unknown character",
        """The character is no part of the language. Names and signs are ASCII; other characters may stand in strings
        and comments.""",
        "const N = 3 × 4",
        "const N = 3 * 4",
    ),
    "E0107": _code(
        "malformed number",
        """An integer is digits alone, at most 2**63. A real number has digits on both sides of its point, an exponent,
        or both. Infinity is `inf`.""",
        "const EPS = 1.e-5",
        "const EPS = 1.0e-5",
    ),
    "E0108": _code(
        "unknown escape",
        'In a string a backslash starts an escape: `\\n`, `\\t`, `\\r`, `\\"`, `\\\\` or `\\u00e9`.',
        'const PATH = "C:\\weights"',
        'const PATH = "C:/weights"',
    ),
    "E0109": _code(
        "reserved word as a name",
        "Keywords cannot name values, parameters or fields. They can name scopes, after `as`.",
        "fn f(layer: float[B]) -> float[B] { return layer }",
        "fn f(hidden: float[B]) -> float[B] { return hidden }",
    ),
    "E0110": _code(
        "reserved for later",
        "`mesh` will be a declaration; until then it cannot be used at all.",
        "mesh bytes { }",
        'const mesh_name = "bytes"',
    ),
    "E0111": _code(
        "a word of another language",
        "The word is a statement elsewhere, but not here; the message says what to write instead.",
        "def twice(x): return x + x",
        "fn twice(x: float[B]) -> float[B] { return x + x }",
    ),
    "E0112": _code(
        "an operator or value of another language",
        """Logic is written `and`, `or`, `not`; a static choice and a choice at run time are both `where(c, a, b)`;
        the constants are `true`, `false` and `none`; values never change, so there is no `+=`.""",
        "fn f(x: float[B]) -> float[B] { x += 1 return x }",
        "fn f(x: float[B]) -> float[B] { x = x + 1 return x }",
    ),
    "E0113": _code(
        "chained comparison",
        "`a < b < c` would compare a truth value with `c`. Say both comparisons.",
        'fn f(x: float[B], *, r: int) -> float[B] { require 0 < r < 9, "r" return x }',
        'fn f(x: float[B], *, r: int) -> float[B] { require 0 < r and r < 9, "r" return x }',
    ),
    "E0114": _code(
        "missing result type",
        "A signature says what comes out, because callers and backends rely on it: `-> type` or `-> (type, type)`.",
        "fn f(x: float[B]) { return x }",
        "fn f(x: float[B]) -> float[B] { return x }",
    ),
    "E0115": _code(
        "missing brace",
        "A body stands in braces. Line breaks and indentation mean nothing.",
        "fn f(x: float[B]) -> float[B]: return x",
        "fn f(x: float[B]) -> float[B] { return x }",
    ),
    "E0116": _code(
        "not a declaration",
        """Outside of braces a file holds declarations only: `use`, `const`, `record`, `fn`, `op`, `layer`, `model`,
        `rewrite` and `compile`. Statements belong into a body.""",
        "N = 12",
        "const N = 12",
    ),
    "E0117": _code(
        "assignment to a part of a value",
        """Values do not change. A name can be bound again, to a new value computed from the old one.""",
        "fn f(x: float[B]) -> float[B] { x[0] = 1 return x }",
        "fn f(x: float[B]) -> float[B] { x = where(x > 0, x, 1) return x }",
    ),
    "E0118": _code(
        "nested too deep",
        """Brackets may be nested 200 deep, and an expression may be 200 operators and calls deep.
        Give a part a name of its own.""",
        f"const N = {'(' * 201}1{')' * 201}",
        "const N = (1)",
    ),
    "E0119": _code(
        "positional argument after a named one",
        "Arguments by position come first, then those by name.",
        "const N = min(a=1, 2)",
        "const N = min(2, a=1)",
    ),
    "E0120": _code(
        "bad right side of a pipe",
        "`x |> f(a)` means `f(x, a)`, so on the right stands a function or a call.",
        "fn f(x: float[B]) -> float[B] { return x |> 3 }",
        "fn f(x: float[B]) -> float[B] { return x |> add(3) }",
    ),
    "E0121": _code(
        "misplaced not",
        "`not` binds looser than comparisons and arithmetic, so within these it needs parentheses.",
        "const SAME = true == not false",
        "const SAME = true == (not false)",
    ),
    "E0122": _code(
        "misplaced as",
        """`f(x) as scope` names the scope of the call just before it; the scope is a dotted name. To take a part of the
        result, put both in parentheses. A name in quotes is what a `param` is called in its file, and an input, a state or
        a result of a `model` by its callers.""",
        "fn f(x: float[B, T]) -> float[B] { return norm(x) as norm1[:, 0] }",
        "fn f(x: float[B, T]) -> float[B] { return (norm(x) as norm1)[:, 0] }",
    ),
    "E0123": _code(
        "bad clause in compile",
        'A `compile` block holds `weights "file"`, `pass name(…)` and `target name(…)` clauses.',
        'compile vit { wieghts "vit.safetensors" }',
        'compile vit { weights "vit.safetensors" }',
    ),
    "E0124": _code(
        "misplaced star",
        "In a signature one `*` separates tensors from static parameters, and at least one parameter follows it.",
        "fn f(x: float[B], *) -> float[B] { return x }",
        "fn f(x: float[B], *, scale: real) -> float[B] { return x * scale }",
    ),
    "E0125": _code(
        "missing type",
        "Parameters, fields and the tensors that a layer owns say their type after a colon.",
        "fn f(x) -> float[B] { return x }",
        "fn f(x: float[B]) -> float[B] { return x }",
    ),
    "E0126": _code(
        "value not used",
        "Nothing happens by computing a value: there are no side effects. A statement gives the value a name.",
        "fn f(x: float[B]) -> float[B] { gelu(x) return x }",
        "fn f(x: float[B]) -> float[B] { x = gelu(x) return x }",
    ),
    "E0127": _code(
        "declaration out of place",
        "A `use` stands before all other declarations, and declarations do not nest.",
        "fn f(x: float[B]) -> float[B] { const N = 2 return x * N }",
        "const N = 2 fn f(x: float[B]) -> float[B] { return x * N }",
    ),
    "E0128": _code(
        "rewrite without a contract",
        "A rewrite is `exact` (both sides compute the same, up to rounding) or `approximate`; both are checked.",
        "rewrite double_neg(x: float[...]) { neg(neg(x)) => x }",
        "rewrite exact double_neg(x: float[...]) { neg(neg(x)) => x }",
    ),
    "E0130": _code(
        "bad member of a program",
        """A `program` holds entry points, host stages and flows: `entry name = model(…)`,
        `host name = "package.module:function"(…) -> …` and `flow name(…) -> … { … }`. What stands before its brace are
        static parameters.""",
        "program p { entrance run = m }",
        "program p { entry run = m }",
    ),
    "E0131": _code(
        "bad clause of a tokenizer",
        """A `tokenizer` holds a clause a line: stages (`normalize bert`, `split bert`, `model wordpiece(vocab=30522)`, `process`,
        `decode`, `truncate`, `pad`, `round`), tokens (`special "[PAD]" = 0`, `inject "<td>"`), files (`from "tokenizer.json"`,
        `train "corpus/*.txt"`, `measure "held/*.txt"`), `family [4096, 8192]` and `require`.""",
        "tokenizer t { normalise nfc }",
        'tokenizer t { normalize nfc from "tokenizer.json" }',
    ),
}
