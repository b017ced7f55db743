(comment) @comment
(documentation) @comment.documentation
(string) @string
(integer) @number
(real) @number.float
(boolean) @boolean
(none) @constant.builtin

["use" "const" "record" "rewrite" "program" "pipeline" "compile" "entry" "host" "flow" "weights" "pass" "target"] @keyword
["tokenizer" "normalize" "split" "process" "decode" "truncate" "pad" "round" "special" "inject" "train" "measure" "metrics" "family"] @keyword
["fn" "op" "layer" "model"] @keyword.function
["param" "buffer" "state" "random" "tap" "require" "let" "static" "exact" "approximate" "where" "in" "from" "as" "limit"] @keyword
["repeat" "fold" "while"] @keyword.repeat
["if" "else" "cond"] @keyword.conditional
"return" @keyword.return
["and" "or" "not"] @keyword.operator

["=" "=>" "->" "|>" "+" "-" "*" "/" "//" "%" "@" "**" "==" "!=" "<" "<=" ">" ">="] @operator
["(" ")" "[" "]" "{" "}"] @punctuation.bracket
["," ":" "."] @punctuation.delimiter

(module) @module
(type name: (identifier) @type)
(type (identifier) @variable.parameter)
(parameter name: (identifier) @variable.parameter)
(keyword_argument name: (identifier) @variable.parameter)
(function name: (identifier) @function)
(flow name: (identifier) @function)
(rewrite name: (identifier) @function)
(record name: (identifier) @type.definition)
(const name: (identifier) @constant)
(program name: (identifier) @module)
(pipeline name: (identifier) @function)
(tokenizer name: (identifier) @module)
(stage name: (identifier) @function.macro)
(compile model: (identifier) @function)
(pass name: (identifier) @function.macro)
(target name: (identifier) @function.macro)
(call function: (identifier) @function.call)
(attribute name: (identifier) @property)
(field name: (identifier) @property)
(scope) @label
