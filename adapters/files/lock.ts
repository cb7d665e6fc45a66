import { open, readFile, stat, unlink, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { VortexError } from "../../src/errors.ts";
import { codeOf, storageError } from "./storage-error.ts";

/** Milliseconds between two signs of life of a holder. */
const BEAT = 10_000;
/** Milliseconds without one, after which a holder on another host counts as gone. */
const SILENCE = 60_000;
/** Milliseconds after which a guard belongs to nobody. */
const LONGEST_GUARD = 10_000;
/** Times that a lock which changes hands at the same time is looked at again. */
const TRIES = 2000;

/** Who holds a lock, as its file says. */
interface Holder {
  readonly pid: number;
  readonly host: string;
  /** When the process began, where the system tells: a process id may be that of another process by now. */
  readonly started: string;
  /** Makes every taking of the lock another one. */
  readonly token: string;
}

/** Tokens of the locks that this process holds. */
const held = new Set<string>();

/**
 * A lock between processes: a file that only one of them can make. A process that was killed leaves it behind, so one whose
 * holder is gone is taken over. On the same host that is told by the process id; the holder on another host, a container
 * that shares the volume for one, is gone when it has given no sign of life for a minute.
 */
export class FileLock {
  readonly #path: string;
  readonly #holder: Holder;
  readonly #beat: ReturnType<typeof setInterval>;

  private constructor(path: string, holder: Holder) {
    this.#path = path;
    this.#holder = holder;
    this.#beat = setInterval(() => {
      const now = new Date();
      // Without a sign of life the lock is lost to another host at worst; the download itself needs nothing of it.
      utimes(path, now, now).catch(() => {});
    }, BEAT);
    this.#beat.unref();
  }

  /** Takes the lock. Rejects with `StorageFailed` when another process holds it, or the file cannot be made. */
  static async take(path: string): Promise<FileLock> {
    const { pid } = process;
    const token = crypto.randomUUID();
    const holder: Holder = { pid, host: hostname(), started: await startOf(pid), token };
    // Before the file can be seen: others of this process look here whether it is alive.
    held.add(token);
    try {
      await make(path, holder);
    } catch (error) {
      held.delete(token);
      throw error;
    }
    return new FileLock(path, holder);
  }

  /** Gives the lock back. Never rejects. */
  async release(): Promise<void> {
    clearInterval(this.#beat);
    const text = await readFile(this.#path, "utf8").catch(() => "");
    // One that was taken over meanwhile belongs to the other process.
    if (text === JSON.stringify(this.#holder)) await unlink(this.#path).catch(() => {});
    held.delete(this.#holder.token);
  }
}

/** Makes the file of the lock, once no other process has it. */
async function make(path: string, holder: Holder): Promise<void> {
  for (let tries = 0; tries < TRIES; tries++) {
    try {
      const file = await open(path, "wx");
      try {
        await file.writeFile(JSON.stringify(holder));
      } finally {
        await file.close();
      }
      return;
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw storageError(error, `${path} cannot be made`);
    }
    await clearIfStale(path);
  }
  throw new VortexError("StorageFailed", `${path} is taken again and again by other processes`);
}

/** Removes the lock if its holder is gone. Rejects with `StorageFailed` if it is not. */
async function clearIfStale(path: string): Promise<void> {
  const text = await readFile(path, "utf8").catch(() => undefined);
  if (text === undefined) return;
  const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: 0 }));
  const holder = parse(text);
  if (holder === undefined) {
    // Whoever made it has not come to write it yet, or was killed before.
    if (Date.now() - mtimeMs < 1000) await sleep(100);
    else await clear(path, text);
    return;
  }
  if (await isAlive(holder, mtimeMs)) {
    throw new VortexError(
      "StorageFailed",
      `another download writes to the same file: process ${holder.pid} on ${holder.host} holds ${path}`,
    );
  }
  await clear(path, text);
}

/**
 * Removes the lock with this text, and no other. Two who found it stale must not both act on it, or the second one would remove
 * what a third has made since; so removing takes a lock of its own, which is held for two operations on a file.
 */
async function clear(path: string, text: string): Promise<void> {
  const guard = `${path}.guard`;
  try {
    await (await open(guard, "wx")).close();
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw storageError(error, `${guard} cannot be made`);
    const { mtimeMs } = await stat(guard).catch(() => ({ mtimeMs: Date.now() }));
    // Whoever made it was killed in between.
    if (Date.now() - mtimeMs > LONGEST_GUARD) await unlink(guard).catch(() => {});
    await sleep(10);
    return;
  }
  try {
    if ((await readFile(path, "utf8").catch(() => undefined)) === text) await unlink(path);
  } finally {
    await unlink(guard).catch(() => {});
  }
}

async function isAlive({ pid, host, started, token }: Holder, mtimeMs: number): Promise<boolean> {
  if (host !== hostname()) return Date.now() - mtimeMs < SILENCE;
  if (pid === process.pid && started === (await startOf(pid))) return held.has(token);
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it is there, and another user's.
    if (codeOf(error) !== "EPERM") return false;
  }
  const begun = await startOf(pid);
  return started === "" || begun === "" || begun === started;
}

/** When a process began, in ticks since the start of the system; empty where there is no /proc. */
async function startOf(pid: number): Promise<string> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  // The name of the program stands in parentheses and may hold anything; field 22 is the 20th after it.
  return text.slice(text.lastIndexOf(")") + 2).split(" ")[19] ?? "";
}

function parse(text: string): Holder | undefined {
  try {
    const { pid, host, started, token } = JSON.parse(text) as Partial<Record<keyof Holder, unknown>>;
    if (typeof pid !== "number" || typeof host !== "string") return undefined;
    if (typeof started !== "string" || typeof token !== "string") return undefined;
    return { pid, host, started, token };
  } catch {
    return undefined;
  }
}
