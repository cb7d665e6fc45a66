/** Order of the rounds of a task whose digest is known. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { RoundPlanner } from "../../../src/task/round-planner.ts";

describe("the rounds after a wrong digest", () => {
  it("try no source alone after a round with missing pieces", () => {
    const planner = new RoundPlanner(["a:1", "b:1", "c:1"]);
    assert.deepEqual(planner.next({ mismatch: true, sources: ["a:1", "b:1"] }), ["a:1"]);
    // Pieces of both others arrived before the round failed. Only "b:1" is still queued.
    assert.deepEqual(planner.next({ mismatch: false, sources: ["a:1"] }), ["b:1"]);
    planner.exclude("c:1");
    assert.deepEqual(planner.next({ mismatch: false, sources: ["b:1"] }), ["c:1"]);
    assert.equal(planner.next({ mismatch: false, sources: ["c:1"] }), undefined);
  });

  it("do not repeat a set of parents in another order", () => {
    const planner = new RoundPlanner(["b:1", "a:1"]);
    planner.exclude("a:1");
    planner.exclude("b:1");
    assert.deepEqual(planner.current, []);
    assert.deepEqual(planner.next({ mismatch: false, sources: [] }), ["a:1", "b:1"]);
    assert.equal(planner.next({ mismatch: true, sources: ["x:1", "a:1"] })?.length, 1);
  });

  it("skip a queued set that was tried, and go on with the next one", () => {
    const planner = new RoundPlanner(["a:1", "b:1"]);
    assert.deepEqual(planner.next({ mismatch: true, sources: ["a:1", "b:1"] }), ["a:1"]);
    planner.exclude("b:1");
    // Queued now: "b:1" of the first round, and again as excluded.
    assert.deepEqual(planner.next({ mismatch: false, sources: ["a:1"] }), ["b:1"]);
    assert.equal(planner.next({ mismatch: true, sources: ["b:1"] }), undefined);
  });

  it("try no source alone if pieces were missing, since none of them is suspected", () => {
    const planner = new RoundPlanner(["a:1", "b:1", "c:1"]);
    planner.exclude("c:1");
    assert.deepEqual(planner.next({ mismatch: false, sources: ["a:1", "b:1"] }), ["c:1"]);
    assert.equal(planner.next({ mismatch: true, sources: ["c:1"] }), undefined);
  });

  it("try a source alone that no earlier round tried alone, also behind one that was", () => {
    const planner = new RoundPlanner(["a:1", "b:1", "c:1", "d:1"]);
    planner.exclude("d:1");
    assert.deepEqual(planner.next({ mismatch: true, sources: ["a:1", "b:1"] }), ["d:1"]);
    // Each of these rounds lacks a piece.
    assert.deepEqual(planner.next({ mismatch: false, sources: ["d:1"] }), ["a:1"]);
    assert.deepEqual(planner.next({ mismatch: false, sources: ["a:1"] }), ["b:1"]);
    const all = ["a:1", "b:1", "c:1", "d:1"];
    assert.deepEqual(planner.next({ mismatch: false, sources: ["b:1"] }), all);
    assert.deepEqual(planner.next({ mismatch: true, sources: ["a:1", "c:1"] }), ["c:1"]);
  });

  it("do not try all parents together if they formed a round as excluded parents", () => {
    const planner = new RoundPlanner(["a:1", "b:1"]);
    planner.exclude("b:1");
    planner.exclude("a:1");
    assert.deepEqual(planner.next({ mismatch: false, sources: [] }), ["b:1", "a:1"]);
    assert.deepEqual(planner.next({ mismatch: true, sources: ["a:1", "b:1"] }), ["a:1"]);
    assert.deepEqual(planner.next({ mismatch: false, sources: ["a:1"] }), ["b:1"]);
    assert.equal(planner.next({ mismatch: false, sources: ["b:1"] }), undefined);
  });
});
