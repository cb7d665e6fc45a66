/** Cold import of each entry of the package: time in a new process, and bytes of code. */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { Failure } from "./processes.ts";
import type { Runtime } from "./runtimes.ts";
import { type Summary, summarize } from "./statistics.ts";
import type { RuntimeName } from "./subjects.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const config = join(root, "deno.json");
/** Row of an empty module: the start of the runtime itself. */
export const CONTROL = "(empty module)";

/** Entries for another runtime, with the runtimes that cannot load them. */
const FOREIGN: Readonly<Record<string, readonly RuntimeName[]>> = {
  "./workers": ["node", "bun", "deno"],
};

/** Import of one entry on one runtime. */
export interface ImportRow {
  readonly runtime: string;
  /** Subpath of the package, or {@link CONTROL}. */
  readonly entry: string;
  /** Time from the start of a process to its end, in ms. */
  readonly milliseconds: Summary;
  /** Median minus the median of {@link CONTROL}, in ms. */
  readonly added: number;
}

/** Code of one entry, with everything that it imports from the package. */
export interface EntrySize {
  readonly entry: string;
  /** Total size of the modules loaded at once, in bytes. */
  readonly bytes: number;
  readonly gzipped: number;
  /** Total size of the modules loaded at first use, in bytes. */
  readonly lazy: number;
  /** npm packages and modules of the runtime that are loaded at once. */
  readonly imports: readonly string[];
}

/**
 * Measures the import of every entry in a new process. The rows take turns.
 *
 * @param turns number of processes per row
 * @param from directory of the package. Default: this package
 * @throws {@link Failure} if the package is not built, or an import fails
 */
