import { type FileHandle, open, rename, stat, unlink } from "node:fs/promises";
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
/**
 * Maximum age in ms of a holder's last heartbeat for a write without a check of the lock. With an
 * older one, the holder first reads the lock file to check that it still owns the lock. Less than
 * {@link MAX_SILENCE_MS}, since no other process takes the lock over before that.
 */
const MAX_UNCHECKED_MS = MAX_SILENCE_MS / 2;
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
  /**
   * The guarded files may have another writer: the lock was taken over from a holder that was
   * silent, but not provably dead. Kept until the lock is released.
   */
  readonly contested?: true;
}

/** Lock file that this process created. */
interface CreatedLock {
  readonly file: FileHandle;
  readonly holder: Holder;
}

/** Lock file that another process left behind. */
interface AbandonedLock {
  readonly text: string;
  /** True if that process may still be running. */
  readonly contested: boolean;
}

/** Dependencies of a {@link FileLock} that tests replace. */
export interface LockSettings {
  /** Clock for heartbeats. Default: system clock. */
  readonly clock?: Clock;
  /** File operations. Default: those of `node:fs/promises`. */
  readonly files?: LockFiles;
  /**
   * Moves the guarded files to new inodes. Called with the lock held, before `take` resolves, when
   * an earlier holder may still write to them. If it rejects, so does `take`, and the next taker
   * calls it again.
   */
  readonly detach?: (lock: FileLock) => Promise<void>;
}

/** File operations that create and remove lock files. */
export interface LockFiles {
  readonly open: typeof open;
  readonly rename: typeof rename;
  readonly unlink: typeof unlink;
  /** Returns the file system's time, as stats of a new file beside `path`. */
  readonly probe: typeof probeBeside;
}

const systemFiles: LockFiles = { open, rename, unlink, probe: probeBeside };

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
 * A silent holder may only be suspended (`SIGSTOP`) and continue later. So a process that takes its
 * lock over first moves the guarded files to new inodes ({@link LockSettings.detach}). A holder
 * whose heartbeat is late reads its lock before it writes ({@link FileLock.requireHeld}). A
 * suspension between that read and the next system call is not detected.
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
  /** Time of the last heartbeat that reached the lock file, in ms of the clock. */
  #lastHeartbeat: number;
  /** Error of the loss. Undefined while no other process is known to have taken the lock over. */
  #lost: VortexError | undefined;

  private constructor(path: string, { file, holder }: CreatedLock, clock: Clock, files: LockFiles) {
    this.#path = path;
    this.#text = JSON.stringify(holder);
    this.#token = holder.token;
    this.#file = file;
    this.#clock = clock;
    this.#files = files;
    this.#lastHeartbeat = clock.now();
    this.#timer = this.#scheduleHeartbeat();
  }

  /**
   * Takes the lock. Rejects with `StorageFailed` when another process holds it, or when the file
   * cannot be written.
   */
  static async take(path: string, settings: LockSettings = {}): Promise<FileLock> {
    const { clock = systemClock, files = systemFiles, detach } = settings;
    const token = crypto.randomUUID();
    const holder: Holder = { ...(await ownIdentity()), host: hostName() ?? "", token };
    // Registered before the file exists, because other attempts in this process check it.
    heldTokens.add(token);
    try {
      const created = await createLockFile(path, holder, files);
      const lock = new FileLock(path, created, clock, files);
      if (created.holder.contested && detach) await lock.#detach(detach);
      return lock;
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

  /**
   * Rejects with `StorageFailed` once another process has taken the lock over. Reads the lock only
   * when the last heartbeat is more than 30 s old: before that, no process takes it over.
   */
  async requireHeld(): Promise<void> {
    if (this.#lost !== undefined) throw this.#lost;
    if (this.#clock.now() - this.#lastHeartbeat <= MAX_UNCHECKED_MS) return;
    await this.confirm();
    await this.#writeHeartbeat();
    if (this.#lost !== undefined) throw this.#lost;
  }

  /** Reads the lock. Rejects with `StorageFailed` when it is lost or cannot be read. */
  async confirm(): Promise<void> {
    const text = await readSmallFile(this.#path, MAX_LOCK_FILE_BYTES).catch((error: unknown) => {
      throw storageError(error, `cannot read ${this.#path}`);
    });
    if (text !== this.#text)
      this.#lost ??= lostError(this.#path, text, this.#clock.now() - this.#lastHeartbeat);
    if (this.#lost !== undefined) throw this.#lost;
  }

  async #detach(detach: (lock: FileLock) => Promise<void>): Promise<void> {
    try {
      await detach(this);
    } catch (error) {
      this.#timer.cancel();
      await this.#heartbeats;
      // An empty lock makes its next taker detach the files, in this process too.
      await this.#file.truncate(0).catch(() => {});
      await this.#file.close().catch(() => {});
      throw error;
    }
  }

  #scheduleHeartbeat(): Timer {
    return this.#clock.setTimer(
      () => {
        this.#timer = this.#scheduleHeartbeat();
        void this.#writeHeartbeat();
      },
      HEARTBEAT_MS,
      { background: true },
    );
  }

  /** Writes a heartbeat after the previous ones, and reads the lock. Never rejects. */
  #writeHeartbeat(): Promise<void> {
    const beat = async (): Promise<void> => {
      // Read before the write, so that the file's modification time is no earlier.
      const now = this.#clock.now();
      // Writes the same text, to update the file's modification time.
      await writeFully(this.#file, this.#text, 0);
      await this.confirm();
      this.#lastHeartbeat = now;
    };
    // A failed heartbeat may lose the lock. `requireHeld` detects that before the next write.
    this.#heartbeats = this.#heartbeats.then(beat).catch(() => {});
    return this.#heartbeats;
  }
}

/** Creates the lock file once no other process holds it. Rejects with `StorageFailed`. */
async function createLockFile(
  path: string,
  holder: Holder,
  files: LockFiles,
): Promise<CreatedLock> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const file = await files.open(path, "wx").catch((error: unknown) => {
      if (codeOf(error) !== "EEXIST") throw storageError(error, `cannot create ${path}`);
      return undefined;
    });
    if (file !== undefined) {
      if (await writeHolder(file, path, holder, files)) return { file, holder };
      continue;
    }
    const abandoned = await readAbandonedLock(path, files);
    const created = abandoned && (await takeOver(path, abandoned, holder, files));
    if (created !== undefined) return created;
  }
  throw new VortexError("StorageFailed", `cannot lock ${path}: other processes keep taking it`);
}

