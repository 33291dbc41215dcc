"use strict";
// Wires the language server (`sasc lsp`) and the debug adapter (`sasdbg --dap`) to Visual Studio Code.

const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

function setting(name) {
  return vscode.workspace.getConfiguration("sas-imc").get(name);
}

function isaOptions() {
  return setting("isa").flatMap((file) => ["--isa", file]);
}

async function start() {
  const [command, ...first] = setting("command");
  const server = { command, args: [...first, "lsp", ...isaOptions()] };
  client = new LanguageClient("sas-imc", "SAS assembly", { run: server, debug: server }, {
    documentSelector: [{ language: "sas-imc" }],
  });
  try {
    await client.start();
  } catch (error) {
    const choice = await vscode.window.showErrorMessage(
      `SAS assembly: ${command} does not start (${error.message}). Install it with pip install 'sas-imc[editor]', or set its path.`,
      "Open settings",
    );
    if (choice) vscode.commands.executeCommand("workbench.action.openSettings", "sas-imc.command");
  }
}

class DebuggerFactory {
  createDebugAdapterDescriptor() {
    const [command, ...first] = setting("debugger");
    return new vscode.DebugAdapterExecutable(command, [...first, "--dap", ...isaOptions()]);
  }
}

class Configurations {
  // F5 without a launch.json debugs the open program.
  resolveDebugConfiguration(_folder, config) {
    const editor = vscode.window.activeTextEditor;
    if (!config.type && editor && editor.document.languageId === "sas-imc") {
      return { type: "sas-imc", request: "launch", name: "Debug SAS program", program: editor.document.fileName, stopOnEntry: true };
    }
    return config;
  }
}

async function activate(context) {
  context.subscriptions.push(
    vscode.commands.registerCommand("sas-imc.restart", async () => {
      await client?.stop();
      await start();
    }),
    vscode.debug.registerDebugAdapterDescriptorFactory("sas-imc", new DebuggerFactory()),
    vscode.debug.registerDebugConfigurationProvider("sas-imc", new Configurations()),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration("sas-imc")) vscode.commands.executeCommand("sas-imc.restart");
    }),
  );
  await start();
}

async function deactivate() {
  await client?.stop();
}

module.exports = { activate, deactivate };
