import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Instrumenter } from "@stryker-mutator/instrumenter";

/** Messages are not part of the API, and TypeScript rejects most mutants without an object. */
const EXCLUDED = ["StringLiteral", "ObjectLiteral"];

/** Mutator that deletes one statement of a block. Stryker only empties whole blocks. */
const statementDeletion = {
  name: "StatementDeletion",
  *mutate(path) {
    if (!path.isExpressionStatement() || path.get("expression.callee").isSuper?.()) return;
    if (path.parentPath.isBlockStatement() && path.parent.body.length === 1) return;
    yield { type: "EmptyStatement" };
  },
};
// The list is not exported by the package, whose version is pinned.
const main = import.meta.resolve("@stryker-mutator/instrumenter");
const { allMutators } = await import(new URL("mutators/mutate.js", main).href);
allMutators.push(statementDeletion);

const silent = { debug() {}, info() {}, warn() {}, isDebugEnabled: () => false };

/**
 * Instruments a file with all its mutants.
 *
 * @returns `source`, the instrumented text, and `mutants`. Each has an `id`, a `line` and the whole
 *   text with the change (`mutated`). The changed lines, with collapsed white space, are `was` and
 *   `becomes`.
 */
export async function instrument(root, file) {
  const text = readFileSync(join(root, file), "utf8");
  const options = { plugins: null, excludedMutations: EXCLUDED, ignorers: [], noHeader: false };
  const result = await new Instrumenter(silent).instrument(
    [{ name: file, content: text, mutate: true }],
    options,
  );
  const starts = lineStarts(text);
  const mutants = result.mutants
    .filter(({ status }) => status !== "Ignored")
    .map(({ id, location: { start, end }, replacement }) => {
      const from = starts[start.line] + start.column;
      const to = starts[end.line] + end.column;
      const lineStart = starts[start.line];
      const lineEnd = (starts[end.line + 1] ?? text.length + 1) - 1;
      return {
        id,
        line: start.line + 1,
        was: collapsed(text.slice(lineStart, lineEnd)),
        becomes: collapsed(text.slice(lineStart, from) + replacement + text.slice(to, lineEnd)),
        mutated: text.slice(0, from) + replacement + text.slice(to),
      };
    });
  return { source: result.files[0].content, mutants };
}

/** Loads the list of equivalent mutants, which behave like the original, with their reasons. */
export function loadEquivalents(path) {
  const entries = JSON.parse(readFileSync(path, "utf8")).map((entry) => ({
    ...entry,
    used: false,
  }));
  for (const { file, becomes, reason } of entries) {
    if (!file || !becomes || !reason)
      throw new Error(`${path}: expected file, becomes and reason in each entry`);
  }
  return {
    explains(file, { was, becomes }) {
      const entry = entries.find(
        (each) => each.file === file && each.becomes === becomes && (each.was ?? was) === was,
      );
      if (entry !== undefined) entry.used = true;
      return entry !== undefined;
    },
    /** Lists entries for these files without a matching mutant: the code has changed. */
    unused: (files) =>
      entries
        .filter(({ file, used }) => files.includes(file) && !used)
        .map(({ file, becomes }) => `${file}: ${becomes}`),
  };
}

function collapsed(text) {
  return text.replace(/\s+/g, " ").trim();
}

function lineStarts(text) {
  const starts = [0];
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
  return starts;
}
