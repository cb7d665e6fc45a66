import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { IDLE_CLOSE_MS, IdleClose } from "../../../adapters/shared/idle-close.ts";
import { FakeClock } from "../../support/fake-clock.ts";

describe("the timer of idle connections", () => {
  it("starts after the last stream, restarts after each, and closes with a retryable code", async () => {
    const clock = new FakeClock();
    const codes: string[] = [];
    const idle = new IdleClose(clock, ({ code }) => codes.push(code));
    idle.busy = false;
    await clock.advance(IDLE_CLOSE_MS - 1);
    idle.busy = true;
    await clock.advance(10 * IDLE_CLOSE_MS);
    idle.busy = false;
    await clock.advance(IDLE_CLOSE_MS - 1);
    // Repeating `false` does not restart the timer.
    idle.busy = false;
    assert.deepEqual(codes, []);
    await clock.advance(1);
    assert.deepEqual(codes, ["ConnectionLost"]);
    assert.equal(clock.pending, 0);
  });
});
