/** Changes of a release in the text of each file. */

/** Files with the version, and the changelog. */
export const releasedFiles = [
  "package.json",
  "package-lock.json",
  "deno.json",
  "cli/version.ts",
  "CHANGELOG.md",
] as const;
export type ReleasedFile = (typeof releasedFiles)[number];

const VERSION = /^(\d+)\.(\d+)\.(\d+)$/;
const UNRELEASED = /^## (?:Unreleased|(\S+), unreleased)$/im;

/**
 * Returns the version after `current`.
 *
 * @param step `patch`, `minor`, `major`, or a higher version. The current version is allowed too,
 *   if the changelog lists it as unreleased: the first release.
 */
export function nextVersion(current: string, step: string | undefined, changelog: string): string {
  const parts = VERSION.exec(current)?.slice(1).map(Number);
  if (parts === undefined) throw new Error(`${current}: not a version of three numbers`);
  const place = ["major", "minor", "patch"].indexOf(step ?? "");
  if (place >= 0)
    return parts
      .map((part, index) => (index < place ? part : index === place ? part + 1 : 0))
      .join(".");
  const asked = VERSION.exec(step ?? "")
    ?.slice(1)
    .map(Number);
  if (asked === undefined)
    throw new Error(`${step}: expected patch, minor, major or a version of three numbers`);
  const difference =
    asked.map((part, index) => part - (parts[index] ?? 0)).find((value) => value !== 0) ?? 0;
  const first = difference === 0 && UNRELEASED.exec(changelog)?.[1] === current;
  if (difference < 0 || (difference === 0 && !first))
    throw new Error(`${step}: not higher than ${current}`);
  return asked.join(".");
}

/**
 * Returns the text of a file with the new version.
 *
 * @throws `Error` if the text has no version to raise
 */
export function released(file: ReleasedFile, text: string, version: string, date: string): string {
  const [pattern, replacement] = changes(version, date)[file];
  if (text.search(pattern) < 0) throw new Error(`${file}: nothing to release`);
  return text.replace(pattern, replacement);
}

function changes(version: string, date: string): Record<ReleasedFile, readonly [RegExp, string]> {
  return {
    "package.json": [/^ {2}"version": ".*?"/m, `  "version": "${version}"`],
    "deno.json": [/^ {2}"version": ".*?"/m, `  "version": "${version}"`],
    // The lock names the version twice: of the package, and of the root package in its list.
    "package-lock.json": [/("name": "vortex-peer",\s+"version": )".*?"/g, `$1"${version}"`],
    "cli/version.ts": [/version = ".*?"/, `version = "${version}"`],
    "CHANGELOG.md": [UNRELEASED, `## ${version}, ${date}`],
  };
}
