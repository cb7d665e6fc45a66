/**
 * Extracts code samples from the README, the pages of `docs` and docstrings. Rewrites samples and
 * examples to import the sources instead of the installed package.
 */
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";
import { runtimeName } from "./fixtures.ts";
import { type RuntimeName, root } from "./run.ts";

/** Fenced code block of a Markdown page. */
export interface Sample {
  /** Path of the page, relative to the repository root. */
  readonly page: string;
  /** Number of the page's line at which the code starts, from 1. */
  readonly line: number;
  /** Nearest heading above the code block. Empty if there is no heading. */
  readonly heading: string;
  /** Language named after the opening fence, such as `ts` or `sh`. */
  readonly language: string;
  readonly code: string;
}

/** Returns the paths of the README and of the pages in `docs`, relative to the repository root. */
export async function pages(): Promise<string[]> {
  const docs = (await readdir(join(root, "docs"))).filter((name) => name.endsWith(".md")).sort();
  return ["README.md", ...docs.map((name) => `docs/${name}`)];
}

/** Reads a Markdown page, and returns its code blocks from top to bottom. */
export async function samplesOf(page: string): Promise<Sample[]> {
  return samplesIn(page, await readFile(join(root, page), "utf8"));
}

/** Returns the code blocks of a Markdown text, from top to bottom. */
export function samplesIn(page: string, markdown: string): Sample[] {
  const samples: Sample[] = [];
  let heading = "";
  let open: { line: number; language: string; code: string[] } | undefined;
  for (const [index, text] of markdown.split("\n").entries()) {
    const [, language] = /^```(\S*)/.exec(text) ?? [];
    if (open === undefined) {
      if (language !== undefined) open = { line: index + 2, language, code: [] };
      else heading = /^#+ (.*)/.exec(text)?.[1] ?? heading;
    } else if (language === undefined) {
      open.code.push(text);
    } else {
      const { line, code } = open;
      samples.push({ page, line, heading, language: open.language, code: `${code.join("\n")}\n` });
      open = undefined;
    }
  }
  return samples;
}

/**
 * Returns the first code block of a language under a heading of a page. Rejects if there is none.
 */
export async function sampleUnder(
  page: string,
  heading: string,
  language: string,
): Promise<string> {
  const all = await samplesOf(page);
  const sample = all.find((one) => one.heading === heading && one.language === language);
  if (sample === undefined) throw new Error(`${page} has no ${language} sample under "${heading}"`);
  return sample.code;
}

/**
 * Writes a program to a file, and returns the path of the file. Its imports of "vortex-peer" are
 * replaced by imports of the sources.
 */
export async function writeProgram(
  directory: string,
  name: string,
  code: string,
  runtime: RuntimeName = runtimeName,
): Promise<string> {
  const entry = pathToFileURL(join(root, `entry/${runtime}.ts`)).href;
  const file = join(directory, name);
  const resolved = code
    .replaceAll('"vortex-peer"', JSON.stringify(entry))
    .replace(/"vortex-peer\/([\w-]+)"/g, (_, subpath: string) =>
      JSON.stringify(pathToFileURL(join(root, `entry/${subpath}.ts`)).href),
    )
    .replaceAll('"@opentelemetry/api"', () =>
      JSON.stringify(import.meta.resolve("@opentelemetry/api")),
    );
  await writeFile(file, resolved);
  return file;
}

/**
 * Writes a program of the folder `examples` to a file, like {@link writeProgram}. Returns the path
 * of the file.
 */
export async function writeExample(
  directory: string,
  example: string,
  runtime: RuntimeName,
): Promise<string> {
  const code = await readFile(join(root, example), "utf8");
  return writeProgram(directory, `${basename(example, ".ts")}.mts`, code, runtime);
}

/** Calls `use` with a temporary directory, and removes the directory afterwards. */
export async function inTempDir<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-peer-test-"));
  try {
    return await use(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
