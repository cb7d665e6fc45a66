/**
 * Tests that closing is deferred, so that node:http2 does not free state of the frame being parsed.
 */
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import type { Http2Session, Http2Stream } from "node:http2";
import process from "node:process";
import { describe, it } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { guardSession, guardStream } from "../../../adapters/grpc/session-guard.ts";
import { Guard } from "../../../adapters/shared/guard.ts";

const atOnce = "bun" in process.versions;

/** Part of a session or stream that the guard uses. Records the calls. */
class Fake extends EventEmitter {
  closed = false;
  readonly done: unknown[][] = [];

  close(...args: unknown[]): void {
    this.done.push(["close", ...args]);
  }

  destroy(...args: unknown[]): void {
    this.done.push(["destroy", ...args]);
  }
}

describe("the guard of node:http2", () => {
  it("closes a stream in the next turn, with its code, and calls the callback on close", async () => {
    const fake = new Fake();
    const stream = fake as unknown as Http2Stream;
    guardStream(stream, new Guard());
    let ended = 0;
    stream.close(2, () => ended++);
    assert.equal(fake.done.length, atOnce ? 1 : 0);
    await nextTurn();
    assert.deepEqual(fake.done[0]?.slice(0, 2), ["close", 2]);
    if (!atOnce) {
      fake.emit("close");
      assert.equal(ended, 1);
    }
  });

  it("destroys a session in the next turn, with its code", async () => {
    const fake = new Fake();
    const session = fake as unknown as Http2Session;
    guardSession(session, new Guard());
    session.destroy(undefined, 8);
    assert.equal(fake.done.length, atOnce ? 1 : 0);
    await nextTurn();
    assert.deepEqual(fake.done, [["destroy", undefined, 8]]);
  });
});
