import { type FileHandle, open, stat, unlink } from "node:fs/promises";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { VortexError } from "../../src/errors.ts";
import { type Clock, systemClock, type Timer } from "../../src/runtime.ts";
import { hostName } from "../shared/host-name.ts";
import { isStillAt, probeBeside, readSmallFile, writeFully } from "./own-file.ts";
import { isRunning, ownIdentity, type ProcessIdentity } from "./processes.ts";
import { codeOf, storageError } from "./storage-error.ts";

/** Interval between heartbeats of a holder, in ms. */
const HEARTBEAT_MS = 10_000;
/** Time without a heartbeat after which a lock counts as abandoned, in ms. */
const MAX_SILENCE_MS = 60_000;
/** Max time between creating a lock file and writing its holder, in ms. */
const MAX_WRITE_TIME_MS = 1_000;
/** Age after which a guard file counts as abandoned, in ms: its process was killed. */
const MAX_GUARD_AGE_MS = 10_000;
/** Max length of a lock file, in bytes. A longer file belongs to another program. */
const MAX_LOCK_FILE_BYTES = 4096;
/** Max attempts to take a lock that other processes take and release meanwhile. */
const MAX_TRIES = 2000;

/** Holder of a lock, as written to the lock file. */
interface Holder extends ProcessIdentity {
  /** Host name, for messages only: hosts may share a name. */
  readonly host: string;
  /** Random id that separates locks of the same process. */
  readonly token: string;
}

/** Dependencies of a {@link FileLock} that tests replace. */
export interface LockSettings {
  /** Clock for heartbeats. Default: system clock. */
  readonly clock?: Clock;
  /** File operations. Default: those of `node:fs/promises`. */
  readonly files?: LockFiles;
}

/** File operations that create and remove lock files. */
export interface LockFiles {
  readonly open: typeof open;
  readonly unlink: typeof unlink;
}

/** Tokens of the locks that this process holds or is about to take. */
const heldTokens = new Set<string>();

/**
 * Lock between processes, by exclusive creation of a file. A killed process leaves the file behind,
 * so another process takes the lock over once its holder is gone.
 *
 * A holder writes a heartbeat every 10 s, and its lock counts as abandoned after 60 s without one.
 * Within the same boot and pid namespace, the holder's pid and start time are checked instead,
 * without a delay. Host names are not compared, because containers on a shared volume often have
 * the same.
 *
 * Ages are measured by the clock of the file system, because the clocks of two hosts may differ by
 * years. When that clock is changed, a lock may count as abandoned until its holder's next
 * heartbeat.
 */
export class FileLock {
  readonly #path: string;
  readonly #text: string;
  readonly #token: string;
  /** Handle of the created file. Heartbeats by it never touch a file that replaced it. */
  readonly #file: FileHandle;
  readonly #clock: Clock;
  readonly #files: LockFiles;
  #timer: Timer;
  /** Resolves when the heartbeats so far are written. */
  #heartbeats: Promise<void> = Promise.resolve();

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
    this.#timer = this.#scheduleHeartbeat();
  }

  /**
   * Takes the lock. Rejects with `StorageFailed` when another process holds it, or when the file
   * cannot be written.
   */
  static async take(path: string, settings: LockSettings = {}): Promise<FileLock> {
    const { clock = systemClock, files = { open, unlink } } = settings;
    const token = crypto.randomUUID();
    const holder: Holder = { ...(await ownIdentity()), host: hostName() ?? "", token };
    // Registered before the file exists, because other attempts in this process check it.
    heldTokens.add(token);
    try {
      return new FileLock(path, holder, await createLockFile(path, holder, files), clock, files);
    } catch (error) {
      heldTokens.delete(token);
      throw error;
    }
  }

  /** Releases the lock. Never rejects. */
  async release(): Promise<void> {
    this.#timer.cancel();
    await this.#heartbeats;
    await this.#file.close().catch(() => {});
    // A lock that was taken over belongs to the other process.
    if (await this.isHeld().catch(() => false))
      await this.#files.unlink(this.#path).catch(() => {});
    heldTokens.delete(this.#token);
  }

  /** Returns false if another process took the lock over, after missing heartbeats. */
  async isHeld(): Promise<boolean> {
    return (await readSmallFile(this.#path, MAX_LOCK_FILE_BYTES)) === this.#text;
  }

  #scheduleHeartbeat(): Timer {
    return this.#clock.setTimer(
      () => {
        this.#timer = this.#scheduleHeartbeat();
        // Writes the same text, to update the file's modification time. A failed heartbeat may lose
        // the lock. `isHeld` detects that before the download commits its file.
        const beat = (): Promise<void> => writeFully(this.#file, this.#text, 0).catch(() => {});
        this.#heartbeats = this.#heartbeats.then(beat);
      },
      HEARTBEAT_MS,
      { background: true },
    );
  }
}

/** Creates the lock file once no other process holds it. Rejects with `StorageFailed`. */
async function createLockFile(path: string, holder: Holder, files: LockFiles): Promise<FileHandle> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const file = await files.open(path, "wx").catch((error: unknown) => {
      if (codeOf(error) !== "EEXIST") throw storageError(error, `cannot create ${path}`);
      return undefined;
    });
    if (file !== undefined) return await writeHolder(file, path, holder, files);
    await removeIfStale(path, files);
  }
  throw new VortexError("StorageFailed", `cannot lock ${path}: other processes keep taking it`);
}

