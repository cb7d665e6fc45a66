/** Code as users read it — README, docs, docstrings, examples — made to run from the sources instead of an installed package. */
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";
import { runtimeName } from "./fixtures.ts";
import { type RuntimeName, root } from "./run.ts";

/** A block of code in a page. */
export interface Sample {
  /** The page's path in this repository, and the line that the code begins at, from 1. */
  readonly page: string;
  readonly line: number;
  /** The nearest heading above it; empty when there is none. */
  readonly heading: string;
  /** What is written after the opening fence: `ts`, `sh`, … */
  readonly language: string;
  readonly code: string;
}

/** README and the pages of `docs`. */
export async function pages(): Promise<string[]> {
  const docs = (await readdir(join(root, "docs"))).filter((name) => name.endsWith(".md")).sort();
  return ["README.md", ...docs.map((name) => `docs/${name}`)];
}

/** The blocks of code of a page, from top to bottom. */
export async function samplesOf(page: string): Promise<Sample[]> {
  return samplesIn(page, await readFile(join(root, page), "utf8"));
}

/** The blocks of code in Markdown. */
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

/** The first block of `language` under a heading of a page. */
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

/** Writes code that imports "vortex-peer" and what it is used with to a file that a runtime can run, and returns its path. */
export async function writeProgram(
  directory: string,
  name: string,
  code: string,
  runtime: RuntimeName = runtimeName,
): Promise<string> {
  const face = pathToFileURL(join(root, `entry/${runtime}.ts`)).href;
  const file = join(directory, name);
  const resolved = code
    .replaceAll('"vortex-peer"', JSON.stringify(face))
    .replaceAll('"@opentelemetry/api"', () =>
      JSON.stringify(import.meta.resolve("@opentelemetry/api")),
    );
  await writeFile(file, resolved);
  return file;
}

/** Writes a program of `examples` to a file that a runtime can run, and returns its path. */
export async function writeExample(
  directory: string,
  example: string,
  runtime: RuntimeName,
): Promise<string> {
  const code = await readFile(join(root, example), "utf8");
  return writeProgram(directory, `${basename(example, ".ts")}.mts`, code, runtime);
}

/** Runs `use` with a directory that is gone afterwards. */
export async function inTempDir<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-peer-test-"));
  try {
    return await use(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