/**
 * Writes the holder to a new lock file. Removes the file when that fails, as on a full disk,
 * because the next attempt would wait for it. Returns false when another process removed the file
 * before it was written.
 */
async function writeHolder(
  file: FileHandle,
  path: string,
  holder: Holder,
  files: LockFiles,
): Promise<boolean> {
  try {
    await writeFully(file, JSON.stringify(holder), 0);
    if (await isStillAt(path, file)) return true;
  } catch (error) {
    // Compared while the file is open: the inode of a closed file may be reused.
    if (await isStillAt(path, file).catch(() => false)) await files.unlink(path).catch(() => {});
    await file.close().catch(() => {});
    throw storageError(error, `cannot write ${path}`);
  }
  await file.close().catch(() => {});
  return false;
}

/**
 * Reads an abandoned lock. Undefined when the lock is gone, or when its process may be about to
 * write it. Rejects with `StorageFailed` while its holder is running.
 */
async function readAbandonedLock(
  path: string,
  files: LockFiles,
): Promise<AbandonedLock | undefined> {
  const text = await readSmallFile(path, MAX_LOCK_FILE_BYTES).catch((error: unknown) => {
    throw storageError(error, `cannot read ${path}`);
  });
  if (text === undefined) return undefined;
  if (text === "") {
    // Its process has not written the holder yet, or was killed before it did.
    if (((await ageOf(path, files)) ?? 0) >= MAX_WRITE_TIME_MS) return { text, contested: true };
    await sleep(100);
    return undefined;
  }
  const holder = parseHolder(text);
  const running = holder && (heldTokens.has(holder.token) || (await isRunningElsewhere(holder)));
  if (running === undefined) {
    const silence = (await ageOf(path, files)) ?? Number.POSITIVE_INFINITY;
    if (silence < MAX_SILENCE_MS) throw heldError(path, holder, silence);
  } else if (running) {
    throw heldError(path, holder);
  }
  return { text, contested: running === undefined || holder?.contested === true };
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
  const remedy =
    silence === undefined
      ? ""
      : `, last heartbeat ${seconds(silence)} ago; ` +
        `if it was killed, try again in ${seconds(MAX_SILENCE_MS - silence)}`;
  return new VortexError(
    "StorageFailed",
    `file in use by another download: ${nameOf(holder)} holds ${path}${remedy}`,
  );
}