/**
 * Writes the holder to a new lock file. Removes the file when that fails, as on a full disk,
 * because the next attempt would wait for it.
 */
async function writeHolder(
  file: FileHandle,
  path: string,
  holder: Holder,
  files: LockFiles,
): Promise<FileHandle> {
  try {
    await writeFully(file, JSON.stringify(holder), 0);
    return file;
  } catch (error) {
    // Compared while the file is open: the inode of a closed file may be reused.
    if (await isStillAt(path, file).catch(() => false)) await files.unlink(path).catch(() => {});
    await file.close().catch(() => {});
    throw storageError(error, `cannot write ${path}`);
  }
}

/** Removes an abandoned lock. Rejects with `StorageFailed` while its holder is running. */
async function removeIfStale(path: string, files: LockFiles): Promise<void> {
  const text = await readSmallFile(path, MAX_LOCK_FILE_BYTES).catch((error: unknown) => {
    throw storageError(error, `cannot read ${path}`);
  });
  if (text === undefined) return;
  if (text === "") {
    // Its process has not written the holder yet, or was killed before it did.
    if (((await ageOf(path)) ?? 0) < MAX_WRITE_TIME_MS) await sleep(100);
    else await removeLock(path, text, files);
    return;
  }
  const holder = parseHolder(text);
  const running = holder && (heldTokens.has(holder.token) || (await isRunningElsewhere(holder)));
  if (running === undefined) {
    const silence = (await ageOf(path)) ?? Number.POSITIVE_INFINITY;
    if (silence < MAX_SILENCE_MS) throw heldError(path, holder, silence);
  } else if (running) {
    throw heldError(path, holder);
  }
  await removeLock(path, text, files);
}

/**
 * Checks whether the holder runs, like {@link isRunning}. Undefined for this process: the holder
 * may be a thread with a separate `heldTokens`, which may have ended.
 */
async function isRunningElsewhere(holder: Holder): Promise<boolean | undefined> {
  const running = await isRunning(holder);
  return running && holder.pid === process.pid ? undefined : running;
}

/**
 * Creates the error for a lock that another download holds.
 * @param silence time since the last heartbeat in ms, when the heartbeat decides
 */
function heldError(path: string, holder: Holder | undefined, silence?: number): VortexError {
  const owner = holder && `process ${holder.pid}${holder.host && ` on ${holder.host}`}`;
  const holding = `${owner ?? "another program"} holds ${path}`;
  const seconds = (milliseconds: number): string => `${Math.ceil(milliseconds / 1000)} s`;
  const remedy =
    silence === undefined
      ? ""
      : `, last heartbeat ${seconds(silence)} ago; ` +
        `if it was killed, try again in ${seconds(MAX_SILENCE_MS - silence)}`;
  return new VortexError("StorageFailed", `file in use by another download: ${holding}${remedy}`);
}

/**
 * Removes the lock file if it still contains `text`. Two processes that find it abandoned must not
 * both remove it: the second one could remove the new lock of a third. So the removal holds a guard
 * file for two file operations.
 */
async function removeLock(path: string, text: string, files: LockFiles): Promise<void> {
  const guard = `${path}.guard`;
  try {
    await (await files.open(guard, "wx")).close();
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw storageError(error, `cannot create ${guard}`);
    if (((await ageOf(guard)) ?? 0) >= MAX_GUARD_AGE_MS) await files.unlink(guard).catch(() => {});
    await sleep(10);
    return;
  }
  try {
    if ((await readSmallFile(path, MAX_LOCK_FILE_BYTES).catch(() => undefined)) === text)
      await files.unlink(path);
  } finally {
    await files.unlink(guard).catch(() => {});
  }
}

/**
 * Returns the time since the last write of a file, in ms, by the clock of its file system. A time
 * in the future counts by its absolute value: that clock was set back. Undefined when the file is
 * gone.
 */
async function ageOf(path: string): Promise<number | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found && Math.abs((await probeBeside(path)).mtimeMs - found.mtimeMs);
}

/**
 * Parses a lock file. Undefined for a file of another program, or of another version of this one.
 */
function parseHolder(text: string): Holder | undefined {
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
