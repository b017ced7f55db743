/**
 * Tessera's language as a tree-sitter grammar. `frontends/source/syntax/tess.lark` is the grammar of the compiler, and a test
 * holds the keywords of both to one another.
 */

const PREC = { pipe: 1, or: 2, and: 3, not: 4, compare: 5, sum: 6, product: 7, negate: 8, power: 9, scope: 10, postfix: 11 };

const list = (rule) => seq(rule, repeat(seq(",", rule)), optional(","));

module.exports = grammar({
  name: "tess",

  word: ($) => $.identifier,
  extras: ($) => [/\s/, $.comment, $.documentation],
  supertypes: ($) => [$._declaration, $._statement, $._expression],

  rules: {
    source_file: ($) => seq(repeat($.use), repeat($._declaration)),

    documentation: () => token(prec(1, /##([^#\n][^\n]*)?/)),
    comment: () => token(/#[^\n]*/),

    // Declarations

    use: ($) => seq("use", field("module", choice($.module, $.string)), "(", list($.import), ")"),
    module: ($) => seq($.identifier, repeat(seq(".", $.identifier))),
    import: ($) => seq(field("name", $.identifier), optional(seq("as", field("alias", $.identifier)))),

    _declaration: ($) => choice($.const, $.record, $.function, $.rewrite, $.program, $.pipeline, $.tokenizer, $.compile),

    const: ($) => seq("const", field("name", $.identifier), "=", field("value", $._expression)),

    record: ($) =>
      seq(
        "record",
        field("name", $.identifier),
        optional(seq("[", list($.identifier), "]")),
        "{",
        repeat(seq($.field, optional(","))),
        "}",
      ),
    field: ($) =>
      seq(
        optional("static"),
        field("name", $.identifier),
        ":",
        field("type", $.type),
        optional(seq("=", field("default", $._expression))),
      ),

    function: ($) =>
      seq(
        field("kind", choice("fn", "op", "layer", "model")),
        field("name", $.identifier),
        field("parameters", $.parameters),
        "->",
        field("results", $.results),
        field("body", $.block),
      ),
    parameters: ($) => seq("(", optional(list(choice("*", $.parameter))), ")"),
    parameter: ($) =>
      seq(
        field("name", $.identifier),
        ":",
        field("type", $.type),
        optional(choice(seq("=", field("default", $._expression)), $._outside)),
      ),
    // What callers and files call it.
    _outside: ($) => seq("as", field("external", $.string)),
    results: ($) => choice($.type, seq("(", list($.result), ")")),
    result: ($) =>
      seq(
        optional(seq(field("name", $.identifier), ":")),
        field("type", $.type),
        optional($._outside),
        optional(seq("if", $._expression)),
      ),
    type: ($) =>
      seq(field("name", choice($.identifier, "fn")), optional(seq("[", optional(list($._dimension)), "]")), optional("?")),
    _dimension: ($) => choice($._expression, $.ellipsis),
    ellipsis: () => "...",

    rewrite: ($) =>
      seq(
        "rewrite",
        field("contract", choice("exact", "approximate")),
        field("name", $.identifier),
        field("parameters", $.parameters),
        "{",
        repeat($.naming),
        field("pattern", $._expression),
        "=>",
        field("replacement", $._expression),
        repeat(seq(",", field("replacement", $._expression))),
        optional(seq("where", field("condition", $._expression))),
        optional(seq("weights", "{", repeat(seq($.recipe, optional(","))), "}")),
        "}",
      ),
    naming: ($) => prec(PREC.postfix + 1, seq("let", $._targets, "=", field("value", choice($.call, $.identifier)), "in")),

    program: ($) =>
      seq(
        "program",
        field("name", $.identifier),
        optional(field("parameters", $.parameters)),
        "{",
        repeat(choice($.entry, $.host, $.flow)),
        "}",
      ),
    entry: ($) =>
      seq("entry", field("name", $.identifier), "=", field("model", $.identifier), optional(field("arguments", $.arguments)), optional(seq("as", field("scope", $.scope)))),
    host: ($) =>
      seq(
        "host",
        field("name", $.identifier),
        "=",
        field("reference", $.string),
        field("parameters", $.parameters),
        "->",
        field("results", $.results),
      ),
    flow: ($) =>
      seq(
        "flow",
        field("name", $.identifier),
        field("parameters", $.parameters),
        "->",
        field("results", $.results),
        field("body", $.block),
      ),

    pipeline: ($) =>
      seq(
        "pipeline",
        field("name", $.identifier),
        field("parameters", $.parameters),
        "->",
        field("results", $.results),
        "{",
        repeat(choice($.host, $.measure, $.metrics, $._statement)),
        "}",
      ),
    measure: ($) => seq("measure", field("path", $.string)),
    metrics: ($) => seq("metrics", field("metrics", $.list)),

    tokenizer: ($) =>
      seq(
        "tokenizer",
        field("name", $.identifier),
        optional(field("parameters", $.parameters)),
        "{",
        repeat(choice($.stage, $.added_token, $.added_tokens, $.files, $.family, $.require)),
        "}",
      ),
    stage: ($) =>
      seq(
        field("stage", choice("normalize", "split", "model", "process", "decode", "truncate", "pad", "round", "inject")),
        field("name", $.identifier),
        optional(field("arguments", $.arguments)),
      ),
    added_token: ($) =>
      seq(
        choice("special", "inject"),
        field("text", $.string),
        optional(seq("=", field("id", $.integer))),
        optional(field("arguments", $.arguments)),
      ),
    added_tokens: ($) => seq(choice("special", "inject"), field("texts", $.list)),
    files: ($) => seq(choice("from", "train", "measure"), field("path", $.string), optional(field("arguments", $.arguments))),
    family: ($) => seq("family", field("sizes", $.list)),

    compile: ($) =>
      seq(
        "compile",
        field("model", $.identifier),
        optional(field("arguments", $.arguments)),
        "{",
        repeat(choice($.weights, $.pass, $.target)),
        "}",
      ),
    weights: ($) =>
      seq(
        "weights",
        choice(field("file", $.string), seq(optional(field("file", $.string)), "{", repeat(seq($._row, optional(","))), "}")),
      ),
    _row: ($) => choice($.rename, $.recipe),
    rename: ($) => seq(field("old", $.string), "=>", field("new", $.string)),
    recipe: ($) => seq(field("name", $.string), "=", field("value", $._expression)),
    pass: ($) =>
      seq("pass", field("name", choice($.identifier, alias("rewrite", $.identifier))), optional(field("arguments", $.arguments))),
    target: ($) => seq("target", field("name", $.identifier), optional(field("arguments", $.arguments))),

    // Statements

    block: ($) => seq("{", repeat($._statement), "}"),
    _statement: ($) =>
      choice(
        $.assignment,
        $.parameter_statement,
        $.state,
        $.random,
        $.tap,
        $.require,
        $.let,
        $.repeat,
        $.if,
        $.fold,
        $.cond,
        $.while,
        $.return,
      ),
    _targets: ($) => seq(field("target", $.identifier), repeat(seq(",", field("target", $.identifier)))),
    assignment: ($) => seq($._targets, "=", field("value", $._expression)),
    parameter_statement: ($) =>
      seq(
        choice("param", "buffer"),
        field("name", $.identifier),
        ":",
        field("type", $.type),
        optional(seq("=", field("initialiser", $._expression))),
        optional($._outside),
      ),
    state: ($) =>
      seq(
        "state",
        field("name", $.identifier),
        ":",
        field("type", $.type),
        optional(seq("=", field("initialiser", $._expression))),
        optional($._outside),
      ),
    random: ($) =>
      seq(
        "random",
        field("name", $.identifier),
        ":",
        field("type", $.type),
        "=",
        field("distribution", $._expression),
        optional($._outside),
      ),
    tap: ($) => seq("tap", field("name", $.identifier), "=", field("value", $._expression), optional($._outside)),
    require: ($) => seq("require", field("condition", $._expression), ",", field("message", $.string)),
    let: ($) => seq("let", field("name", $.identifier), "=", field("value", $._expression)),
    repeat: ($) =>
      seq(
        "repeat",
        field("variable", $.identifier),
        "in",
        field("iterable", $._expression),
        // A scope behind the iterable is read as the iterable's own.
        field("body", $.block),
      ),
    if: ($) =>
      seq(
        "if",
        field("condition", $._expression),
        field("body", $.block),
        optional(seq("else", field("alternative", choice($.block, $.if)))),
      ),
    fold: ($) => seq("fold", field("variable", $.identifier), "in", field("count", $._expression), $._carried, optional(seq("stack", "(", list(field("stacked", $.identifier)), ")")), field("body", $.block)),
    cond: ($) =>
      seq(
        "cond",
        field("condition", $._expression),
        $._carried,
        field("body", $.block),
        optional(seq("else", field("alternative", $.block))),
      ),
    while: ($) =>
      seq("while", field("condition", $._expression), $._carried, "limit", field("limit", $._expression), field("body", $.block)),
    _carried: ($) => seq("from", "(", list(field("carried", $.identifier)), ")"),
    return: ($) => prec.right(seq("return", $._expression, repeat(seq(",", $._expression)))),

    // Expressions

    _expression: ($) =>
      choice(
        $.identifier,
        $.integer,
        $.real,
        $.string,
        $.boolean,
        $.none,
        $.list,
        $.parenthesised,
        $.unary,
        $.binary,
        $.call,
        $.index,
        $.attribute,
        $.scoped,
      ),
    parenthesised: ($) => seq("(", $._expression, ")"),
    list: ($) => seq("[", optional(list($._expression)), "]"),
    unary: ($) =>
      choice(
        prec(PREC.negate, seq(field("operator", "-"), field("operand", $._expression))),
        prec(PREC.not, seq(field("operator", "not"), field("operand", $._expression))),
      ),
    binary: ($) =>
      choice(
        ...[
          [PREC.pipe, ["|>"]],
          [PREC.or, ["or"]],
          [PREC.and, ["and"]],
          [PREC.compare, ["==", "!=", "<", "<=", ">", ">=", "in", seq("not", "in")]],
          [PREC.sum, ["+", "-"]],
          [PREC.product, ["*", "/", "//", "%", "@"]],
        ].map(([strength, operators]) =>
          prec.left(strength, seq(field("left", $._expression), field("operator", choice(...operators)), field("right", $._expression))),
        ),
        prec.right(PREC.power, seq(field("left", $._expression), field("operator", "**"), field("right", $._expression))),
      ),
    call: ($) => prec(PREC.postfix, seq(field("function", $._expression), field("arguments", $.arguments))),
    arguments: ($) => seq("(", optional(list(choice($._expression, $.keyword_argument))), ")"),
    keyword_argument: ($) =>
      seq(field("name", choice($.identifier, alias($._keyword, $.identifier))), "=", field("value", $._expression)),
    // Words that are names where they name an argument.
    _keyword: () =>
      choice(
        "use", "const", "record", "fn", "op", "layer", "model", "rewrite", "exact", "approximate", "compile",
        "param", "buffer", "state", "random", "tap", "require", "let", "repeat", "fold", "cond", "while",
        "if", "else", "return", "as", "in", "from", "static", "and", "or",
      ),
    index: ($) => prec(PREC.postfix, seq(field("value", $._expression), "[", list($._index), "]")),
    _index: ($) => choice($._expression, $.ellipsis, $.slice),
    slice: ($) =>
      prec.right(
        seq(optional($._expression), ":", optional($._expression), optional(seq(":", optional($._expression)))),
      ),
    attribute: ($) => prec(PREC.postfix, seq(field("value", $._expression), ".", field("name", $.identifier))),
    scoped: ($) => prec(PREC.scope, seq(field("value", $._expression), "as", field("scope", $.scope))),
    scope: () => token(prec(-1, /[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*/)),

    integer: () => /[0-9]+/,
    real: () => token(choice(/[0-9]+\.[0-9]+([eE][+-]?[0-9]+)?/, /[0-9]+[eE][+-]?[0-9]+/, "inf", "nan")),
    string: () => /"([^"\\\n]|\\.)*"/,
    boolean: () => choice("true", "false"),
    none: () => "none",
    identifier: () => /[A-Za-z_][A-Za-z0-9_]*/,
  },
});
