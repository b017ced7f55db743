// Every word of the files in some folders has a colour of its own, and every reserved word one of a keyword:
// `node tokenise.js FOLDER… --reserved=as,const,…`.

const fs = require("fs");
const path = require("path");
const oniguruma = require("vscode-oniguruma");
const { Registry, parseRawGrammar, INITIAL } = require("vscode-textmate");

const GRAMMAR = path.join(__dirname, "..", "syntaxes", "tess.tmLanguage.json");
const KEYWORDS = /^(keyword|storage|constant\.language|invalid|variable\.parameter|entity\.name\.(label|function\.macro))/;
const TEXTS = /^(string|comment|constant\.character)/;

function* files(folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const at = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* files(at);
    else if (entry.name.endsWith(".tess")) yield at;
  }
}

async function main() {
  const words = process.argv.find((argument) => argument.startsWith("--reserved="));
  const reserved = new Set(words ? words.slice("--reserved=".length).split(",") : []);
  const wasm = fs.readFileSync(require.resolve("vscode-oniguruma/release/onig.wasm"));
  await oniguruma.loadWASM(wasm);
  const registry = new Registry({
    onigLib: Promise.resolve({
      createOnigScanner: (patterns) => new oniguruma.OnigScanner(patterns),
      createOnigString: (text) => new oniguruma.OnigString(text),
    }),
    loadGrammar: async () => parseRawGrammar(fs.readFileSync(GRAMMAR, "utf8"), GRAMMAR),
  });
  const grammar = await registry.loadGrammar("source.tess");
  let count = 0;
  const wrong = [];
  for (const folder of process.argv.slice(2).filter((argument) => !argument.startsWith("--"))) {
    for (const file of files(folder)) {
      let stack = INITIAL;
      fs.readFileSync(file, "utf8").split("\n").forEach((line, number) => {
        const result = grammar.tokenizeLine(line, stack);
        stack = result.ruleStack;
        for (const token of result.tokens) {
          const text = line.slice(token.startIndex, token.endIndex).trim();
          const scope = token.scopes[token.scopes.length - 1];
          count += 1;
          const plain = text && scope === "source.tess";
          const missed = reserved.has(text) && !KEYWORDS.test(scope) && !token.scopes.some((s) => TEXTS.test(s));
          if (plain || missed) wrong.push(`${file}:${number + 1}: ${JSON.stringify(text)} is ${scope}`);
        }
      });
    }
  }
  console.log(`${count} tokens`);
  if (wrong.length) {
    console.error(wrong.slice(0, 20).join("\n"));
    process.exit(1);
  }
}

main();
