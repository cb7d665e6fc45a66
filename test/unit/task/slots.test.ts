/** Request slots at parents: which download gets the next one, and which holders are notified. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ParentSlots, type SlotHolder } from "../../../src/task/slots.ts";

/** Holder that notes each notification under its name. */
function holderOf(name: string, notified: string[]): SlotHolder {
  return { onSlot: () => notified.push(name) };
}

/** Takes one slot for each holder in the list. */
function takeAll(slots: ParentSlots, holders: readonly SlotHolder[]): void {
  for (const holder of holders) assert.ok(slots.take("p", holder));
}

describe("slots at a parent", () => {
  it("are released one by one, and not below zero", () => {
    const slots = new ParentSlots(2);
    const holder = holderOf("a", []);
    assert.ok(slots.take("p", holder) && slots.take("p", holder));
    slots.release("p", holder);
    assert.deepEqual([slots.take("p", holder), slots.take("p", holder)], [true, false]);
    slots.release("p", holder);
    slots.release("p", holder);
    slots.release("p", holder);
    slots.release("q", holder);
    assert.deepEqual(
      [1, 2, 3].map(() => slots.take("p", holder)),
      [true, true, false],
    );
  });

  it("notify waiting holders in the order of their slots, then of their waits", () => {
    const slots = new ParentSlots(3);
    const notified: string[] = [];
    const [a, b, c, d] = ["a", "b", "c", "d"].map((name) => holderOf(name, notified));
    assert.ok(a && b && c && d);
    assert.ok(slots.take("p", a) && slots.take("p", a) && slots.take("p", b));
    for (const holder of [a, b, d, c]) assert.equal(slots.take("p", holder), false);
    slots.release("p", b);
    assert.deepEqual(notified, ["b", "d", "c", "a"]);
  });

  it("notify a holder once for each refusal", () => {
    const slots = new ParentSlots(1);
    const notified: string[] = [];
    const [a, b] = ["a", "b"].map((name) => holderOf(name, notified));
    assert.ok(a && b);
    assert.ok(slots.take("p", a));
    assert.equal(slots.take("p", b), false);
    slots.release("p", a);
    assert.ok(slots.take("p", b), "b has its slot, and waits no more");
    slots.release("p", b);
    assert.deepEqual(notified, ["b"]);
  });

  it("go to any holder with as few slots as the notified ones", () => {
    const slots = new ParentSlots(2);
    const [a, b, c] = ["a", "b", "c"].map((name) => holderOf(name, []));
    assert.ok(a && b && c);
    assert.ok(slots.take("p", a) && slots.take("p", a));
    assert.equal(slots.take("p", b), false);
    slots.release("p", a);
    assert.ok(slots.take("p", c), "c has none either");
    assert.equal(slots.take("p", b), false);
  });

  it("are offered to the others when a notified holder leaves", () => {
    const slots = new ParentSlots(2);
    const notified: string[] = [];
    const [a, b, c] = ["a", "b", "c"].map((name) => holderOf(name, notified));
    assert.ok(a && b && c);
    assert.ok(slots.take("p", a) && slots.take("p", a));
    assert.equal(slots.take("p", b), false);
    slots.release("p", a);
    assert.equal(slots.take("p", a), false, "b is notified, and has fewer");
    slots.leave(c);
    assert.deepEqual(notified, ["b"], "c was not notified");
    slots.leave(b);
    assert.deepEqual(notified, ["b", "a"]);
    assert.ok(slots.take("p", a));
  });

  it("are kept for a parent as long as a holder has one, or waits", () => {
    const slots = new ParentSlots(1);
    const notified: string[] = [];
    const [a, b] = ["a", "b"].map((name) => holderOf(name, notified));
    assert.ok(a && b);
    assert.ok(slots.take("p", a));
    slots.release("p", a);
    assert.ok(slots.take("p", a));
    assert.equal(slots.take("p", b), false, "one slot in all, also after a release");
    slots.release("p", a);
    assert.deepEqual(notified, ["b"]);
  });

  it("are not left to a holder that has used the slot it was notified of", () => {
    const slots = new ParentSlots(7);
    const [few, some, many, other] = ["few", "some", "many", "other"].map((name) =>
      holderOf(name, []),
    );
    assert.ok(few && some && many && other);
    takeAll(slots, [many, many, many, many, some, other, other]);
    assert.equal(slots.take("p", few), false);
    slots.release("p", other);
    assert.equal(slots.take("p", some), false, "left to the one with fewer");
    slots.release("p", other);
    assert.ok(slots.take("p", some), "notified now");
    assert.ok(slots.take("p", many), "the last one is free for all");
  });

  it("are not left to a holder that got one after its refusal without a notification", () => {
    const slots = new ParentSlots(9);
    const notified: string[] = [];
    const [few, some, many, other, most] = ["few", "some", "many", "other", "most"].map((name) =>
      holderOf(name, notified),
    );
    assert.ok(few && some && many && other && most);
    takeAll(slots, [some, many, many, most, most, most, most, other, other]);
    assert.equal(slots.take("p", few), false);
    slots.release("p", other);
    assert.equal(slots.take("p", some), false, "left to the one with fewer");
    slots.release("p", other);
    assert.deepEqual(notified.splice(0), ["few", "some"]);
    assert.equal(slots.take("p", many), false, "left to the one with fewer");
    assert.ok(slots.take("p", some));
    assert.ok(slots.take("p", many), "its own step comes before any notification");
    slots.release("p", some);
    assert.deepEqual(notified, [], "no holder waits");
    assert.ok(slots.take("p", most), "and none is excluded for it");
  });

  it("go first to the holder with the fewest in flight, not to the one that had fewest before", () => {
    const slots = new ParentSlots(5);
    const notified: string[] = [];
    const [a, b, c] = ["a", "b", "c"].map((name) => holderOf(name, notified));
    assert.ok(a && b && c);
    takeAll(slots, [a, a, a, b, b]);
    slots.release("p", a);
    slots.release("p", a);
    takeAll(slots, [c, c]);
    assert.equal(slots.take("p", b), false);
    assert.equal(slots.take("p", a), false);
    slots.release("p", c);
    assert.deepEqual(notified, ["a", "b"]);
  });

  it("are left to a notified holder also after the last request to the parent has ended", () => {
    const slots = new ParentSlots(2);
    const [a, b] = ["a", "b"].map((name) => holderOf(name, []));
    assert.ok(a && b);
    takeAll(slots, [a, a]);
    assert.equal(slots.take("p", b), false);
    slots.release("p", a);
    assert.equal(slots.take("p", a), false, "left to the one with fewer");
    slots.release("p", a);
    assert.ok(slots.take("p", b));
    assert.equal(slots.take("p", b), false, "the second one is left to the other");
    assert.ok(slots.take("p", a));
  });
});
