import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { type FileHandle, mkdtemp, open, rename, rm, unlink } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { describe, it } from "node:test";
import { FileLock, type LockFiles } from "../../../adapters/files/lock.ts";
import { probeBeside } from "../../../adapters/files/own-file.ts";
import { ownIdentity, type ProcessIdentity } from "../../../adapters/files/processes.ts";
import { VortexError } from "../../../src/errors.ts";
import { assertRejects } from "../../support/failures.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { root, runner, startProgram } from "../../support/run.ts";

const YEAR_MS = 365 * 86_400_000;
/** Reason to skip tests that identify processes by pid; empty where that works. */
const noPids = existsSync("/proc/self/ns/pid")
  ? ""
  : " [gap: no /proc, so heartbeats alone decide]";
/** Reason to skip tests that create a pid namespace; empty where that works. */
const noNamespaces =
  spawnSync("unshare", ["--pid", "--fork", "--mount-proc", "true"]).status === 0
    ? ""
    : " [gap: needs root, for a pid namespace]";
const files: LockFiles = { open, rename, unlink, probe: probeBeside };

/**
 * Runs a test with the path of a lock in a new directory. Afterwards, only `left` may remain there.
 */
async function withLock(
  run: (path: string) => Promise<void>,
  left: readonly string[] = [],
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-lock-"));
  try {
    await run(join(directory, "lock"));
    assert.deepEqual(readdirSync(directory).sort(), left);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Returns the text of a lock file with another token than the locks of this process. */
async function textOf(
  changes: Partial<ProcessIdentity> & { readonly host?: string } = {},
): Promise<string> {
  return JSON.stringify({
    ...(await ownIdentity()),
    host: hostname(),
    token: crypto.randomUUID(),
    ...changes,
  });
}

/** Sets the times of a file to `age` ms ago. */
function setAge(path: string, age: number): void {
  const past = new Date(Date.now() - age);
  utimesSync(path, past, past);
}

/** Returns file operations whose file system says that `path` was written exactly `age` ms ago. */
function agedExactly(path: string, age: number): LockFiles {
  const seconds = 1_000_000_000;
  utimesSync(path, seconds, seconds);
  const probe: LockFiles["probe"] = async (name) =>
    Object.assign(await probeBeside(name), { mtimeMs: seconds * 1000 + age });
  return { ...files, probe };
}

/** Clock that also advances without its timers, as in a suspended process. */
class SuspendableClock extends FakeClock {
  /** Time that passed without firing timers, in ms. */
  suspended = 0;

  override now(): number {
    return super.now() + this.suspended;
  }
}

/** Makes process 17 on a host named `there` the holder of a lock. */
async function loseTo17(path: string): Promise<void> {
  unlinkSync(path);
  writeFileSync(path, await textOf({ system: "elsewhere", host: "there", pid: 17 }));
}

/** Takes the lock and releases it. */
async function takeOver(path: string): Promise<void> {
  await (await FileLock.take(path)).release();
}

describe("a lock", () => {
  it("excludes a second download of this process until the first has ended", () =>
    withLock(async (path) => {
      const lock = await FileLock.take(path);
      setAge(path, YEAR_MS);
      const error = await assertRejects(FileLock.take(path), "StorageFailed");
      assert.equal(
        error.message,
        `file in use by another download: process ${process.pid} on ${hostname()} holds ${path}`,
      );
      assert.equal(await lock.isHeld(), true);
      await lock.release();
      await takeOver(path);
    }));

  it("of another version or another program is judged by its heartbeats", () =>
    withLock(async (path) => {
      const complete = JSON.parse(await textOf());
      const incomplete = Object.keys(complete).map((key) =>
        JSON.stringify({ ...complete, [key]: null }),
      );
      for (const text of [
        "garbage",
        "{}",
        "null",
        ...incomplete,
        JSON.stringify({ ...complete, pid: 1.5 }),
      ]) {
        writeFileSync(path, text);
        const error = await assertRejects(FileLock.take(path), "StorageFailed");
        assert.match(error.message, /another program holds .*, last heartbeat \d s ago/);
        setAge(path, 61_000);
        await takeOver(path);
      }
    }));

  it("that is abandoned goes to one of many concurrent takers", () =>
    withLock(async (path) => {
      for (let round = 0; round < 20; round++) {
        writeFileSync(path, await textOf({ system: "elsewhere" }));
        setAge(path, YEAR_MS);
        const takers = await Promise.allSettled(
          Array.from({ length: 8 }, () => FileLock.take(path)),
        );
        const locks = takers.flatMap((taker) =>
          taker.status === "fulfilled" ? [taker.value] : [],
        );
        assert.equal(locks.length, 1);
        await locks[0]?.release();
      }
    }));

  it("that other processes keep taking fails after 2000 attempts", () =>
    withLock(async (path) => {
      let tries = 0;
      const taken = async (): Promise<never> => {
        tries++;
        throw Object.assign(new Error("it exists"), { code: "EEXIST" });
      };
      const error = await assertRejects(
        FileLock.take(path, { files: { ...files, open: taken } }),
        "StorageFailed",
      );
      assert.equal(error.message, `cannot lock ${path}: other processes keep taking it`);
      assert.equal(tries, 2000);
    }));

  it("with a file that is not a lock fails and leaves the file", () =>
    withLock(async (path) => {
      writeFileSync(path, "x".repeat(4097));
      setAge(path, YEAR_MS);
      const error = await assertRejects(FileLock.take(path), "StorageFailed");
      assert.match(error.message, /lock: not a file of this program/);
      assert.equal(statSync(path).size, 4097);
      writeFileSync(path, "x".repeat(4096));
      setAge(path, YEAR_MS);
      await takeOver(path);
    }));
});

describe("a lock's heartbeat", () => {
  it("is valid for 60 s, and the message has the remaining time", () =>
    withLock(async (path) => {
      writeFileSync(path, await textOf({ system: "elsewhere", host: "there", pid: 17 }));
      setAge(path, 50_000);
      const { message } = await assertRejects(FileLock.take(path), "StorageFailed");
      const [, ago, rest] =
        /^file in use by another download: process 17 on there holds \S+, last heartbeat (\d+) s ago; if it was killed, try again in (\d+) s$/.exec(
          message,
        ) ?? [];
      // Allows for the time that the call takes on a busy machine.
      assert.ok(Number(ago) >= 50 && Number(ago) <= 60, message);
      assert.ok(
        Number(rest) <= 11 && Number(rest) >= 0 && Number(ago) + Number(rest) <= 61,
        message,
      );
      setAge(path, 61_000);
      await takeOver(path);
    }));

  it("is measured by the file system's clock, independent of this host's clock", async () => {
    const { now } = Date;
    for (const years of [-10, 0, 10]) {
      await withLock(async (path) => {
        const text = await textOf({ system: "elsewhere" });
        Date.now = () => now() + years * YEAR_MS;
        try {
          writeFileSync(path, text);
          await assertRejects(FileLock.take(path), "StorageFailed");
          for (const past of [-120_000, -10 * YEAR_MS, 10 * YEAR_MS]) {
            writeFileSync(path, text);
            const time = new Date(now() + past);
            utimesSync(path, time, time);
            await takeOver(path);
          }
        } finally {
          Date.now = now;
        }
      });
    }
  });

  it("is written every 10 s, and never to a file that another process has created since", () =>
    withLock(async (path) => {
      const clock = new FakeClock();
      const lock = await FileLock.take(path, { clock });
      const text = readFileSync(path, "utf8");
      const { now } = Date;
      Date.now = () => now() + 10 * YEAR_MS;
      try {
        for (let beat = 0; beat < 2; beat++) {
          const past = new Date(now() - YEAR_MS);
          utimesSync(path, past, past);
          await clock.advance(9_999);
          assert.ok(statSync(path).mtimeMs < now() - YEAR_MS / 2);
          await clock.advance(1);
          while (statSync(path).mtimeMs < now() - YEAR_MS / 2) await settle();
          assert.ok(statSync(path).mtimeMs < now() + YEAR_MS);
        }
        assert.equal(readFileSync(path, "utf8"), text);
        unlinkSync(path);
        writeFileSync(path, "another's");
        await clock.advance(10_000);
      } finally {
        Date.now = now;
      }
      assert.equal(await lock.isHeld(), false);
      await lock.release();
      assert.equal(readFileSync(path, "utf8"), "another's");
      assert.equal(clock.pending, 0);
      unlinkSync(path);
    }));

  it("does not keep the process alive, and its failure is ignored", () =>
    withLock(async (path) => {
      const clock = new FakeClock();
      const background: unknown[] = [];
      const setTimer = clock.setTimer.bind(clock);
      const recording: FakeClock["setTimer"] = (callback, milliseconds, ...rest: unknown[]) => {
        background.push(...rest);
        return setTimer(callback, milliseconds);
      };
      let failures = 0;
      const failing = wrapped((file) => ({
        write: async (...args: Parameters<FileHandle["write"]>) => {
          if (background.length < 2) return file.write(...args);
          failures++;
          throw new Error("the disk is gone");
        },
      }));
      const lock = await FileLock.take(path, {
        clock: Object.assign(clock, { setTimer: recording }),
        files: failing,
      });
      await clock.advance(30_000);
      assert.ok(failures > 0);
      assert.deepEqual(
        background,
        Array.from({ length: 4 }, () => ({ background: true })),
      );
      await lock.release();
    }));

  it("in flight completes before the file is closed, and after the previous one", () =>
    withLock(async (path) => {
      const clock = new FakeClock();
      const calls: string[] = [];
      const go: (() => void)[] = [];
      const slow = wrapped((file) => ({
        write: async (...args: Parameters<FileHandle["write"]>) => {
          calls.push("write");
          if (calls.length > 1) await new Promise<void>((resolve) => go.push(resolve));
          calls.push("written");
          return file.write(...args);
        },
        close: () => {
          calls.push("close");
          return file.close();
        },
      }));
      const lock = await FileLock.take(path, { clock, files: slow });
      await clock.advance(20_000);
      const released = lock.release();
      for (let beat = 0; beat < 2; beat++) {
        while (go[beat] === undefined) await settle();
        go[beat]?.();
      }
      await released;
      const beats = ["write", "written", "write", "written"];
      assert.deepEqual(calls, ["write", "written", ...beats, "close"]);
    }));
});

describe(`a lock's pid, in one pid namespace of one boot,${noPids}`, {
  skip: noPids !== "",
}, () => {
  it("holds the lock while the process runs, even without heartbeats", () =>
    withLock(async (path) => {
      const child = spawn("sleep", ["1000"], { stdio: "ignore" });
      await once(child, "spawn");
      const { pid = 0 } = child;
      const text = await textOf({ pid, started: startOf(pid) });
      writeFileSync(path, text);
      setAge(path, YEAR_MS);
      const error = await assertRejects(FileLock.take(path), "StorageFailed");
      assert.ok(
        error.message.endsWith(`process ${pid} on ${hostname()} holds ${path}`),
        error.message,
      );
      child.kill("SIGKILL");
      await once(child, "exit");
      writeFileSync(path, text);
      await takeOver(path);
    }));

  it("lets the next process take over the lock of a killed one at once", { timeout: 60_000 }, () =>
    withLock(async (path) => {
      const holder = startProgram([...runner, `${root}test/support/lock-holder.ts`, path]);
      assert.equal(await holder.line(), "held");
      await assertRejects(FileLock.take(path), "StorageFailed");
      holder.kill();
      await holder.ended;
      await takeOver(path);
    }),
  );

  it("with another start time belongs to another process, even if it is this one's pid", () =>
    withLock(async (path) => {
      for (const pid of [process.ppid, process.pid]) {
        writeFileSync(path, await textOf({ pid, started: "1" }));
        await takeOver(path);
      }
    }));

  it("of a zombie counts as gone", () =>
    withLock(async (path) => {
      const parent = startProgram(["sh", "-c", "sleep 1000 & echo $! $$; exec sleep 1001"]);
      try {
        const [pid = 0, parentId] = (await parent.line()).split(" ").map(Number);
        const started = startOf(pid);
        // A shell would reap it. `sleep`, which replaces the shell by exec, does not.
        while (!readFileSync(`/proc/${parentId}/cmdline`, "utf8").startsWith("sleep"))
          await settle();
        process.kill(pid, "SIGKILL");
        while (!readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ")) await settle();
        writeFileSync(path, await textOf({ pid, started }));
        await takeOver(path);
      } finally {
        parent.kill();
        await parent.ended;
      }
    }));

  for (const [what, changes] of [
    ["another boot", { system: `${"0".repeat(36)} pid:[1]` }],
    ["an unknown system", { system: "" }],
    ["an unknown start time", { started: "" }],
  ] as const) {
    it(`with ${what} is ignored, and heartbeats decide`, () =>
      withLock(async (path) => {
        const child = spawn(process.execPath, ["--version"], { stdio: "ignore" });
        const { pid = 0 } = child;
        await once(child, "exit");
        const { started } = await ownIdentity();
        writeFileSync(path, await textOf({ pid, started, ...changes }));
        const { message } = await assertRejects(FileLock.take(path), "StorageFailed");
        assert.match(message, /, last heartbeat /);
        setAge(path, 61_000);
        await takeOver(path);
      }));
  }

  it("of this process is ignored for a lock of another thread, which may have ended", () =>
    withLock(async (path) => {
      writeFileSync(path, await textOf());
      const { message } = await assertRejects(FileLock.take(path), "StorageFailed");
      assert.match(message, /, last heartbeat /);
      setAge(path, 61_000);
      await takeOver(path);
    }));
});

describe("the time limits of a lock", () => {
  it("declare a holder of another system gone after exactly 60 s of silence", () =>
    withLock(async (path) => {
      writeFileSync(path, await textOf({ system: "elsewhere" }));
      const early = agedExactly(path, 59_999);
      const { message } = await assertRejects(
        FileLock.take(path, { files: early }),
        "StorageFailed",
      );
      assert.match(message, /, last heartbeat 60 s ago; if it was killed, try again in 1 s$/);
      await (await FileLock.take(path, { files: agedExactly(path, 60_000) })).release();
    }));

  it("declare a lock without content abandoned after exactly 1 s", () =>
    withLock(async (path) => {
      writeFileSync(path, "");
      let probes = 0;
      const young = agedExactly(path, 999);
      const probe: LockFiles["probe"] = async (name) => {
        // From the third probe on, one millisecond older.
        const stats = await young.probe(name);
        return Object.assign(stats, { mtimeMs: stats.mtimeMs + (++probes < 3 ? 0 : 1) });
      };
      await (await FileLock.take(path, { files: { ...files, probe } })).release();
      assert.equal(probes, 3);
    }));

  it("declare a guard abandoned after exactly 10 s", () =>
    withLock(async (path) => {
      const guard = `${path}.guard`;
      writeFileSync(path, await textOf({ system: "elsewhere" }));
      writeFileSync(guard, "");
      let probes = 0;
      const young = agedExactly(guard, 9_999);
      const probe: LockFiles["probe"] = async (name) => {
        if (name !== guard) return probeBeside(name);
        const stats = await young.probe(name);
        return Object.assign(stats, { mtimeMs: stats.mtimeMs + (++probes < 3 ? 0 : 1) });
      };
      setAge(path, YEAR_MS);
      await (await FileLock.take(path, { files: { ...files, probe } })).release();
      assert.equal(probes, 3);
    }));
});

describe("the files that an abandoned lock guards", () => {
  /** Takes the lock and releases it. Returns how often the files were detached. */
  async function detachCountOf(path: string): Promise<number> {
    let count = 0;
    const detach = async (lock: FileLock): Promise<void> => {
      assert.equal(await lock.isHeld(), true);
      count++;
    };
    await (await FileLock.take(path, { detach })).release();
    return count;
  }

  it("are detached when the holder was only silent, before `take` resolves", () =>
    withLock(async (path) => {
      for (const text of [await textOf({ system: "elsewhere" }), "another program", ""]) {
        writeFileSync(path, text);
        setAge(path, YEAR_MS);
        assert.equal(await detachCountOf(path), 1, text);
      }
    }));

  it("are not detached when there was no lock", () =>
    withLock(async (path) => assert.equal(await detachCountOf(path), 0)));

  it(`are not detached when the holder is provably dead${noPids}`, { skip: noPids !== "" }, () =>
    withLock(async (path) => {
      writeFileSync(path, await textOf({ started: "1" }));
      assert.equal(await detachCountOf(path), 0);
    }),
  );

  it(
    `are detached when a taker was killed after it had taken over from a silent holder${noPids}`,
    { skip: noPids !== "" },
    () =>
      withLock(async (path) => {
        writeFileSync(path, await textOf({ system: "elsewhere" }));
        setAge(path, YEAR_MS);
        const lock = await FileLock.take(path);
        const { started: _, ...holder } = JSON.parse(readFileSync(path, "utf8"));
        await lock.release();
        // Looks like the lock of a process whose pid was reused.
        writeFileSync(path, JSON.stringify({ ...holder, started: "1" }));
        assert.equal(await detachCountOf(path), 1);
        writeFileSync(path, JSON.stringify({ ...holder, started: "1", contested: "yes" }));
        assert.equal(await detachCountOf(path), 0);
      }),
  );

  it("are never without a lock, so every taker learns of the silent holder", () =>
    withLock(async (path) => {
      const text = await textOf({ system: "elsewhere" });
      writeFileSync(path, text);
      setAge(path, YEAR_MS);
      const seen: boolean[] = [];
      const watched: LockFiles = {
        ...files,
        open: ((name: string, flags: string) => {
          seen.push(existsSync(path));
          return open(name, flags);
        }) as typeof open,
        unlink: async (name) => {
          await unlink(name);
          seen.push(existsSync(path));
        },
      };
      const lock = await FileLock.take(path, { files: watched });
      assert.ok(seen.length >= 4 && !seen.includes(false), String(seen));
      await lock.release();
    }));

  it("are detached by the next taker, in this process too, when the first taker failed to", () =>
    withLock(async (path) => {
      writeFileSync(path, await textOf({ system: "elsewhere" }));
      setAge(path, YEAR_MS);
      const clock = new FakeClock();
      const opened = wrapped(() => ({}));
      const full = new VortexError("StorageFailed", "the disk is full");
      const taking = FileLock.take(path, {
        clock,
        files: opened,
        detach: () => Promise.reject(full),
      });
      await assert.rejects(taking, full);
      assert.deepEqual([readFileSync(path, "utf8"), clock.pending], ["", 0]);
      await assertClosed(opened);
      setAge(path, 1_000);
      assert.equal(await detachCountOf(path), 1);
    }));
});

it("a lock that was neither given out nor emptied is judged by its heartbeats", () =>
  withLock(async (path) => {
    writeFileSync(path, await textOf({ system: "elsewhere" }));
    setAge(path, YEAR_MS);
    const stuck = wrapped(() => ({ truncate: () => Promise.reject(failure("EIO")) }));
    const detach = (): Promise<void> => Promise.reject(new Error("the disk is full"));
    await assert.rejects(FileLock.take(path, { files: stuck, detach }), /the disk is full/);
    const { message } = await assertRejects(FileLock.take(path), "StorageFailed");
    assert.match(message, /, last heartbeat /);
    setAge(path, 61_000);
    await takeOver(path);
  }));

describe("a suspended holder", () => {
  const lost =
    /^lock \S+ was taken over by process 17 on there: expected a heartbeat every 10 s, got none for 31 s; run this download again when no other download writes to the file$/;

  it("reads its lock before it writes, once its last heartbeat is more than 30 s old", () =>
    withLock(async (path) => {
      const clock = new SuspendableClock();
      const lock = await FileLock.take(path, { clock });
      await loseTo17(path);
      clock.suspended = 30_000;
      await lock.requireHeld();
      clock.suspended += 1;
      const error = await assertRejects(lock.requireHeld(), "StorageFailed");
      assert.match(error.message, lost);
      // The lock stays lost, whatever happens to the file.
      unlinkSync(path);
      clock.suspended = 0;
      assert.equal(await assertRejects(lock.requireHeld(), "StorageFailed"), error);
      assert.equal(await assertRejects(lock.confirm(), "StorageFailed"), error);
      await lock.release();
    }));

  it("continues when no other process took the lock, after one heartbeat for all its writes", () =>
    withLock(async (path) => {
      const clock = new SuspendableClock();
      let writes = 0;
      const counting = wrapped((file) => ({
        write: (...args: Parameters<FileHandle["write"]>) => {
          writes++;
          return file.write(...args);
        },
      }));
      const lock = await FileLock.take(path, { clock, files: counting });
      setAge(path, YEAR_MS);
      clock.suspended = 31_000;
      await lock.requireHeld();
      assert.ok(statSync(path).mtimeMs > Date.now() - YEAR_MS / 2);
      await lock.requireHeld();
      assert.equal(writes, 2);
      await lock.release();
    }));

  it("reads its lock before each write while its heartbeats fail", () =>
    withLock(async (path) => {
      const clock = new SuspendableClock();
      let failing = false;
      const dying = wrapped((file) => ({
        write: (...args: Parameters<FileHandle["write"]>) =>
          failing ? Promise.reject(failure("EIO")) : file.write(...args),
      }));
      const lock = await FileLock.take(path, { clock, files: dying });
      failing = true;
      clock.suspended = 31_000;
      await lock.requireHeld();
      await loseTo17(path);
      assert.match((await assertRejects(lock.requireHeld(), "StorageFailed")).message, lost);
      unlinkSync(path);
      await lock.release();
    }));

  it("detects the loss at its next heartbeat when its clock was suspended too", () =>
    withLock(async (path) => {
      const clock = new FakeClock();
      const lock = await FileLock.take(path, { clock });
      unlinkSync(path);
      await lock.requireHeld();
      await clock.advance(10_000);
      const checked = (): Promise<string> =>
        lock.requireHeld().then(
          () => "held",
          ({ message }: VortexError) => message,
        );
      while ((await checked()) === "held") await settle();
      assert.match(await checked(), /was taken over or removed: expected a heartbeat every 10 s/);
      await lock.release();
    }));

  it("between creating its lock and writing it loses the lock to the next taker", () =>
    withLock(async (path) => {
      let taken: FileLock | undefined;
      const stopped = wrapped((file) => ({
        write: async (...args: Parameters<FileHandle["write"]>) => {
          if (taken === undefined) {
            setAge(path, 1_000);
            taken = await FileLock.take(path);
          }
          return file.write(...args);
        },
      }));
      const error = await assertRejects(FileLock.take(path, { files: stopped }), "StorageFailed");
      assert.match(error.message, /^file in use by another download: /);
      assert.equal(await taken?.isHeld(), true);
      await assertClosed(stopped);
      await taken?.release();
    }));

  it("loses its lock to a process that takes it over during a late heartbeat", () =>
    withLock(async (path) => {
      const clock = new SuspendableClock();
      let late = false;
      const racing = wrapped((file) => ({
        write: async (...args: Parameters<FileHandle["write"]>) => {
          if (late) await loseTo17(path);
          return file.write(...args);
        },
      }));
      const lock = await FileLock.take(path, { clock, files: racing });
      late = true;
      clock.suspended = 31_000;
      assert.match((await assertRejects(lock.requireHeld(), "StorageFailed")).message, lost);
      await lock.release();
      assert.equal(JSON.parse(readFileSync(path, "utf8")).pid, 17);
      unlinkSync(path);
    }));

  it("does not write when it cannot read its lock", () =>
    withLock(async (path) => {
      const clock = new SuspendableClock();
      const lock = await FileLock.take(path, { clock });
      unlinkSync(path);
      writeFileSync(path, "x".repeat(5000));
      clock.suspended = 31_000;
      await assertRejects(lock.requireHeld(), "StorageFailed");
      unlinkSync(path);
      await lock.release();
    }));
});

it(
  `a lock of a container with the same host name is not taken over${noNamespaces}`,
  { skip: noNamespaces !== "", timeout: 60_000 },
  () =>
    withLock(async (path) => {
      const container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
      const holder = startProgram([
        ...container,
        ...runner,
        `${root}test/support/lock-holder.ts`,
        path,
      ]);
      try {
        assert.equal(await holder.line(), "held");
        const { pid, host } = JSON.parse(readFileSync(path, "utf8"));
        assert.equal(host, hostname());
        assert.ok(pid < 10, "the pid is that of a namespace that has just been made");
        await assertRejects(FileLock.take(path), "StorageFailed");
        holder.end();
        const { code, err } = await holder.ended;
        assert.deepEqual([code, err], [0, ""]);
        await takeOver(path);
      } finally {
        holder.kill();
        await holder.ended;
      }
    }),
);

describe("a lock's file", () => {
  it("that cannot be written is removed at once, and the lock is not held", () =>
    withLock(async (path) => {
      const full = wrapped(() => ({ write: () => Promise.reject(failure("ENOSPC")) }));
      for (let tries = 0; tries < 2; tries++) {
        const error = await assertRejects(FileLock.take(path, { files: full }), "StorageFailed");
        assert.equal(error.message, `cannot write ${path}: no space left on device`);
        assert.equal(existsSync(path), false);
      }
      assert.equal(full.opened.length, 2);
      await assertClosed(full);
      await takeOver(path);
    }));

  it("that cannot be written is kept if another process has replaced it", () =>
    withLock(async (path) => {
      const slow = wrapped(() => ({
        write: async () => {
          unlinkSync(path);
          writeFileSync(path, "another's");
          throw failure("ENOSPC");
        },
      }));
      await assertRejects(FileLock.take(path, { files: slow }), "StorageFailed");
      assert.equal(readFileSync(path, "utf8"), "another's");
      unlinkSync(path);
    }));

  it("that cannot be written is kept if another process may have replaced it", () =>
    withLock(async (path) => {
      const blind = wrapped(() => ({
        write: () => Promise.reject(failure("EIO")),
        stat: () => Promise.reject(failure("EIO")),
      }));
      await assertRejects(FileLock.take(path, { files: blind }), "StorageFailed");
      assert.equal(existsSync(path), true);
      unlinkSync(path);
    }));

  it("that replaced the lock's own is kept on release", () =>
    withLock(async (path) => {
      const lock = await FileLock.take(path);
      unlinkSync(path);
      writeFileSync(path, "x".repeat(5000));
      await lock.release();
      assert.equal(statSync(path).size, 5000);
      unlinkSync(path);
    }));

  it("is written completely when the disk accepts a byte at a time", () =>
    withLock(async (path) => {
      const short = wrapped((file) => ({
        write: (bytes: Uint8Array, at: number, _length: number, position: number) =>
          file.write(bytes, at, 1, position),
      }));
      const lock = await FileLock.take(path, { files: short });
      assert.equal(await lock.isHeld(), true);
      assert.equal(JSON.parse(readFileSync(path, "utf8")).pid, process.pid);
      await lock.release();
    }));

  it("that cannot be created gives StorageFailed with the reason", () =>
    withLock(async (path) => {
      const refusing = { ...files, open: () => Promise.reject(failure("EACCES")) };
      const error = await assertRejects(FileLock.take(path, { files: refusing }), "StorageFailed");
      assert.equal(error.message, `cannot create ${path}: permission denied`);
    }));

  it("has a registered holder from its creation on", () =>
    withLock(async (path) => {
      let second: Promise<unknown> = Promise.resolve();
      const watched = wrapped((file) => ({
        write: async (...args: Parameters<FileHandle["write"]>) => {
          const written = await file.write(...args);
          setAge(path, YEAR_MS);
          second = assertRejects(FileLock.take(path), "StorageFailed");
          await second;
          return written;
        },
      }));
      const lock = await FileLock.take(path, { files: watched });
      await second;
      await lock.release();
    }));

  it("has a registered holder until its removal", () =>
    withLock(async (path) => {
      const calls: string[] = [];
      const watched = wrapped(
        (file) => ({
          close: async () => {
            calls.push("close");
            await file.close();
          },
        }),
        async (name) => {
          calls.push("unlink");
          setAge(path, YEAR_MS);
          await assertRejects(FileLock.take(path), "StorageFailed");
          await unlink(name);
        },
      );
      await (await FileLock.take(path, { files: watched })).release();
      assert.deepEqual(calls, ["close", "unlink"]);
    }));

  it("that cannot be removed delays a later download of this process only until the heartbeat expires", () =>
    withLock(async (path) => {
      const stuck = wrapped(
        () => ({}),
        () => Promise.reject(failure("EROFS")),
      );
      await (await FileLock.take(path, { files: stuck })).release();
      assert.match(
        (await assertRejects(FileLock.take(path), "StorageFailed")).message,
        /, last heartbeat /,
      );
      setAge(path, 61_000);
      await takeOver(path);
    }, []));

  it("without content is waited for, because its process may be about to write it", () =>
    withLock(async (path) => {
      writeFileSync(path, "");
      let attempts = 0;
      const watched = wrapped(
        () => ({}),
        unlink,
        () => {
          attempts++;
          // Independent of the speed of this machine.
          setAge(path, 0);
        },
      );
      const taking = FileLock.take(path, { files: watched });
      let over = false;
      const note = (): void => {
        over = true;
      };
      taking.then(note, note);
      while (attempts < 1) await settle();
      const began = performance.now();
      while (attempts < 2) await settle();
      assert.ok(performance.now() - began > 50, "100 ms between two attempts");
      assert.equal(over, false);
      writeFileSync(path, await textOf({ system: "elsewhere", pid: 17 }));
      const error = await assertRejects(taking, "StorageFailed");
      assert.match(error.message, /process 17 on /);
      unlinkSync(path);
    }));

  it("without content is taken over after a second", () =>
    withLock(async (path) => {
      writeFileSync(path, "");
      setAge(path, 1_100);
      const opened: string[] = [];
      const watched = wrapped(
        () => ({}),
        unlink,
        (name) => opened.push(name.slice(path.length)),
      );
      await (await FileLock.take(path, { files: watched })).release();
      const [lock, guard, fresh = "", ...others] = opened;
      assert.deepEqual(
        [lock, guard, others],
        ["", ".guard", []],
        "taken over at the first attempt",
      );
      assert.match(fresh, /^\.[0-9a-f]{8}$/);
    }));
});

describe("the guard of an abandoned lock", () => {
  it("exists from before the new lock is written until it has replaced the abandoned one", () =>
    withLock(async (path) => {
      const calls: string[] = [];
      const suffix = (name: unknown): string =>
        String(name)
          .slice(path.length)
          .replace(/[0-9a-f]{8}/, "new");
      const watched: LockFiles = {
        ...files,
        open: ((name: string, flags: string) => {
          calls.push(`open ${suffix(name)}`);
          return open(name, flags);
        }) as typeof open,
        rename: async (from, to) => {
          calls.push(`rename ${suffix(from)} ${suffix(to)}`);
          await rename(from, to);
        },
        unlink: async (name) => {
          calls.push(`unlink ${suffix(name)}`);
          await unlink(name);
        },
      };
      writeFileSync(path, await textOf({ system: "elsewhere" }));
      setAge(path, YEAR_MS);
      const lock = await FileLock.take(path, { files: watched });
      const replaced = ["open .new", "rename .new ", "unlink .guard"];
      assert.deepEqual(calls, ["open ", "open .guard", ...replaced]);
      await lock.release();
    }));

  it("of a killed process is removed after 10 s, and not before", () =>
    withLock(async (path) => {
      const guard = `${path}.guard`;
      writeFileSync(path, await textOf({ system: "elsewhere" }));
      setAge(path, YEAR_MS);
      writeFileSync(guard, "");
      let attempts = 0;
      const removedAt: number[] = [];
      const watched = wrapped(
        () => ({}),
        async (name) => {
          if (name === guard) removedAt.push(attempts);
          await unlink(name);
        },
        (name) => {
          // At the fifth attempt, the guard is older than its max age.
          if (name === guard && ++attempts === 5) setAge(guard, 11_000);
        },
      );
      const began = performance.now();
      await (await FileLock.take(path, { files: watched })).release();
      // The abandoned guard at the fifth attempt, and this taker's own at the sixth.
      assert.deepEqual([removedAt, attempts], [[5, 6], 6]);
      assert.ok(performance.now() - began > 40, "10 ms between two attempts");
    }));

  it("is removed when the lock cannot be replaced, and so is the new lock", () =>
    withLock(async (path) => {
      const text = await textOf({ system: "elsewhere" });
      writeFileSync(path, text);
      setAge(path, YEAR_MS);
      const stuck = wrapped(() => ({}), unlink, undefined, {
        rename: () => Promise.reject(failure("EROFS")),
      });
      const error = await assertRejects(FileLock.take(path, { files: stuck }), "StorageFailed");
      assert.equal(error.message, `cannot replace ${path}: read-only file system`);
      assert.equal(readFileSync(path, "utf8"), text);
      await assertClosed(stuck);
      unlinkSync(path);
    }, []));

  it("is removed when the new lock cannot be written, and the abandoned lock stays", () =>
    withLock(async (path) => {
      const text = await textOf({ system: "elsewhere" });
      writeFileSync(path, text);
      setAge(path, YEAR_MS);
      const full = wrapped(() => ({ write: () => Promise.reject(failure("ENOSPC")) }));
      const error = await assertRejects(FileLock.take(path, { files: full }), "StorageFailed");
      assert.match(error.message, /^cannot write \S+lock\.[0-9a-f]{8}: no space left on device/);
      assert.equal(readFileSync(path, "utf8"), text);
      unlinkSync(path);
    }, []));

  it("is removed when the new lock cannot be created", () =>
    withLock(async (path) => {
      writeFileSync(path, await textOf({ system: "elsewhere" }));
      setAge(path, YEAR_MS);
      const refusing: LockFiles = {
        ...files,
        open: ((name: string, flags: string) =>
          /\.[0-9a-f]{8}$/.test(name)
            ? Promise.reject(failure("EROFS"))
            : open(name, flags)) as typeof open,
      };
      const error = await assertRejects(FileLock.take(path, { files: refusing }), "StorageFailed");
      assert.match(error.message, /^cannot create \S+lock\.[0-9a-f]{8}: read-only file system/);
      unlinkSync(path);
    }, []));

  it("that cannot be created gives StorageFailed with the reason", () =>
    withLock(async (path) => {
      writeFileSync(path, await textOf({ system: "elsewhere" }));
      setAge(path, YEAR_MS);
      const refusing: LockFiles = {
        ...files,
        open: ((name: string, flags: string) =>
          name === path ? open(name, flags) : Promise.reject(failure("EROFS"))) as typeof open,
      };
      const error = await assertRejects(FileLock.take(path, { files: refusing }), "StorageFailed");
      assert.equal(error.message, `cannot create ${path}.guard: read-only file system`);
      unlinkSync(path);
    }));

  it("protects a lock that was created meanwhile", () =>
    withLock(async (path) => {
      writeFileSync(path, await textOf({ system: "elsewhere" }));
      setAge(path, YEAR_MS);
      const since = await textOf({ system: "elsewhere", pid: 18 });
      const watched = wrapped(
        () => ({}),
        unlink,
        (name) => {
          if (name.endsWith(".guard")) writeFileSync(path, since);
        },
      );
      const error = await assertRejects(FileLock.take(path, { files: watched }), "StorageFailed");
      assert.match(error.message, /process 18 on /);
      assert.equal(readFileSync(path, "utf8"), since);
      unlinkSync(path);
    }));
});

/** Returns the start time of a process as in its lock file. */
function startOf(pid: number): string {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  return text.slice(text.lastIndexOf(")") + 2).split(" ")[19] ?? "";
}

function failure(code: string): Error {
  return Object.assign(new Error("native"), { code });
}

/** Checks that every file opened with these operations is closed. */
async function assertClosed({ opened }: ReturnType<typeof wrapped>): Promise<void> {
  for (const { file } of opened) await assert.rejects(file.stat(), "the file is closed");
}

/** Creates file operations with replacements, and records the files that they open. */
function wrapped(
  replace: (file: FileHandle) => object,
  remove: (path: string) => Promise<void> = unlink,
  onOpen: (path: string) => void = () => {},
  more: Partial<LockFiles> = {},
): LockFiles & { readonly opened: { readonly file: FileHandle }[] } {
  const opened: { file: FileHandle }[] = [];
  const opening = async (path: string, flags: string): Promise<FileHandle> => {
    onOpen(path);
    const file = await open(path, flags);
    opened.push({ file });
    const replaced = replace(file);
    return new Proxy(file, {
      get(target, key) {
        const value: unknown = Reflect.get(key in replaced ? replaced : target, key);
        return typeof value === "function"
          ? value.bind(key in replaced ? replaced : target)
          : value;
      },
    });
  };
  const changed = { open: opening as typeof open, unlink: remove as typeof unlink };
  return { ...files, ...changed, ...more, opened };
}
