/** Reads the exported symbols and their docstrings from the output of `deno doc`. */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { root } from "./run.ts";
import { type Sample, samplesIn } from "./samples.ts";

/** Exported symbol, or public member of an exported symbol, with its documentation. */
export interface Documented {
  /** Symbol name such as `VortexError`, or `VortexError.code` for a member. */
  readonly name: string;
  /** Position of the declaration, `path:line`, relative to the repository root. */
  readonly at: string;
  readonly documented: boolean;
  readonly examples: readonly Sample[];
}

interface DocNode {
  readonly name: string;
  readonly declarationKind?: string;
  readonly accessibility?: string;
  readonly isOverride?: boolean;
  readonly location: { readonly filename: string; readonly line: number };
  readonly jsDoc?: {
    readonly doc?: string;
    readonly tags?: readonly { readonly kind: string; readonly doc?: string }[];
  };
  readonly def?: {
    readonly properties?: readonly DocNode[];
    readonly methods?: readonly DocNode[];
  };
}

interface DocModule {
  readonly symbols: readonly { readonly name: string; readonly declarations: readonly DocNode[] }[];
}

/**
 * Lists the symbols that the package's entry files export, each symbol and member once. A member
 * without a docstring has that of the interface that its class implements.
 */
export async function exportedDocs(entries: readonly string[]): Promise<Documented[]> {
  const found = new Map<string, Documented>();
  for (const entry of entries) {
    for (const { name, declarations } of await symbolsOf(entry)) {
      for (const declaration of declarations) {
        const { filename } = declaration.location;
        if (!filename.startsWith(`file://${root}`) || filename.includes("/node_modules/")) continue;
        // `deno doc` also lists private declarations that an export refers to.
        if (declaration.declarationKind === "private") continue;
        const { properties = [], methods = [] } = declaration.def ?? {};
        const members = [...properties, ...methods].filter(isPublic);
        for (const [full, node] of [
          [name, declaration],
          ...members.map((member) => [`${name}.${member.name}`, member] as const),
        ] as const) {
          const documented = documentedOf(full, node);
          // Overloads, and the same function in several entries, need one docstring. Prefer one
          // with an example.
          if (!found.get(full)?.examples.length && (documented.documented || !found.has(full)))
            found.set(full, documented);
        }
      }
    }
  }
  return [...found.values()].sort((a, b) => (a.at < b.at ? -1 : 1));
}

async function symbolsOf(entry: string): Promise<DocModule["symbols"]> {
  const deno = join(root, "node_modules/.bin/deno");
  const options = { cwd: root, maxBuffer: 64 * 1024 * 1024 };
  const { stdout } = await promisify(execFile)(deno, ["doc", "--quiet", "--json", entry], options);
  const { nodes } = JSON.parse(stdout) as { readonly nodes: Readonly<Record<string, DocModule>> };
  return Object.values(nodes).flatMap(({ symbols }) => symbols);
}

/**
 * Returns true if a member needs a docstring: it is no override, and no `#private` or `[Symbol.*]`
 * member.
 */
function isPublic({ name, accessibility, isOverride }: DocNode): boolean {
  return (
    accessibility === undefined &&
    isOverride !== true &&
    !name.startsWith("#") &&
    !name.startsWith("[Symbol.")
  );
}

function documentedOf(name: string, { location, jsDoc }: DocNode): Documented {
  const at = `${location.filename.slice(`file://${root}`.length)}:${location.line + 1}`;
  const { doc = "", tags = [] } = jsDoc ?? {};
  const examples = tags
    .filter(({ kind }) => kind === "example")
    .flatMap((tag) => samplesIn(at, tag.doc ?? ""));
  return { name, at, documented: doc !== "" || tags.length > 0, examples };
}
