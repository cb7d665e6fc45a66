/** Detects paths that lead to an open file descriptor, such as /dev/stdout. */
import { readlink, realpath } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";

/** Max symbolic links to follow, as on Linux (path_resolution(7)). */
const MAX_LINKS = 40;

/** File descriptor that a path leads to. */
export interface Descriptor {
  /** Number of the descriptor. Undefined when it belongs to another process. */
  readonly fd: number | undefined;
  /** Path of the descriptor in /proc or /dev. */
  readonly path: string;
}

/**
 * Returns the descriptor that `path` leads to, directly or through symbolic links. Undefined for a
 * path of the file system.
 *
 * A descriptor must be written to, and not replaced. Renaming a file over it, or over its file,
 * would lose the data that other processes write there.
 */
export async function descriptorOf(path: string): Promise<Descriptor | undefined> {
  let name = resolve(path);
  for (let links = 0; links < MAX_LINKS; links++) {
    const known = await descriptorNamed(name);
    if (known !== undefined) return known;
    const directory = await realpath(dirname(name)).catch(() => undefined);
    if (directory === undefined) return undefined;
    const inDirectory = await descriptorNamed(resolve(directory, basename(name)));
    if (inDirectory !== undefined) return inDirectory;
    const target = await readlink(name).catch(() => undefined);
    if (target === undefined) return undefined;
    name = resolve(directory, target);
  }
  return undefined;
}

/** Returns the descriptor that a path names without symbolic links, such as /dev/fd/5. */
async function descriptorNamed(path: string): Promise<Descriptor | undefined> {
  const standard = ["/dev/stdin", "/dev/stdout", "/dev/stderr"].indexOf(path);
  if (standard !== -1) return { fd: standard, path };
  const [, own, process, fd] =
    /^\/(?:(dev|proc\/(?:self|thread-self))|proc\/(\d+))(?:\/task\/\d+)?\/fd\/(\d+)$/.exec(path) ??
    [];
  if (fd === undefined) return undefined;
  const isOwn =
    own !== undefined ||
    (await realpath("/proc/self").catch(() => undefined)) === `/proc/${process}`;
  return { fd: isOwn ? Number(fd) : undefined, path };
}