/**
 * Creates the error for a lost lock.
 * @param text current text of the lock file
 * @param silence time since the last heartbeat, in ms
 */
function lostError(path: string, text: string | undefined, silence: number): VortexError {
  const how =
    text === undefined
      ? "was taken over or removed"
      : `was taken over by ${nameOf(parseHolder(text))}`;
  return new VortexError(
    "StorageFailed",
    `lock ${path} ${how}: expected a heartbeat every ${seconds(HEARTBEAT_MS)}, ` +
      `got none for ${seconds(silence)}; run this download again when no other download writes to the file`,
  );
}

function nameOf(holder: Holder | undefined): string {
  if (holder === undefined) return "another program";
  return `process ${holder.pid}${holder.host && ` on ${holder.host}`}`;
}

function seconds(milliseconds: number): string {
  return `${Math.ceil(milliseconds / 1000)} s`;
}

/**
/**
 * Replaces an abandoned lock by a new one in a single rename. Otherwise a process that finds no
 * lock in between would not learn of the earlier holder. Undefined when the abandoned lock is gone.
 *
 * Two processes that find a lock abandoned must not both replace it: the second one would replace
 * the new lock of the first. So the replacement holds a guard file for a few file operations.
 */
async function takeOver(
  path: string,
  { text, contested }: AbandonedLock,
  taker: Holder,
  files: LockFiles,
): Promise<CreatedLock | undefined> {
  const guard = `${path}.guard`;
  try {
    await (await files.open(guard, "wx")).close();
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw storageError(error, `cannot create ${guard}`);
    if (((await ageOf(guard, files)) ?? 0) >= MAX_GUARD_AGE_MS)
      await files.unlink(guard).catch(() => {});
    await sleep(10);
    return undefined;
  }
  try {
    return await replaceLock(path, text, { ...taker, ...(contested && { contested }) }, files);
  } finally {
    await files.unlink(guard).catch(() => {});
  }
}

/** Renames a new lock over the one with this text. Undefined when the lock has changed. */
async function replaceLock(
  path: string,
  text: string,
  holder: Holder,
  files: LockFiles,
): Promise<CreatedLock | undefined> {
  const fresh = `${path}.${crypto.randomUUID().slice(0, 8)}`;
  const file = await files.open(fresh, "wx").catch((error: unknown) => {
    throw storageError(error, `cannot create ${fresh}`);
  });
  if (!(await writeHolder(file, fresh, holder, files))) return undefined;
  try {
    if ((await readSmallFile(path, MAX_LOCK_FILE_BYTES).catch(() => undefined)) === text) {
      await files.rename(fresh, path);
      return { file, holder };
    }
  } catch (error) {
    await discard();
    throw storageError(error, `cannot replace ${path}`);
  }
  await discard();
  return undefined;

  async function discard(): Promise<void> {
    await file.close().catch(() => {});
    await files.unlink(fresh).catch(() => {});
  }
}

/**
 * Returns the time since the last write of a file, in ms, by the clock of its file system. A time
 * in the future counts by its absolute value: that clock was set back. Undefined when the file is
 * gone.
 */
async function ageOf(path: string, files: LockFiles): Promise<number | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found && Math.abs((await files.probe(path)).mtimeMs - found.mtimeMs);
}

/**
 * Parses a lock file. Undefined for a file of another program, or of another version of this one.
 */
function parseHolder(text: string): Holder | undefined {
  try {
    const { pid, system, started, host, token, contested } = JSON.parse(text) as Partial<
      Record<keyof Holder, unknown>
    >;
    if (!Number.isSafeInteger(pid) || typeof pid !== "number" || typeof system !== "string")
      return undefined;
    if (typeof started !== "string" || typeof host !== "string" || typeof token !== "string")
      return undefined;
    return { pid, system, started, host, token, ...(contested === true && { contested }) };
  } catch {
    return undefined;
  }
}
