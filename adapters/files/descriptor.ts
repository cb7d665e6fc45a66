/** Paths that lead to an open file descriptor, such as /dev/stdout. */
import { readlink, realpath } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";

/** Symbolic links that are followed, as on Linux (path_resolution(7)). */
const MAX_LINKS = 40;

/** A descriptor that a path leads to. */
export interface Descriptor {
  /** Its number; undefined when it is another process's. */
  readonly fd: number | undefined;
  /** The path within /proc or /dev. */
  readonly path: string;
}

/**
 * Returns the descriptor that `path` leads to, by itself or over symbolic links; undefined for a path of the file system. Such a path
 * must be written through: renaming a file over it, or over the file behind it, takes away what others wrote there.
 */
export async function descriptorOf(path: string): Promise<Descriptor | undefined> {
  let name = resolve(path);
  for (let links = 0; links < MAX_LINKS; links++) {
    const known = await named(name);
    if (known !== undefined) return known;
    const directory = await realpath(dirname(name)).catch(() => undefined);
    if (directory === undefined) return undefined;
    const inDirectory = await named(resolve(directory, basename(name)));
    if (inDirectory !== undefined) return inDirectory;
    const target = await readlink(name).catch(() => undefined);
    if (target === undefined) return undefined;
    name = resolve(directory, target);
  }
  return undefined;
}

/** The descriptor that a path names by itself. */
async function named(path: string): Promise<Descriptor | undefined> {
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
