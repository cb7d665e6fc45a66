import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { VortexError } from "../../../src/errors.ts";
import { RateLimiter } from "../../../src/rate-limiter.ts";
import { PendingWriteBudget } from "../../../src/server/admission/pending-writes.ts";
import { rateLimited } from "../../../src/server/admission/rate-limited.ts";
import { assertRejects } from "../../support/failures.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";

const never = new AbortController().signal;
const rate = 640_000;
const chunk = new Uint8Array(30_000);

/** Sends a chunk of an answer as fast as permitted, and counts the sent bytes. */
function sending(
  network: string,
  signal: AbortSignal,
  { limiter, unread }: { readonly limiter: RateLimiter; readonly unread: PendingWriteBudget },
) {
  let sent = 0;
  const flow = limiter.flow(network);
  const ended = (async () => {
    for await (const portion of rateLimited(chunk, flow, signal, unread)) sent += portion.length;
  })();
  ended.catch(() => {});
  return { sent: () => sent, ended };
}

/** Creates a limiter whose credit is used up. */
async function drained(clock: FakeClock): Promise<RateLimiter> {
  const limiter = new RateLimiter(rate, clock);
  await limiter.flow().takeAll(rate, never);
  return limiter;
}

describe("rateLimited", () => {
  it("a network gets its share, whatever another one requests", async () => {
    const clock = new FakeClock();
    const settings = { limiter: await drained(clock), unread: new PendingWriteBudget(1 << 30) };
    const many = Array.from({ length: 100 }, () => sending("10.0.0.1", never, settings));
    await settle();
    const one = sending("10.0.0.2", never, settings);
    const took = await clock.advanceUntil(one.ended, 60_000, 10);
    // Its share is half of the rate.
    const half = (chunk.length / (rate / 2)) * 1000;
    assert.ok(took >= half - 20 && took <= half + 60, `${took} ms for what takes ${half} ms`);
    await clock.advance(10_000);
    await Promise.all(many.map(({ ended }) => ended));
    assert.equal(clock.pending, 0);
  });

  it("chunks that wait for the rate count against the memory limit: the longest waiting one is evicted, and uses no rate", async () => {
    const clock = new FakeClock();
    const unread = new PendingWriteBudget(3 * chunk.length);
    const settings = { limiter: await drained(clock), unread };
    const many = Array.from({ length: 5 }, () => sending("10.0.0.1", never, settings));
    await settle();
    assert.equal(unread.bytes, 3 * chunk.length);
    for (const { ended } of many.slice(0, 2)) await assertRejects(ended, "Stalled");
    const took = await clock.advanceUntil(
      Promise.all(many.slice(2).map(({ ended }) => ended)),
      60_000,
      10,
    );
    const least = ((3 * chunk.length) / rate) * 1000;
    assert.ok(took >= least - 10 && took <= least + 20, `${took} ms for what takes ${least} ms`);
    assert.equal(unread.bytes, 0);
    assert.equal(clock.pending, 0);
  });

  it("an answer that ends leaves its turn to others", async () => {
    const clock = new FakeClock();
    const unread = new PendingWriteBudget(1 << 30);
    const settings = { limiter: await drained(clock), unread };
    const end = new AbortController();
    const gone = sending("10.0.0.1", end.signal, settings);
    await settle();
    const reason = new VortexError("Closed", "the server is closed");
    end.abort(reason);
    assert.equal(await assertRejects(gone.ended, "Closed"), reason);
    assert.deepEqual([gone.sent(), unread.bytes, clock.pending], [0, 0, 0]);
  });

  it("without a rate limit a chunk is sent as a whole", async () => {
    const portions: Uint8Array[] = [];
    for await (const portion of rateLimited(chunk, undefined, never, new PendingWriteBudget(1)))
      portions.push(portion);
    assert.deepEqual(portions, [chunk]);
  });
});
