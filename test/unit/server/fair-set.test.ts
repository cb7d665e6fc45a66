/** Items by network: what is counted, and which item is evicted for another network. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { FairSet } from "../../../src/server/admission/fair-set.ts";

function setOf(items: Readonly<Record<string, readonly string[]>>): FairSet<string> {
  const set = new FairSet<string>();
  for (const [network, held] of Object.entries(items))
    for (const item of held) set.add(network, item);
  return set;
}

describe("a fair set", () => {
  it("counts an item once, however often its network adds it", () => {
    const set = setOf({ a: ["x", "x"], b: ["x"] });
    assert.equal(set.size, 2);
  });

  it("says whether it removed an item", () => {
    const set = setOf({ a: ["x"] });
    assert.deepEqual([set.delete("a", "y"), set.delete("b", "x"), set.size], [false, false, 1]);
    assert.deepEqual([set.delete("a", "x"), set.delete("a", "x"), set.size], [true, false, 0]);
  });

  it("evicts the oldest item of the largest network", () => {
    assert.equal(setOf({ a: ["x", "y"], b: ["p", "q", "r"] }).evictionCandidate("c"), "p");
  });

  it("keeps an item whose network would then have no more than the newcomer's", () => {
    assert.equal(setOf({ a: ["x"] }).evictionCandidate("c"), undefined);
    assert.equal(setOf({ a: ["x", "y"], c: ["z"] }).evictionCandidate("c"), undefined);
    assert.equal(setOf({ a: ["x", "y", "v"], c: ["z"] }).evictionCandidate("c"), "x");
    assert.equal(setOf({}).evictionCandidate("c"), undefined);
  });

  it("forgets the order of a removed item", () => {
    const set = setOf({ a: ["x", "y"] });
    set.delete("a", "x");
    set.add("a", "x");
    assert.equal(set.evictionCandidate("c"), "y");
  });
});
