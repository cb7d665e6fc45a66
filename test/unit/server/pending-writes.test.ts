import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PendingWriteBudget } from "../../../src/server/admission/pending-writes.ts";
import { assertRejects, rejectionOf } from "../../support/failures.ts";

const MUCH = 100_000;

/** Creates a write that the test settles. */
function writing(): { readonly taken: Promise<string>; take(): void; fail(error: Error): void } {
  let [take, fail] = [(): void => {}, (_error: Error): void => {}];
  const taken = new Promise<string>((resolve, reject) => {
    take = () => resolve("taken");
    fail = reject;
  });
  return { taken, take: () => take(), fail: (error) => fail(error) };
}

describe("PendingWriteBudget", () => {
  it("keeps all writes pending while they fit", async () => {
    const unread = new PendingWriteBudget(3 * MUCH);
    const writes = [writing(), writing(), writing()];
    const held = writes.map(({ taken }) => unread.hold(MUCH, taken));
    assert.equal(unread.bytes, 3 * MUCH);
    for (const write of writes) write.take();
    assert.deepEqual(await Promise.all(held), ["taken", "taken", "taken"]);
    assert.equal(unread.bytes, 0);
  });

  it("evicts the longest waiting writes first, and only as many as necessary", async () => {
    const unread = new PendingWriteBudget(3 * MUCH);
    const writes = Array.from({ length: 5 }, writing);
    const [first, second, third] = writes
      .slice(0, 3)
      .map(({ taken }) => rejectionOf(unread.hold(MUCH, taken)));
    const fourth = unread.hold(2 * MUCH, writes[3]?.taken ?? Promise.reject());
    assert.equal((await first)?.code, "Stalled");
    assert.equal((await second)?.code, "Stalled");
    assert.equal(unread.bytes, 3 * MUCH);
    // A write that has completed takes no room.
    writes[2]?.fail(new Error("the peer has gone"));
    await third?.catch(() => {});
    const fifth = unread.hold(MUCH, writes[4]?.taken ?? Promise.reject());
    for (const write of writes) write.take();
    assert.deepEqual(await Promise.all([fourth, fifth]), ["taken", "taken"]);
    assert.equal(unread.bytes, 0);
  });

  it("accepts a single write over the limit", async () => {
    const unread = new PendingWriteBudget(1);
    const [large, other] = [writing(), writing()];
    const held = unread.hold(MUCH, large.taken);
    const next = unread.hold(MUCH, other.taken);
    await assertRejects(held, "Stalled");
    other.take();
    assert.equal(await next, "taken");
  });

  it("does not count small writes, and passes their failures on", async () => {
    const unread = new PendingWriteBudget(1);
    const write = writing();
    const held = unread.hold(100, write.taken);
    assert.equal(unread.bytes, 0);
    const gone = new Error("gone");
    write.fail(gone);
    await assert.rejects(held, gone);
  });
});
