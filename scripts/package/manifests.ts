// Consistency of the manifests: package.json for npm, deno.json for JSR, and tsdown.config.mjs for
// the build.
import { readdirSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

type Target = string | { readonly [condition: string]: Target };
type Texts = Readonly<Record<string, string>>;

interface NpmManifest {
  readonly version: string;
  readonly license: string;
  readonly exports: Readonly<Record<string, Target>>;
  readonly dependencies: Texts;
  readonly optionalDependencies: Texts;
  readonly peerDependencies: Texts;
  readonly devDependencies: Texts;
}

interface JsrManifest {
  readonly version: string;
  readonly license: string;
  readonly exports: Texts;
  readonly imports?: Texts;
}

/** Source folders of the published package. */
export const publishedFolders: readonly string[] = ["src", "adapters", "cli", "entry"];

/**
 * Dependencies with a narrower range than `^`. All others have one, so that a program with several
 * packages needs one copy of each dependency, and gets its fixes.
 */
const narrowerRanges: Readonly<Record<string, { readonly prefix: string; readonly why: string }>> =
  {
    "@connectrpc/connect": { prefix: "~", why: "the minor version of connect-node" },
    "@connectrpc/connect-node": { prefix: "~", why: "2.3 does not run on Node 20" },
    "@matrixai/quic": { prefix: "", why: "its native binding is internal, not under semver" },
  };

/** Returns each inconsistency of the manifests of the project in `root`, as a sentence. */
export async function disagreements(root: string): Promise<string[]> {
  const npm: NpmManifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const jsr: JsrManifest = JSON.parse(readFileSync(join(root, "deno.json"), "utf8"));
  const { default: build }: { default: { entry: Texts } } = await import(
    pathToFileURL(join(root, "tsdown.config.mjs")).href
  );
  const cli = /version = "(.*?)"/.exec(readFileSync(join(root, "cli/version.ts"), "utf8"))?.[1];
  return [
    ...(npm.version === jsr.version
      ? []
      : [`package.json is of version ${npm.version}, deno.json of ${jsr.version}`]),
    ...(npm.version === cli
      ? []
      : [`package.json is of version ${npm.version}, cli/version.ts of ${cli}`]),
    ...(npm.license === jsr.license ? [] : ["the licences differ"]),
    ...subpathProblems(npm.exports, jsr.exports, build.entry),
    ...dependencyProblems(root, npm, jsr),
  ];
}

function subpathProblems(npm: NpmManifest["exports"], jsr: Texts, entries: Texts): string[] {
  const problems: string[] = [];
  const subpaths = Object.keys(npm).filter((subpath) => subpath !== "./package.json");
  for (const subpath of Object.keys(jsr)) {
    if (!subpaths.includes(subpath))
      problems.push(`${subpath} is in deno.json and not in package.json`);
  }
  for (const subpath of subpaths) {
    const files = filesOf(npm[subpath]);
    for (const file of files)
      if (sourceOf(file, entries) === undefined)
        problems.push(`${subpath}: nothing builds ${file}`);
    const source = jsr[subpath];
    // On npm the root of the package is the entry of each runtime. On JSR it is Deno's.
    const expected =
      subpath === "." ? "./entry/deno.ts" : `./${sourceOf(files.at(-1) ?? "", entries)}`;
    if (source !== expected)
      problems.push(`${subpath}: deno.json has ${source}, package.json's is built of ${expected}`);
  }
  const exported = new Set(subpaths.flatMap((subpath) => filesOf(npm[subpath])));
  for (const entry of Object.keys(entries)) {
    if (entry !== "cli" && !exported.has(`./dist/${entry}.js`))
      problems.push(`${entry} is built and not exported`);
  }
  return problems;
}

/** JSR reads the versions of npm packages from package.json, so deno.json must not repeat them. */
function dependencyProblems(root: string, npm: NpmManifest, jsr: JsrManifest): string[] {
  const declared = { ...npm.dependencies, ...npm.optionalDependencies, ...npm.peerDependencies };
  const used = new Set(publishedFolders.flatMap((folder) => packagesIn(join(root, folder))));
  return [
    ...[...used]
      .filter((name) => !(name in declared))
      .map((name) => `${name} is imported and no dependency`),
    ...Object.keys({ ...npm.dependencies, ...npm.optionalDependencies })
      .filter((name) => !used.has(name))
      .map((name) => `${name} is a dependency that nothing imports`),
    ...rangeProblems(declared, (name) => narrowerRanges[name]?.prefix ?? "^"),
    ...rangeProblems(npm.devDependencies, () => ""),
    ...Object.keys(narrowerRanges)
      .filter((name) => !(name in declared))
      .map((name) => `${name} has a narrower range and is no dependency`),
    ...(jsr.imports === undefined
      ? []
      : ["deno.json: expected no imports, since JSR reads them from package.json"]),
  ];
}

/**
 * Returns a sentence for each version that is not three numbers after its prefix.
 *
 * @param prefixOf prefix of the version of a package: `^`, `~`, or nothing for an exact version
 */
function rangeProblems(versions: Texts, prefixOf: (name: string) => string): string[] {
  return Object.entries(versions).flatMap(([name, version]) => {
    const prefix = prefixOf(name);
    const matches = version.startsWith(prefix) && exact.test(version.slice(prefix.length));
    return matches ? [] : [`${name}: expected a version such as ${prefix}1.2.3, got ${version}`];
  });
}

const exact = /^\d+\.\d+\.\d+(-[\w.]+)?$/;

/** Lists the npm packages that the sources of a folder import. */
function packagesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true })
    .map(String)
    .filter((file) => file.endsWith(".ts"))
    .flatMap((file) => [
      ...readFileSync(join(folder, file), "utf8").matchAll(
        /(?:^(?:import|export|\}).*?from |\b(?:import|require)\(|^import )"([^".][^"]*)"/gm,
      ),
    ])
    .map(([, specifier = ""]) => specifier)
    .filter(
      (specifier) =>
        !/^(node|cloudflare|bun):/.test(specifier) && !builtinModules.includes(specifier),
    )
    .map((specifier) => specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/"));
}

/** Returns the source file of a file in `dist`. */
function sourceOf(file: string, entries: Texts): string | undefined {
  return entries[/^\.\/dist\/(.*?)(\.d\.ts|\.js)$/.exec(file)?.[1] ?? ""];
}

function filesOf(target: Target = {}): string[] {
  return typeof target === "string"
    ? [target]
    : Object.values(target).flatMap((inner) => filesOf(inner));
}
