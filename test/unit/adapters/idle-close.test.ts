import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { IDLE_CLOSE, IdleClose } from "../../../adapters/shared/idle-close.ts";
import { FakeClock } from "../../support/fake-clock.ts";

describe("the closing of idle connections", () => {
  it("counts from the last stream on, starts again after each, and says that another connection may be asked", async () => {
    const clock = new FakeClock();
    const codes: string[] = [];
    const idle = new IdleClose(clock, ({ code }) => codes.push(code));
    idle.busy = false;
    await clock.advance(IDLE_CLOSE - 1);
    idle.busy = true;
    await clock.advance(10 * IDLE_CLOSE);
    idle.busy = false;
    await clock.advance(IDLE_CLOSE - 1);
    // Idle as before.
    idle.busy = false;
    assert.deepEqual(codes, []);
    await clock.advance(1);
    assert.deepEqual(codes, ["ConnectionLost"]);
    assert.equal(clock.pending, 0);
  });
});
