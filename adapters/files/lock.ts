import { type FileHandle, open, readFile, stat, unlink } from "node:fs/promises";
import { hostname } from "node:os";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { VortexError } from "../../src/errors.ts";
import { type Clock, systemClock, type Timer } from "../../src/runtime.ts";
import { readSmallFile } from "./own-file.ts";
import { codeOf, storageError } from "./storage-error.ts";

/** Milliseconds between two signs of life of a holder. */
const BEAT = 10_000;
/** Milliseconds without one, after which a holder on another host counts as gone. */
const SILENCE = 60_000;
/** Milliseconds in which whoever made a lock writes it. */
const WRITING = 1_000;
/** Milliseconds after which a guard belongs to nobody. */
const LONGEST_GUARD = 10_000;
/** Bytes of a lock that is read. */
const LONGEST = 4096;
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
 *
 * How long ago that was is told by the file system alone, which gives both files their times: the clocks of two hosts may differ
 * by years. When that one clock is set anew, a lock counts as abandoned until its holder's next sign of life, 10 s at most.
 */
export class FileLock {
  readonly #path: string;
  readonly #holder: Holder;
  /** Of the file as it was made: what another process makes in its place stays as it is. */
  readonly #file: FileHandle;
  readonly #clock: Clock;
  #beat: Timer;
  /** The sign of life under way. */
  #beating: Promise<void> = Promise.resolve();

  private constructor(path: string, holder: Holder, file: FileHandle, clock: Clock) {
    this.#path = path;
    this.#holder = holder;
    this.#file = file;
    this.#clock = clock;
    this.#beat = this.#nextBeat();
  }

  /**
   * Takes the lock. Rejects with `StorageFailed` when another process holds it, or the file cannot be made.
   *
   * @param clock what signs of life go by
   */
  static async take(path: string, clock: Clock = systemClock): Promise<FileLock> {
    const { pid } = process;
    const token = crypto.randomUUID();
    const holder: Holder = { pid, host: hostname(), started: await startOf(pid), token };
    // Before the file can be seen: others of this process look here whether it is alive.
    held.add(token);
    try {
      return new FileLock(path, holder, await make(path, holder), clock);
    } catch (error) {
      held.delete(token);
      throw error;
    }
  }

  /** Gives the lock back. Never rejects. */
  async release(): Promise<void> {
    this.#beat.cancel();
    await this.#beating;
    await this.#file.close().catch(() => {});
    // One that was taken over meanwhile belongs to the other process.
    if (await this.isHeld().catch(() => false)) await unlink(this.#path).catch(() => {});
    held.delete(this.#holder.token);
  }

  /** Whether nobody has taken the lock over, as another host does when it sees no sign of life. */
  async isHeld(): Promise<boolean> {
    return (await readSmallFile(this.#path, LONGEST)) === JSON.stringify(this.#holder);
  }

  #nextBeat(): Timer {
    return this.#clock.setTimer(
      () => {
        this.#beat = this.#nextBeat();
        // Written as it is, so that the time of the file is its file system's now. Without a sign of life the lock is lost to another
        // host at worst; the download itself needs nothing of it.
        this.#beating = this.#file.write(JSON.stringify(this.#holder), 0).then(
          () => {},
          () => {},
        );
      },
      BEAT,
      { background: true },
    );
  }
}

/** Makes the file of the lock, once no other process has it. */
async function make(path: string, holder: Holder): Promise<FileHandle> {
  for (let tries = 0; tries < TRIES; tries++) {
    try {
      const file = await open(path, "wx");
      try {
        await file.write(JSON.stringify(holder), 0);
      } catch (error) {
        await file.close();
        throw error;
      }
      return file;
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw storageError(error, `${path} cannot be made`);
    }
    await clearIfStale(path);
  }
  throw new VortexError("StorageFailed", `${path} is taken again and again by other processes`);
}

/** Removes the lock if its holder is gone. Rejects with `StorageFailed` if it is not. */
async function clearIfStale(path: string): Promise<void> {
  const text = await readSmallFile(path, LONGEST).catch((error: unknown) => {
    throw storageError(error, `${path} cannot be read`);
  });
  if (text === undefined) return;
  const holder = parse(text);
  if (holder === undefined) {
    // Whoever made it has not come to write it yet, or was killed before.
    if ((await isYoung(path, WRITING)) === false) await clear(path, text);
    else await sleep(100);
    return;
  }
  if (await isAlive(holder, path)) {
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
    // Whoever made it was killed in between.
    if ((await isYoung(guard, LONGEST_GUARD)) === false) await unlink(guard).catch(() => {});
    await sleep(10);
    return;
  }
  try {
    if ((await readSmallFile(path, LONGEST).catch(() => undefined)) === text) await unlink(path);
  } finally {
    await unlink(guard).catch(() => {});
  }
}

async function isAlive({ pid, host, started, token }: Holder, path: string): Promise<boolean> {
  if (host !== hostname()) return (await isYoung(path, SILENCE)) === true;
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

/**
 * Whether a file was written within the last `milliseconds`, by the clock of its file system, which is asked by a file made beside it.
 * What is of the future was written before that clock was set back. Undefined when the file is gone.
 */
async function isYoung(path: string, milliseconds: number): Promise<boolean | undefined> {
  const written = await stat(path).catch(() => undefined);
  if (written === undefined) return undefined;
  const probe = `${path}.${crypto.randomUUID()}`;
  try {
    const file = await open(probe, "wx");
    const { mtimeMs: now } = await file.stat().finally(() => file.close());
    return Math.abs(now - written.mtimeMs) < milliseconds;
  } catch (error) {
    throw storageError(error, `${probe} cannot be made`);
  } finally {
    await unlink(probe).catch(() => {});
  }
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
