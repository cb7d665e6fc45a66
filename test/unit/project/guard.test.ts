/** The guard over event callbacks: what it does, and that every callback of the adapters is under it. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { Guard } from "../../../adapters/shared/guard.ts";
import { VortexError } from "../../../src/errors.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { scan } from "../../support/source-scanner.ts";

describe("a guarded callback", () => {
  it("gets its arguments, and nothing is ended or reported while it throws nothing", () => {
    const { guard, ended, told } = noted();
    const got: unknown[] = [];
    guard.wrap((...args: [number, string]) => got.push(...args))(1, "two");
    assert.deepEqual([got, ended, told, guard.caught], [[1, "two"], [], [], 0]);
  });

  it("that throws ends the connection, is counted, and is reported with its cause", () => {
    const { guard, ended, told } = noted();
    const cause = new RangeError("Port should be > 0");
    guard.wrap(() => {
      throw cause;
    })();
    const [error] = told;
    assert.deepEqual(
      [error?.code, error?.cause, ended, guard.caught],
      ["Internal", cause, [error], 1],
    );
    assert.match(error?.message ?? "", /Port should be > 0/);
  });

  it("whose promise rejects is treated alike, and so is a timer", async () => {
    const { guard, told } = noted();
    guard.run(() => Promise.reject(new VortexError("ConnectionLost", "gone")));
    await new Promise((resolve) => setTimeout(resolve, 0));
    const clock = new FakeClock();
    guard.over(clock).setTimer(() => {
      throw new Error("late");
    }, 10);
    await clock.advance(10);
    assert.deepEqual(
      told.map(({ code }) => code),
      ["ConnectionLost", "Internal"],
    );
  });

  it("ends its connection once, and only its own; all are counted by the guard they come from", () => {
    const { guard, told } = noted();
    const ended: string[] = [];
    const [first, second] = ["first", "second"].map((name) => guard.of(() => ended.push(name)));
    const fail = (): never => {
      throw new Error("no");
    };
    first?.run(fail);
    first?.run(fail);
    second?.run(fail);
    assert.deepEqual([ended, guard.caught, told.length], [["first", "second"], 3, 3]);
  });

  it("is survived also when the ending or the listener of errors throws", () => {
    const fail = (): never => {
      throw new Error("again");
    };
    const guard = new Guard({ end: fail, onError: fail });
    guard.run(fail);
    assert.equal(guard.caught, 1);
  });
});

describe("event callbacks of the adapters", () => {
  // The files beside the folders are what these share.
  const folders = [".", "deno-quic", "grpc", "node-quic", "quiche", "tcp", "workers"];
  const sources = folders.flatMap((folder) => {
    const place = new URL(`../../../adapters/${folder}/`, import.meta.url);
    const files = readdirSync(place).filter((file) => file.endsWith(".ts"));
    return files.map((file) => ({
      name: `${folder}/${file}`,
      text: scan(readFileSync(new URL(file, place), "utf8")).code,
    }));
  });

  for (const { name, text } of sources) {
    it(`${name}: each runs under the guard`, () => {
      const faults = [...callbacksOf(text)].filter(({ callback }) => !isGuarded(callback, text));
      assert.deepEqual(faults, []);
    });
  }
});

/** Registrations of callbacks with whatever calls from outside: emitters, timers, signals, properties such as `onstream`. */
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

/** Whether it is wrapped here or where it is declared, or has nothing that could fail. */
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

function noted(): {
  readonly guard: Guard;
  readonly ended: VortexError[];
  readonly told: VortexError[];
} {
  const ended: VortexError[] = [];
  const told: VortexError[] = [];
  const guard = new Guard({
    end: (error) => ended.push(error),
    onError: (error) => told.push(error),
  });
  return { guard, ended, told };
}
