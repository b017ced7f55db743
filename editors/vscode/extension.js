// Starts `tessera lsp` for .tess files. Everything the editor knows comes from there.

const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

async function start() {
  const [command, ...args] = vscode.workspace.getConfiguration("tessera").get("server.command");
  const server = { command, args };
  const options = { documentSelector: [{ language: "tess" }] };
  client = new LanguageClient("tessera", "Tessera", server, options);
  try {
    await client.start();
  } catch (error) {
    vscode.window.showErrorMessage(
      `Tessera: \`${[command, ...args].join(" ")}\` did not start (${error.message}). ` +
        "Install it with pip install 'tessera[lsp]', or say where it is in the setting tessera.server.command.",
    );
  }
}

async function activate(context) {
  context.subscriptions.push(
    vscode.commands.registerCommand("tessera.restart", async () => {
      await client?.stop();
      await start();
    }),
  );
  await start();
}

module.exports = { activate, deactivate: () => client?.stop() };