export async function measureImports(
  runtimes: readonly Runtime[],
  turns: number,
  report: (line: string) => void,
  from: string = root,
): Promise<ImportRow[]> {
  const directory = mkdtempSync(join(tmpdir(), "vortex-peer-import-"));
  const empty = join(directory, "empty.mjs");
  writeFileSync(empty, "");
  try {
    const rows = runtimes.flatMap((runtime) =>
      [[CONTROL, empty] as const, ...entries(from)]
        .filter(([entry]) => !FOREIGN[entry]?.includes(runtime.name))
        // The entry is the program itself, since Deno resolves packages from the location of the
        // program.
        .map(([entry, file]) => ({
          runtime,
          entry,
          words: commandOf(runtime, file),
          times: [] as number[],
        })),
    );
    // The first turn fills the caches of files and compiled code, and is not counted.
    for (let turn = 0; turn <= turns; turn++) {
      report(`import: turn ${turn} of ${turns}`);
      for (const { words, times } of rows) {
        const time = await timeOf(words);
        if (turn > 0) times.push(time);
      }
    }
    const summaries = rows.map(({ runtime, entry, times }) => ({
      runtime: runtime.title,
      entry,
      milliseconds: summarize(times),
    }));
    return summaries.map((row) => {
      const control = summaries.find(
        ({ runtime, entry }) => runtime === row.runtime && entry === CONTROL,
      );
      const added = row.milliseconds.median - (control?.milliseconds.median ?? 0);
      return { ...row, added };
    });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/**
 * Measures the code of every entry.
 *
 * @param from directory of the package. Default: this package
 */
export function entrySizes(from: string = root): EntrySize[] {
  return entries(from).map(([entry, file]) => {
    const atOnce: Modules = { code: new Map(), dynamic: new Set(), packages: new Set() };
    collect(file, atOnce);
    const all: Modules = { ...atOnce, code: new Map(atOnce.code), packages: new Set() };
    // A set also visits the elements that are added meanwhile: modules imported by lazy modules.
    for (const path of all.dynamic) collect(path, all);
    const bytes = sizeOf(atOnce);
    return {
      entry,
      bytes,
      gzipped: gzipSync([...atOnce.code.values()].join("")).length,
      lazy: sizeOf(all) - bytes,
      imports: [...atOnce.packages].sort(),
    };
  });
}

/** Returns both tables as Markdown. */
export function importTables(rows: readonly ImportRow[], sizes: readonly EntrySize[]): string {
  const titles = [...new Set(rows.map(({ runtime }) => runtime))];
  const cell = (entry: string, title: string): string => {
    const row = rows.find((each) => each.entry === entry && each.runtime === title);
    if (row === undefined) return "";
    const { median } = row.milliseconds;
    return entry === CONTROL ? `${median.toFixed(0)}` : `+${row.added.toFixed(0)}`;
  };
  const names = [CONTROL, ...sizes.map(({ entry }) => entry)];
  return [
    `| entry, ms of import | ${titles.join(" | ")} |`,
    `| --- |${titles.map(() => " ---: |").join("")}`,
    ...names.map((name) => `| ${name} | ${titles.map((title) => cell(name, title)).join(" | ")} |`),
    "",
    "| entry, bytes of code | at once | gzipped | at first use | packages at once |",
    "| --- | ---: | ---: | ---: | --- |",
    ...sizes.map(
      ({ entry, bytes, gzipped, lazy, imports }) =>
        `| ${entry} | ${count(bytes)} | ${count(gzipped)} | ${count(lazy)} | ${imports.join(", ")} |`,
    ),
  ].join("\n");
}

function count(value: number): string {
  return value.toLocaleString("en-US");
}

/** Lists the entries of a built package, each with its file. */
function entries(from: string): [entry: string, file: string][] {
  const { exports } = JSON.parse(readFileSync(join(from, "package.json"), "utf8")) as {
    exports: Record<string, string | { default?: string }>;
  };
  const found = Object.entries(exports).flatMap(([entry, target]): [string, string][] =>
    typeof target === "string" || target.default === undefined || entry === "."
      ? []
      : [[entry, join(from, target.default)]],
  );
  for (const [, file] of found) {
    if (!existsSync(file)) throw new Failure(`${file} is missing: run npm run build first`);
  }
  return found;
}

const STATIC = /(?:^|[;}\n])\s*(?:import|export)\s*(?:[\w*{][^"';]*?from\s*)?["']([^"']+)["']/g;
const DYNAMIC = /\bimport\(\s*["']([^"']+)["']\s*\)/g;

/** Modules of the package, and their imports. */
interface Modules {
  /** Code of each module by its path. */
  readonly code: Map<string, string>;
  /** Paths of the modules that are imported dynamically. */
  readonly dynamic: Set<string>;
  /** npm packages and modules of the runtime that are imported statically. */
  readonly packages: Set<string>;
}

/** Adds a module and its static imports. */
function collect(file: string, modules: Modules): void {
  if (modules.code.has(file)) return;
  const code = readFileSync(file, "utf8");
  modules.code.set(file, code);
  for (const [, specifier = ""] of code.matchAll(STATIC)) {
    if (!specifier.startsWith(".")) modules.packages.add(specifier);
    else collect(join(dirname(file), specifier), modules);
  }
  for (const [, specifier = ""] of code.matchAll(DYNAMIC)) {
    if (specifier.startsWith(".")) modules.dynamic.add(join(dirname(file), specifier));
  }
}

/** Returns the total size of the modules, in bytes. */
function sizeOf({ code }: Modules): number {
  return [...code.values()].reduce((sum, text) => sum + Buffer.byteLength(text), 0);
}

function commandOf({ name, command }: Runtime, program: string): readonly string[] {
  const [path = ""] = command("client");
  if (name !== "deno") return [path, program];
  return [path, "run", "--allow-all", "--unstable-net", "--no-check", "--config", config, program];
}

function timeOf([path = "", ...words]: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const child = spawn(path, words, { cwd: root, stdio: ["ignore", "ignore", "inherit"] });
    child.once("error", reject);
    child.once("exit", (code) => {
      if (code === 0) resolve(performance.now() - started);
      else reject(new Failure(`${words.at(-1)}: expected exit code 0, got ${code}`));
    });
  });
}
