import { type FileHandle, open, stat, unlink } from "node:fs/promises";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { VortexError } from "../../src/errors.ts";
import { type Clock, systemClock, type Timer } from "../../src/runtime.ts";
import { hostName } from "../shared/host-name.ts";
import { isStillAt, probeBeside, readSmallFile, writeFully } from "./own-file.ts";
import { isRunning, ownIdentity, type ProcessIdentity } from "./processes.ts";
import { codeOf, storageError } from "./storage-error.ts";

/** Time between two heartbeats of a holder, in ms. */
const HEARTBEAT_MS = 10_000;
/** Time without a heartbeat after which a holder counts as gone, in ms. */
const MAX_SILENCE_MS = 60_000;
/** Time between making a lock's file and writing it, in ms. */
const MAX_WRITING_MS = 1_000;
/** Age after which a guard counts as orphaned, in ms: its maker was killed. */
const MAX_GUARD_MS = 10_000;
/** Length of a lock's file, in bytes; a longer one is not of this program. */
const MAX_LENGTH = 4096;
/** Attempts at a lock that changes hands at the same time. */
const MAX_TRIES = 2000;

/** The holder of a lock, as its file says. */
interface Holder extends ProcessIdentity {
  /** For messages only: hosts may share a name. */
  readonly host: string;
  /** Tells two holders of one process apart. */
  readonly token: string;
}

/** What a lock needs of its surroundings. */
export interface LockSettings {
  /** Time for heartbeats. Default: the system's. */
  readonly clock?: Clock;
  /** Default: the runtime's own. */
  readonly files?: LockFiles;
}

/** The operations that make and remove the files of a lock. */
export interface LockFiles {
  readonly open: typeof open;
  readonly unlink: typeof unlink;
}

/** Tokens of the locks that this process holds. */
const held = new Set<string>();

/**
 * A lock between processes: a file that only one of them can make. A process that was killed leaves it behind, so another
 * one takes it over once its holder is gone.
 *
 * A holder gives a heartbeat every 10 s, and counts as gone after 60 s without one. Where both processes run under one boot id
 * and in one pid namespace, the holder's pid and start time decide instead, at once. Host names decide nothing: containers on a
 * shared volume often have the same.
 *
 * Only the file system's clock counts, which gives all files their times: the clocks of two hosts may differ by years. When that
 * clock is set, a lock counts as abandoned until its holder's next heartbeat.
 */
export class FileLock {
  readonly #path: string;
  readonly #text: string;
  readonly #token: string;
  /** Of the file as it was made: a file that another process puts in its place stays as it is. */
  readonly #file: FileHandle;
  readonly #clock: Clock;
  readonly #files: LockFiles;
  #timer: Timer;
  /** Heartbeats so far. */
  #beating: Promise<void> = Promise.resolve();

  private constructor(
    path: string,
    holder: Holder,
    file: FileHandle,
    clock: Clock,
    files: LockFiles,
  ) {
    this.#path = path;
    this.#text = JSON.stringify(holder);
    this.#token = holder.token;
    this.#file = file;
    this.#clock = clock;
    this.#files = files;
    this.#timer = this.#nextBeat();
  }

  /** Takes the lock. Rejects with `StorageFailed` when another process holds it, or the file cannot be written. */
  static async take(path: string, settings: LockSettings = {}): Promise<FileLock> {
    const { clock = systemClock, files = { open, unlink } } = settings;
    const token = crypto.randomUUID();
    const holder: Holder = { ...(await ownIdentity()), host: hostName() ?? "", token };
    // Before the file exists: other takers in this process look here.
    held.add(token);
    try {
      return new FileLock(path, holder, await make(path, holder, files), clock, files);
    } catch (error) {
      held.delete(token);
      throw error;
    }
  }

  /** Gives the lock back. Never rejects. */
  async release(): Promise<void> {
    this.#timer.cancel();
    await this.#beating;
    await this.#file.close().catch(() => {});
    // A lock that was taken over meanwhile belongs to the other process.
    if (await this.isHeld().catch(() => false))
      await this.#files.unlink(this.#path).catch(() => {});
    held.delete(this.#token);
  }

  /** Returns whether the lock is still this one. Another process takes it over when it sees no heartbeat. */
  async isHeld(): Promise<boolean> {
    return (await readSmallFile(this.#path, MAX_LENGTH)) === this.#text;
  }

  #nextBeat(): Timer {
    return this.#clock.setTimer(
      () => {
        this.#timer = this.#nextBeat();
        // Written unchanged, for the time that the file system gives the file. A heartbeat that fails may cost the lock, which
        // `isHeld` tells at the end; the download needs nothing of it before.
        const beat = (): Promise<void> => writeFully(this.#file, this.#text, 0).catch(() => {});
        this.#beating = this.#beating.then(beat);
      },
      HEARTBEAT_MS,
      { background: true },
    );
  }
}

/** Makes the file of the lock, once no other process holds it. */
async function make(path: string, holder: Holder, files: LockFiles): Promise<FileHandle> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const file = await files.open(path, "wx").catch((error: unknown) => {
      if (codeOf(error) !== "EEXIST") throw storageError(error, `${path} cannot be made`);
      return undefined;
    });
    if (file !== undefined) return await written(file, path, holder, files);
    await clearIfStale(path, files);
  }
  throw new VortexError("StorageFailed", `${path} is taken again and again by other processes`);
}

