/** What keeps node:http2 from freeing what it is working on: closing waits until the frame that is being read has been read. */
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import type { Http2Session, Http2Stream } from "node:http2";
import process from "node:process";
import { describe, it } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { guardSession, guardStream } from "../../../adapters/grpc/session-guard.ts";
import { Guard } from "../../../adapters/shared/guard.ts";

const atOnce = "bun" in process.versions;

/** Of a session or a stream what the guard needs; notes what was done to it. */
class Fake extends EventEmitter {
  closed = false;
  readonly done: unknown[][] = [];

  close(...told: unknown[]): void {
    this.done.push(["close", ...told]);
  }

  destroy(...told: unknown[]): void {
    this.done.push(["destroy", ...told]);
  }
}

describe("the guard of node:http2", () => {
  it("closes a stream in the next turn, with its code, and calls back at its end", async () => {
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
