/** What becomes of the files of a download between two of them, and what is in its way. */
import { mkdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import process from "node:process";
import { FileLock } from "../../adapters/files/lock.ts";
import { ownIdentity } from "../../adapters/files/processes.ts";
import {
  COMPLETE,
  contentOf,
  crc32,
  type Files,
  lineOf,
  type Part,
  sum,
  type Task,
} from "./journal-model.ts";

/** What is done to the files before the task is asked for; the number says to what of them. */
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
      files.part = changed(files.part, number, (byte) => byte ^ (1 + (number % 255)));
    },
    "a piece in the part": (files, { parts }, number) => {
      const { position, bytes } = chosen(parts, number) ?? {
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
      files.journal = changed(files.journal, number, () => (number >> 12) & 0xff);
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
        `${chosen(others, number)}\n${files.journal?.toString("latin1").replace(/^.*\n/, "")}`,
      );
    },
    "journal begun": (files, { header }) => {
      files.journal = Buffer.from(`${header}\n`);
    },
    "journal ahead": (files, { header, parts }) => {
      files.journal = Buffer.from(`${[header, ...parts.map(({ line }) => line)].join("\n")}\n`);
    },
    "a line": (files, { parts }, number) => {
      files.journal = added(
        files.journal,
        `${lineFor(chosen(parts, number), chosen(parts, number + 1), number >> 8)}\n`,
      );
    },
    "all there, and each told in some way": (files, { header, parts, wanted }, number) => {
      const lines = parts.map((part, at) => lineFor(part, chosen(parts, at + 1), number + at));
      files.journal = Buffer.from(`${[header, ...lines].join("\n")}\n`);
      files.part = Buffer.from(wanted);
    },
    "half a line": (files, { parts }, number) => {
      files.journal = added(
        files.journal,
        chosen(parts, number)?.line.slice(0, 1 + ((number >> 8) % 20)) ?? "{",
      );
    },
    "no text": (files, _task, number) => {
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
    "the end noted": (files) => {
      files.journal = added(files.journal, `${COMPLETE}\n`);
    },
    "the part renamed": (files) => {
      files.path = files.part ?? files.path;
      files.part = undefined;
    },
    "an older file": (files, { wanted }, number) => {
      files.path = Buffer.alloc(wanted.length + (number % 3) * (number % 2), 7);
    },
  };

function changed(
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

function added(bytes: Buffer | undefined, text: string): Buffer {
  return Buffer.concat([bytes ?? Buffer.alloc(0), Buffer.from(text)]);
}

function chosen<T>(all: readonly T[], number: number): T | undefined {
  return all[number % all.length];
}

/** A line that says what is right of a piece, what is wrong, or nothing. */
function lineFor(part: Part | undefined, next: Part | undefined, number: number): string {
  if (part === undefined || next === undefined) return "{}";
  const { number: own, bytes, line } = part;
  const { digest } = JSON.parse(line);
  const check = crc32(bytes);
  const lines = [
    line,
    lineOf(own, sum("sha512", bytes), check),
    lineOf(
      own,
      sum("sha256", bytes).replace(/:.*/, (hex) => hex.toUpperCase()),
      check,
    ),
    line.replace("{", '{ "more": [1], '),
    // Right but for one thing.
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
  return chosen(lines, number) ?? "";
}

// --- what is in the way

const { system } = await ownIdentity();
const elsewhere = { system: "another boot", host: "elsewhere" };

/** The text of a lock that is not this process's. */
export const other = (changes: object = {}): string =>
  JSON.stringify({
    pid: process.ppid,
    system,
    host: hostname(),
    started: "",
    token: "t",
    ...changes,
  });
/** Keeps a download away where the system does not say which process a pid is: the heartbeat decides then. */
const unlessComparable: Hold | undefined = system === "" ? {} : undefined;
/** Of no process. */
const gone = 2 ** 31 - 2;

/** Puts a lock there, written so many seconds ago, and what takes locks of processes away that are gone. */
function lock(path: string, text: string, age = 0, guarded = false): void {
  write(`${path}.part.lock`, text, age);
  // Whoever made it was killed over it.
  if (guarded) write(`${path}.part.lock.guard`, "", 20);
}

function write(path: string, text: string, age: number): void {
  writeFileSync(path, text);
  const time = Date.now() / 1000 - age;
  if (age !== 0) utimesSync(path, time, time);
}

/** What keeps a download away. */
interface Hold {
  /** Ends it. */
  readonly end?: () => Promise<void>;
}

/** What is in the way of a download; undefined for what does not keep it away. */
export const obstacles: Readonly<
  Record<string, (path: string) => Hold | undefined | Promise<Hold>>
> = {
  "this process": async (path) => {
    const own = await FileLock.take(`${path}.part.lock`);
    return { end: () => own.release() };
  },
  "a process": (path) => {
    lock(path, other({}));
    return {};
  },
  "a process that is gone": (path) => {
    lock(path, other({ pid: gone, started: "1" }));
    return unlessComparable;
  },
  "a process that is gone, and one that was about to see it": (path) => {
    lock(path, other({ pid: gone, started: "1" }), 0, true);
    return unlessComparable;
  },
  "an earlier process of this id": (path) => {
    lock(path, other({ started: "1" }));
    return unlessComparable;
  },
  "this process, earlier": (path) => {
    lock(path, other({ pid: process.pid, started: "1" }));
    return unlessComparable;
  },
  "this process, whose other thread was killed": (path) => {
    lock(path, other({ pid: process.pid }), 80);
    return undefined;
  },
  "another host": (path) => {
    lock(path, other({ pid: gone, ...elsewhere }), 40);
    return {};
  },
  "another host whose clock is ahead": (path) => {
    lock(path, other({ pid: gone, ...elsewhere }), -40);
    return {};
  },
  "another host that is silent": (path) => {
    lock(path, other(elsewhere), 80);
    return undefined;
  },
  "another host before the clock was set back": (path) => {
    lock(path, other(elsewhere), -80);
    return undefined;
  },
  "nobody: nothing was written": (path) => {
    lock(path, "", 3);
    return undefined;
  },
  "nobody: half was written": (path) => {
    lock(path, other({}).slice(0, -5), 80, true);
    return undefined;
  },
  "another program": (path) => {
    lock(path, other({}).slice(0, -5), 3);
    return {};
  },
  ...Object.fromEntries(
    ["pid", "system", "host", "started", "token"].flatMap((key) => [
      [
        `another program: no ${key}`,
        (path: string) => {
          lock(path, other({ [key]: undefined }), 3);
          return {};
        },
      ],
      [
        `nobody: no ${key}`,
        (path: string) => {
          lock(path, other({ [key]: undefined }), 80);
          return undefined;
        },
      ],
    ]),
  ),
  "a directory of its name": (path) => directory(path),
  "a directory of the part's": (path) => directory(`${path}.part`),
  "a directory of the journal's": (path) => directory(`${path}.part.journal`),
};

function directory(path: string): Hold {
  rmSync(path, { force: true });
  mkdirSync(path);
  return {};
}
