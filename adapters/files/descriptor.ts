/** Detects paths that refer to an open file descriptor, such as /dev/stdout. */
import { readlink, realpath } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";

/** Max number of symbolic links that are followed in one path, as on Linux (path_resolution(7)). */
const MAX_LINKS = 40;

/** Open file descriptor to which a path refers, such as /dev/stdout. */
export interface Descriptor {
  /**
   * Number of the descriptor in this process. Undefined if the descriptor belongs to another
   * process.
   */
  readonly fd: number | undefined;
  /** Path in /proc or /dev that names the descriptor, such as /dev/fd/5. */
  readonly path: string;
}

/**
 * Returns the open file descriptor to which `path` refers, directly or through symbolic links.
 * Returns undefined if `path` refers to a normal file or does not exist.
 *
 * The caller must write to such a descriptor, and must not rename a file over its path or its file.
 * A rename would lose the data that other processes write there.
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

/**
 * Returns the file descriptor that a path such as /dev/fd/5 names without symbolic links. Returns
 * undefined for other paths.
 */
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
