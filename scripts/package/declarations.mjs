// Finds declarations of the built package that name types of Connect or Protobuf. A user of another
// subpath than `/grpc` then needs no knowledge of them.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";

const FOREIGN = /^@(connectrpc|bufbuild)\//;

/**
 * Returns the imports of Connect and Protobuf in the declarations of each subpath, as sentences.
 * Follows the imports of each file. `/grpc` is left out, and each file that exports all of it.
 *
 * @param exports `exports` of package.json
 */
export function foreignTypes(root, exports) {
  const grpc = namesOf(join(root, exports["./grpc"].types));
  const files = new Set(
    Object.values(exports)
      .flatMap(typesIn)
      .map((file) => join(root, file)),
  );
  const problems = [];
  for (const entry of files) {
    const names = namesOf(entry);
    if (grpc.size > 0 && [...grpc].every((name) => names.has(name))) continue;
    for (const { file, specifier } of foreignImports(entry))
      problems.push(`${entry}: expected no type of ${specifier}, got an import of it in ${file}`);
  }
  return problems;
}

/** Lists the declaration files in a target of `exports`. */
function typesIn(target) {
  if (typeof target === "string") return target.endsWith(".d.ts") ? [target] : [];
  return Object.values(target).flatMap(typesIn);
}

/** Lists the imports of foreign packages in a declaration file and in those that it imports. */
function foreignImports(entry) {
  const found = [];
  const seen = new Set();
  const waiting = [entry];
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    for (const specifier of specifiersIn(readFileSync(file, "utf8"))) {
      if (specifier.startsWith("."))
        waiting.push(join(dirname(file), specifier.replace(/\.js$/, ".d.ts")));
      else if (FOREIGN.test(specifier)) found.push({ file, specifier });
    }
  }
  return found;
}

/** Lists the modules that a declaration file imports or re-exports. */
function specifiersIn(text) {
  return [...text.matchAll(/\b(?:from|import\()\s*"([^"]+)"|^import "([^"]+)"/gm)].map(
    ([, from, bare]) => from ?? bare,
  );
}

/** Returns the names that a declaration file exports; the build writes them as one list. */
function namesOf(file) {
  const text = readFileSync(file, "utf8");
  const lists = [...text.matchAll(/^export (?:type )?\{([^}]*)\}/gm)].flatMap(([, list]) =>
    list.split(","),
  );
  return new Set(
    lists
      .map((item) =>
        item
          .replace(/^.* as /, "")
          .replace("type ", "")
          .trim(),
      )
      .filter(Boolean),
  );
}
