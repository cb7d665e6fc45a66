import { readlink, realpath } from "node:fs/promises";
import { basename, dirname, isAbsolute, join } from "node:path";
import { VortexError } from "../../src/errors.ts";

/** Max symbolic links to follow, as on Linux (path_resolution(7)). */
const MAX_LINKS = 40;

/**
 * Follows symbolic links from `path` to their end, where a file exists or can be created. Returns a
 * path that is not a link unchanged.
 *
 * Rejects with `StorageFailed` for a loop of links, or a link to the name of a directory.
 */
export async function linkTarget(path: string): Promise<string> {
  const found = await realpath(path).catch(() => undefined);
  if (found !== undefined) return found;
  let name = path;
  for (let links = 0; links <= MAX_LINKS; links++) {
    const target = await readlink(name).catch(() => undefined);
    if (target === undefined) return links === 0 ? path : missingTarget(name, path);
    // `join` would remove a `..` without following the links before it.
    name = isAbsolute(target) ? target : `${dirname(name)}/${target}`;
  }
  throw new VortexError("StorageFailed", `cannot write ${path}: symbolic link loop`);
}

/** Resolves the missing target `name` of the links from `path`, with its directory's real path. */
async function missingTarget(name: string, path: string): Promise<string> {
  if (name.endsWith("/")) {
    throw new VortexError(
      "StorageFailed",
      `${path}: expected a link to a file, got a link to the directory name ${name}`,
    );
  }
  const directory = await realpath(dirname(name)).catch(() => undefined);
  return directory === undefined ? name : join(directory, basename(name));
}
