/** Damage to leftover files between two downloads, and obstacles that prevent a download. */
import { mkdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import process from "node:process";
import { FileLock } from "../../adapters/files/lock.ts";
import { ownIdentity } from "../../adapters/files/processes.ts";
import {
  COMPLETE,
  contentOf,
  crc32,
  digestBytes,
  type Files,
  lineOf,
  type Part,
  type Task,
} from "./journal-model.ts";

/** Damage done to the files before a download, by name. The number selects the position or form. */
export const damages: Readonly<Record<string, (files: Files, task: Task, number: number) => void>> =
  {
    "part gone": (files) => {
      files.part = undefined;
    },
    "part cut": (files, _task, number) => {
      files.part &&= files.part.subarray(0, number % (files.part.length + 1));
    },
    "part longer": (files, _task, number) => {
      files.part = Buffer.concat([
        files.part ?? Buffer.alloc(0),
        Buffer.alloc(1 + (number % 3000)),
      ]);
    },
    "a byte of the part": (files, _task, number) => {
      files.part = withByteChanged(files.part, number, (byte) => byte ^ (1 + (number % 255)));
    },
    "a piece in the part": (files, { parts }, number) => {
      const { position, bytes } = pick(parts, number) ?? {
        position: 0,
        bytes: new Uint8Array(0),
      };
      const part = Buffer.alloc(Math.max(files.part?.length ?? 0, position + bytes.length));
      files.part?.copy(part);
      part.set(bytes, position);
      files.part = part;
    },
    "all in the part": (files, { wanted }) => {
      files.part = Buffer.from(wanted);
    },
    "another's part": (files, { content }) => {
      files.part = Buffer.from(contentOf(2, content.length));
    },
    "journal gone": (files) => {
      files.journal = undefined;
    },
    "journal cut": (files, _task, number) => {
      files.journal &&= files.journal.subarray(0, number % (files.journal.length + 1));
    },
    "the journal's end cut": (files, _task, number) => {
      files.journal &&= files.journal.subarray(0, -1 - (number % 30));
    },
    "a byte of the journal": (files, _task, number) => {
      files.journal = withByteChanged(files.journal, number, () => (number >> 12) & 0xff);
    },
    "another journal": (files, { header }, number) => {
      const others = [
        `${header} `,
        header.replace('"version":2', '"version":1'),
        header.replace(/"digest":.*/, '"digest":"sha256:0"}'),
        header.replace(/,"digest":.*/, "}"),
        "{}",
        header.slice(0, -1),
        "",
        COMPLETE,
      ];
      files.journal = Buffer.from(
        `${pick(others, number)}\n${files.journal?.toString("latin1").replace(/^.*\n/, "")}`,
      );
    },
    "journal begun": (files, { header }) => {
      files.journal = Buffer.from(`${header}\n`);
    },
    "journal ahead": (files, { header, parts }) => {
      files.journal = Buffer.from(`${[header, ...parts.map(({ line }) => line)].join("\n")}\n`);
    },
    "a line": (files, { parts }, number) => {
      files.journal = appended(
        files.journal,
        `${lineFor(pick(parts, number), pick(parts, number + 1), number >> 8)}\n`,
      );
    },
    "all bytes, with a random line for each piece": (files, { header, parts, wanted }, number) => {
      const lines = parts.map((part, at) => lineFor(part, pick(parts, at + 1), number + at));
      files.journal = Buffer.from(`${[header, ...lines].join("\n")}\n`);
      files.part = Buffer.from(wanted);
    },
    "half a line": (files, { parts }, number) => {
      files.journal = appended(
        files.journal,
        pick(parts, number)?.line.slice(0, 1 + ((number >> 8) % 20)) ?? "{",
      );
    },
    "binary data in the journal": (files, _task, number) => {
      files.journal = Buffer.concat([
        files.journal ?? Buffer.alloc(0),
        Buffer.alloc(1 + (number % 9), 0xff),
        Buffer.from("\n"),
      ]);
    },
    "lines twice and backwards": (files) => {
      const [header = "", ...lines] = files.journal?.toString("latin1").trimEnd().split("\n") ?? [];
      files.journal = Buffer.from([header, ...lines, ...lines.reverse(), ""].join("\n"), "latin1");
    },
    "the completion line": (files) => {
      files.journal = appended(files.journal, `${COMPLETE}\n`);
    },
    "the part renamed": (files) => {
      files.path = files.part ?? files.path;
      files.part = undefined;
    },
    "an older file": (files, { wanted }, number) => {
      files.path = Buffer.alloc(wanted.length + (number % 3) * (number % 2), 7);
    },
  };

function withByteChanged(
  bytes: Buffer | undefined,
  number: number,
  to: (byte: number) => number,
): Buffer | undefined {
  if (bytes === undefined || bytes.length === 0) return bytes;
  const copy = Buffer.from(bytes);
  const at = number % copy.length;
  copy[at] = to(copy[at] ?? 0);
  return copy;
}

function appended(bytes: Buffer | undefined, text: string): Buffer {
  return Buffer.concat([bytes ?? Buffer.alloc(0), Buffer.from(text)]);
}

function pick<T>(all: readonly T[], number: number): T | undefined {
  return all[number % all.length];
}

/** Returns a journal line for a piece: valid, invalid or meaningless, selected by `number`. */
function lineFor(part: Part | undefined, next: Part | undefined, number: number): string {
  if (part === undefined || next === undefined) return "{}";
  const { number: own, bytes, line } = part;
  const { digest } = JSON.parse(line);
  const check = crc32(bytes);
  const lines = [
    line,
    lineOf(own, digestBytes("sha512", bytes), check),
    lineOf(
      own,
      digestBytes("sha256", bytes).replace(/:.*/, (hex) => hex.toUpperCase()),
      check,
    ),
    line.replace("{", '{ "more": [1], '),
    // Valid except for one field.
    lineOf(own, JSON.parse(next.line).digest, check),
    lineOf(own, digest, crc32(next.bytes)),
    lineOf(own, digest, String(check)),
    lineOf(own, digest, check, "b:1"),
    lineOf(own, digest, check, null),
    lineOf(own, digest, check, 7),
    lineOf(own, "md5:1", check),
    lineOf(own, "", check),
    lineOf(own, `${digest} `, check),
    lineOf(own, undefined, check),
    lineOf(next.number, digest, check),
    lineOf(String(own), digest, check),
    lineOf(own + 0.5, digest, check),
    lineOf(-1, digest, check),
    lineOf(99, digest, check),
    ...["null", "[]", "7", "{}", "", "\u0000", '{"number":1e999}'],
  ];
  return pick(lines, number) ?? "";
}

// --- obstacles

const { system } = await ownIdentity();
const otherHost = { system: "another boot", host: "elsewhere" };

/** Returns the text of a lock file held by another process, the parent of this one. */
export const foreignLock = (changes: object = {}): string =>
  JSON.stringify({
    pid: process.ppid,
    system,
    host: hostname(),
    started: "",
    token: "t",
    ...changes,
  });
/**
 * Obstacle on systems where a pid cannot be matched to a process. The lock's heartbeat then
 * decides, and the download is refused.
 */
const holdWithoutSystemId: Obstacle | undefined = system === "" ? {} : undefined;
/** Pid that belongs to no process. */
const UNUSED_PID = 2 ** 31 - 2;

/** Writes a lock file `age` seconds old; with `withGuard`, also a stale guard for lock takeover. */
function writeLock(path: string, text: string, age = 0, withGuard = false): void {
  write(`${path}.part.lock`, text, age);
  // The process that created the guard was killed while it held the guard.
  if (withGuard) write(`${path}.part.lock.guard`, "", 20);
}

function write(path: string, text: string, age: number): void {
  writeFileSync(path, text);
  const time = Date.now() / 1000 - age;
  if (age !== 0) utimesSync(path, time, time);
}

/** State that makes a download fail before it starts. */
interface Obstacle {
  /** Removes the obstacle. */
  readonly end?: () => Promise<void>;
}

/** Obstacles by name. A setup returns undefined if the download must proceed despite it. */
export const obstacles: Readonly<
  Record<string, (path: string) => Obstacle | undefined | Promise<Obstacle>>
> = {
  "this process": async (path) => {
    const own = await FileLock.take(`${path}.part.lock`);
    return { end: () => own.release() };
  },
  "a process": (path) => {
    writeLock(path, foreignLock({}));
    return {};
  },
  "a process that is gone": (path) => {
    writeLock(path, foreignLock({ pid: UNUSED_PID, started: "1" }));
    return holdWithoutSystemId;
  },
  "a process that is gone, and a stale guard": (path) => {
    writeLock(path, foreignLock({ pid: UNUSED_PID, started: "1" }), 0, true);
    return holdWithoutSystemId;
  },
  "an earlier process of this id": (path) => {
    writeLock(path, foreignLock({ started: "1" }));
    return holdWithoutSystemId;
  },
  "this process, earlier": (path) => {
    writeLock(path, foreignLock({ pid: process.pid, started: "1" }));
    return holdWithoutSystemId;
  },
  "this process, whose other thread was killed": (path) => {
    writeLock(path, foreignLock({ pid: process.pid }), 80);
    return undefined;
  },
  "another host": (path) => {
    writeLock(path, foreignLock({ pid: UNUSED_PID, ...otherHost }), 40);
    return {};
  },
  "another host whose clock is ahead": (path) => {
    writeLock(path, foreignLock({ pid: UNUSED_PID, ...otherHost }), -40);
    return {};
  },
  "another host that is silent": (path) => {
    writeLock(path, foreignLock(otherHost), 80);
    return undefined;
  },
  "another host before the clock was set back": (path) => {
    writeLock(path, foreignLock(otherHost), -80);
    return undefined;
  },
  "an empty lock": (path) => {
    writeLock(path, "", 3);
    return undefined;
  },
  "an old lock that is half written": (path) => {
    writeLock(path, foreignLock({}).slice(0, -5), 80, true);
    return undefined;
  },
  "another program": (path) => {
    writeLock(path, foreignLock({}).slice(0, -5), 3);
    return {};
  },
  ...Object.fromEntries(
    ["pid", "system", "host", "started", "token"].flatMap((key) => [
      [
        `another program: no ${key}`,
        (path: string) => {
          writeLock(path, foreignLock({ [key]: undefined }), 3);
          return {};
        },
      ],
      [
        `an old lock without ${key}`,
        (path: string) => {
          writeLock(path, foreignLock({ [key]: undefined }), 80);
          return undefined;
        },
      ],
    ]),
  ),
  "a directory of its name": (path) => replaceByDirectory(path),
  "a directory of the part's": (path) => replaceByDirectory(`${path}.part`),
  "a directory of the journal's": (path) => replaceByDirectory(`${path}.part.journal`),
};

function replaceByDirectory(path: string): Obstacle {
  rmSync(path, { force: true });
  mkdirSync(path);
  return {};
}
