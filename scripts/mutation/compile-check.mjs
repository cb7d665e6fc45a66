import { readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";

/** Mutants may have unused names and unreachable statements, which are no type errors. */
const LENIENT = {
  noUnusedLocals: false,
  noUnusedParameters: false,
  allowUnreachableCode: true,
  noFallthroughCasesInSwitch: false,
};

/** Returns a function that checks whether a file with one of its mutants compiles. */
export function compileCheck(root) {
  const services = new Map();
  return (file, { mutated }) => {
    const service = services.get(file) ?? serviceOf(root, file);
    services.set(file, service);
    return service(mutated);
  };
}

function serviceOf(root, file) {
  const config = ts.getParsedCommandLineOfConfigFile(join(root, "tsconfig.json"), LENIENT, {
    ...ts.sys,
    onUnRecoverableConfigFileDiagnostic: (diagnostic) => {
      throw new Error(ts.flattenDiagnosticMessageText(diagnostic.messageText, " "));
    },
  });
  const path = join(root, file);
  let text = readFileSync(path, "utf8");
  let version = 0;
  const snapshots = new Map();
  const service = ts.createLanguageService({
    getScriptFileNames: () => [path],
    getScriptVersion: (name) => (name === path ? String(version) : "0"),
    getScriptSnapshot(name) {
      if (name === path) return ts.ScriptSnapshot.fromString(text);
      let snapshot = snapshots.get(name);
      if (snapshot === undefined && ts.sys.fileExists(name)) {
        snapshot = ts.ScriptSnapshot.fromString(ts.sys.readFile(name) ?? "");
        snapshots.set(name, snapshot);
      }
      return snapshot;
    },
    getCurrentDirectory: () => root,
    getCompilationSettings: () => config.options,
    getDefaultLibFileName: ts.getDefaultLibFilePath,
    fileExists: ts.sys.fileExists,
    readFile: ts.sys.readFile,
    readDirectory: ts.sys.readDirectory,
    directoryExists: ts.sys.directoryExists,
    getDirectories: ts.sys.getDirectories,
  });
  return (mutated) => {
    text = mutated;
    version++;
    return (
      service.getSyntacticDiagnostics(path).length + service.getSemanticDiagnostics(path).length ===
      0
    );
  };
}
