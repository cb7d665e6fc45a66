/** Tests the guard of event callbacks, and that every callback of the adapters runs under it. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { Guard } from "../../../adapters/shared/guard.ts";
import { VortexError } from "../../../src/errors.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { scan } from "../../support/source-scanner.ts";

describe("a guarded callback", () => {
  it("gets its arguments, and without an exception nothing is ended or reported", () => {
    const { guard, ended, reported } = recordingGuard();
    const got: unknown[] = [];
    guard.wrap((...args: [number, string]) => got.push(...args))(1, "two");
    assert.deepEqual([got, ended, reported, guard.caught], [[1, "two"], [], [], 0]);
  });

  it("that throws ends the connection, is counted, and is reported with its cause", () => {
    const { guard, ended, reported } = recordingGuard();
    const cause = new RangeError("Port should be > 0");
    guard.wrap(() => {
      throw cause;
    })();
    const [error] = reported;
    assert.deepEqual(
      [error?.code, error?.cause, ended, guard.caught],
      ["Internal", cause, [error], 1],
    );
    assert.match(error?.message ?? "", /Port should be > 0/);
  });

  it("with a rejected promise is handled like one that throws, and so is a timer", async () => {
    const { guard, reported } = recordingGuard();
    guard.run(() => Promise.reject(new VortexError("ConnectionLost", "gone")));
    await new Promise((resolve) => setTimeout(resolve, 0));
    const clock = new FakeClock();
    guard.over(clock).setTimer(() => {
      throw new Error("late");
    }, 10);
    await clock.advance(10);
    assert.deepEqual(
      reported.map(({ code }) => code),
      ["ConnectionLost", "Internal"],
    );
  });

  it("ends only its own connection, once, and the parent guard counts all exceptions", () => {
    const { guard, reported } = recordingGuard();
    const ended: string[] = [];
    const [first, second] = ["first", "second"].map((name) => guard.of(() => ended.push(name)));
    const fail = (): never => {
      throw new Error("no");
    };
    first?.run(fail);
    first?.run(fail);
    second?.run(fail);
    assert.deepEqual([ended, guard.caught, reported.length], [["first", "second"], 3, 3]);
  });

  it("does not throw when `end` or `onError` throws", () => {
    const fail = (): never => {
      throw new Error("again");
    };
    const guard = new Guard({ end: fail, onError: fail });
    guard.run(fail);
    assert.equal(guard.caught, 1);
  });
});

describe("event callbacks of the adapters", () => {
  // "." has the files outside of the folders. `shared` is not scanned.
  const folders = [".", "deno-quic", "grpc", "node-quic", "quiche", "tcp", "workers"];
  const sources = folders.flatMap((folder) => {
    const directory = new URL(`../../../adapters/${folder}/`, import.meta.url);
    const files = readdirSync(directory).filter((file) => file.endsWith(".ts"));
    return files.map((file) => ({
      name: `${folder}/${file}`,
      text: scan(readFileSync(new URL(file, directory), "utf8")).code,
    }));
  });

  for (const { name, text } of sources) {
    it(`${name}: each callback runs under the guard`, () => {
      const faults = [...callbacksOf(text)].filter(({ callback }) => !isGuarded(callback, text));
      assert.deepEqual(faults, []);
    });
  }
});

/**
 * Finds registrations of callbacks that are called from outside: by emitters, timers, signals, and
 * properties such as `onstream`.
 */
function* callbacksOf(text: string): Generator<{ readonly at: string; readonly callback: string }> {
  const registrations = [
    /\.(?:on|once)\(\s*[^,()]+,\s*/g,
    /\b(?:setTimeout|setImmediate|setInterval|queueMicrotask)\(\s*/g,
    /\bsystemClock\.setTimer\(\s*/g,
    /\.addEventListener\(\s*[^,()]+,\s*/g,
    /\bsession\.on[a-z]+ = /g,
    /\bvoid (?=this\.#\w+\()/g,
  ];
  for (const registration of registrations) {
    for (const match of text.matchAll(registration)) {
      const from = match.index + match[0].length;
      yield { at: match[0].trim(), callback: text.slice(from, from + 60) };
    }
  }
}

/** Returns true if a callback is wrapped, here or at its declaration, or cannot fail. */
function isGuarded(callback: string, text: string): boolean {
  if (/^[\w.#]*[gG]uard\.wrap\(/.test(callback)) return true;
  if (/^\((?:\w+)?\) => (?:\{\}|resolve\((?:undefined)?\))/.test(callback)) return true;
  const [name = ""] = /^(?:this\.#)?\w+(?=[),])/.exec(callback) ?? [];
  if (name === "" || name === "resolve") return name !== "";
  const declared = new RegExp(
    `(?:^|[\\s;])(?:const )?${name} = (?:new Guard\\([^;]*|[\\w.#]*[gG]uard)\\.wrap\\(`,
  );
  return declared.test(text);
}

/** Creates a guard, with the errors of its calls to `end` and `onError`. */
function recordingGuard(): {
  readonly guard: Guard;
  readonly ended: VortexError[];
  readonly reported: VortexError[];
} {
  const ended: VortexError[] = [];
  const reported: VortexError[] = [];
  const guard = new Guard({
    end: (error) => ended.push(error),
    onError: (error) => reported.push(error),
  });
  return { guard, ended, reported };
}