/** Writes the new file of a lock. Removes it when it cannot be written, as on a full disk: the next attempt would wait for it. */
async function written(
  file: FileHandle,
  path: string,
  holder: Holder,
  files: LockFiles,
): Promise<FileHandle> {
  try {
    await writeFully(file, JSON.stringify(holder), 0);
    return file;
  } catch (error) {
    // While it is open, since only an open file's inode is surely not another's.
    if (await isStillAt(path, file).catch(() => false)) await files.unlink(path).catch(() => {});
    await file.close().catch(() => {});
    throw storageError(error, `${path} cannot be written`);
  }
}

/** Removes the lock if its holder is gone. Rejects with `StorageFailed` if it is not. */
async function clearIfStale(path: string, files: LockFiles): Promise<void> {
  const text = await readSmallFile(path, MAX_LENGTH).catch((error: unknown) => {
    throw storageError(error, `${path} cannot be read`);
  });
  if (text === undefined) return;
  if (text === "") {
    // Its maker is about to write it, or was killed before.
    if (((await ageOf(path)) ?? 0) < MAX_WRITING_MS) await sleep(100);
    else await clear(path, text, files);
    return;
  }
  const holder = parse(text);
  const running = holder && (held.has(holder.token) || (await isRunningElsewhere(holder)));
  if (running === undefined) {
    const silence = (await ageOf(path)) ?? Number.POSITIVE_INFINITY;
    if (silence < MAX_SILENCE_MS) throw heldError(path, holder, silence);
  } else if (running) {
    throw heldError(path, holder);
  }
  await clear(path, text, files);
}

/** As {@link isRunning}. Another thread of this process has a `held` of its own, and may have been ended by itself: undefined. */
async function isRunningElsewhere(holder: Holder): Promise<boolean | undefined> {
  const running = await isRunning(holder);
  return running && holder.pid === process.pid ? undefined : running;
}

/** `silence` is the time since the last heartbeat, in ms, where that is what decides. */
function heldError(path: string, holder: Holder | undefined, silence?: number): VortexError {
  const who = holder && `process ${holder.pid}${holder.host && ` on ${holder.host}`}`;
  const what = `another download writes to the same file: ${who ?? "another program"} holds ${path}`;
  if (silence === undefined) return new VortexError("StorageFailed", what);
  const seconds = (milliseconds: number): string => `${Math.ceil(milliseconds / 1000)} s`;
  const rest = seconds(MAX_SILENCE_MS - silence);
  return new VortexError(
    "StorageFailed",
    `${what}; its last heartbeat was ${seconds(silence)} ago: if it was killed, try again in ${rest}`,
  );
}

/**
 * Removes the lock with this text, and no other. Two takers that find it stale must not both remove it, or the second one removes
 * what a third has made since. So removing takes a guard, which exists for two operations on a file.
 */
async function clear(path: string, text: string, files: LockFiles): Promise<void> {
  const guard = `${path}.guard`;
  try {
    await (await files.open(guard, "wx")).close();
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw storageError(error, `${guard} cannot be made`);
    if (((await ageOf(guard)) ?? 0) >= MAX_GUARD_MS) await files.unlink(guard).catch(() => {});
    await sleep(10);
    return;
  }
  try {
    if ((await readSmallFile(path, MAX_LENGTH).catch(() => undefined)) === text)
      await files.unlink(path);
  } finally {
    await files.unlink(guard).catch(() => {});
  }
}

/**
 * Time since a file was last written, in ms, by the clock of its file system; a time in the future was written before that clock
 * was set back. Undefined when the file is gone.
 */
async function ageOf(path: string): Promise<number | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found && Math.abs((await probeBeside(path)).mtimeMs - found.mtimeMs);
}

/** Undefined for a file of another program, or another version of this one. */
function parse(text: string): Holder | undefined {
  try {
    const { pid, system, started, host, token } = JSON.parse(text) as Partial<
      Record<keyof Holder, unknown>
    >;
    if (!Number.isSafeInteger(pid) || typeof pid !== "number" || typeof system !== "string")
      return undefined;
    if (typeof started !== "string" || typeof host !== "string" || typeof token !== "string")
      return undefined;
    return { pid, system, started, host, token };
  } catch {
    return undefined;
  }
}
