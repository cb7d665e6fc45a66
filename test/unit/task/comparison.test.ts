/** Questions of one comparison, and the commits that wait for them, without a download. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { digestOf } from "../../../src/digest/digest.ts";
import { type DigestAlgorithm, portableHashers } from "../../../src/digest/hasher.ts";
import { VortexError } from "../../../src/errors.ts";
import type { Piece } from "../../../src/piece.ts";
import { Comparison, type ComparisonContext } from "../../../src/task/comparison.ts";
import { type KnownLayout, TaskLayout } from "../../../src/task/layout.ts";
import type { SinkSession } from "../../../src/task/sink.ts";
import { rejectionOf } from "../../support/failures.ts";
import { settle } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";
import { ClaimedContent, FakeParents, honest, taskId } from "../../support/task-parents.ts";

const PIECE = 100;
const COUNT = 10;
const content = seededBytes(3, PIECE * COUNT);
const never = new AbortController().signal;
const parentNames = ["a:1", "b:1", "c:1"];

function digestOfPiece(number: number, algorithm: DigestAlgorithm): string {
  const bytes = content.subarray(number * PIECE, (number + 1) * PIECE);
  return digestOf(algorithm, bytes, portableHashers);
}

/** Promise that a test settles. */
class Gate {
  open = (): void => {};
  readonly opened = new Promise<void>((resolve) => {
    this.open = resolve;
  });
}

/** Session whose memory still has the bytes of an earlier content: zeros. */
const session: SinkSession = {
  resumed: [],
  write: async () => {},
  commit: async () => {},
  read: async (_number, _position, length) => new Uint8Array(length),
  advance: async () => {},
  finish: async () => {},
  abort: async () => {},
};

/** Comparison of three parents with the same content, whose next step follows each change. */
function bench(
  changes: Partial<ComparisonContext> = {},
  layout: KnownLayout = { contentLength: content.length, pieceLength: PIECE },
) {
  const known = TaskLayout.known({ taskId, kind: "standard" }, layout);
  assert.ok(known);
  const parents = new FakeParents(
    content,
    PIECE,
    Object.fromEntries(parentNames.map((name) => [name, honest()])),
  );
  const asked: [parent: string, number: number, last: boolean][] = [];
  const state = {
    /** True if no piece is left to request. */
    allInFlight: false,
    /** Number of free slots at each parent. */
    slots: 100,
    /** Parents that have not answered questions yet. */
    silent: new Map<string, Gate>(),
  };
  const disagreements: string[] = [];
  const fetch = (addr: string, number: number): Promise<Piece> =>
    parents.fetchPiece(
      { addr, hostId: "h", taskId, kind: "standard", number },
      { pieceTimeout: 1000, stallTimeout: 1000, unreadTimeout: 1000, signal: never },
    );
  const comparison: Comparison = new Comparison({
    layout: known,
    session,
    hashers: portableHashers,
    random: () => 0,
    parents: parentNames,
    piecesAreMessages: false,
    hasTaskDigest: false,
    isVerifyingResumed: () => false,
    signal: never,
    ask: async (parent, number, last) => {
      asked.push([parent, number, last]);
      await state.silent.get(parent)?.opened;
      return fetch(parent, number);
    },
    isUnavailable: () => false,
    mayHave: () => true,
    takeSlot: () => state.slots > 0 && state.slots-- > 0,
    releaseSlot: () => void state.slots++,
    onChange: () => queueMicrotask(() => comparison.step(state.allInFlight)),
    onDisagreement: (parent) => disagreements.push(parent),
    ...changes,
  });
  const announce = (parent: string, number: number, after?: Gate): Promise<number> =>
    comparison
      .announce(parent, async () => {
        await after?.opened;
        return fetch(parent, number);
      })
      .then(({ sequence }) => sequence);
  /** Commits an announced piece. The sink takes until `stored` settles, and fails if it rejects. */
  const commit = (
    parent: string,
    number: number,
    sequence: number,
    stored?: Promise<void>,
    signal: AbortSignal = never,
  ): Promise<void> =>
    comparison.commit(parent, signal, async () => {
      await stored;
      const piece = { number, digest: digestOfPiece(number, "crc32"), crc32: 0 };
      comparison.hold(piece, parent, sequence);
    });
  const deliver = async (parent: string, number: number): Promise<void> =>
    commit(parent, number, await announce(parent, number));
  return { comparison, parents, asked, state, disagreements, announce, commit, deliver };
}

/** Returns a function that tells whether a promise has settled. */
function settled(promise: Promise<unknown>): () => boolean {
  let isSettled = false;
  const onSettled = (): void => {
    isSettled = true;
  };
  promise.then(onSettled, onSettled);
  return () => isSettled;
}

describe("the first question to a parent", () => {
  it("goes out while its first piece is in transfer, with the patience of an ordinary request", async () => {
    const { announce, deliver, asked } = bench();
    await deliver("a:1", 0);
    await announce("b:1", 7);
    await settle();
    assert.deepEqual(asked, [["b:1", 0, false]]);
  });

  it("that fails ends the attempts of this parent only, and is repeated for its next piece", async () => {
    const { announce, commit, deliver, asked, state, parents } = bench();
    await deliver("a:1", 0);
    const [gateB, gateC] = [new Gate(), new Gate()];
    state.silent.set("b:1", gateB).set("c:1", gateC);
    const b = commit("b:1", 7, await announce("b:1", 7));
    const c = commit("c:1", 8, await announce("c:1", 8));
    const isSettled = settled(c);
    await settle();
    parents.behave("b:1", () => new VortexError("ConnectionLost", "lost"));
    gateB.open();
    assert.equal((await rejectionOf(b)).code, "ConnectionLost");
    await settle();
    assert.equal(isSettled(), false);
    gateC.open();
    await c;
    parents.behave("b:1", honest());
    const sequence = await announce("b:1", 7);
    await settle();
    assert.equal(asked.filter(([parent]) => parent === "b:1").length, 1, "no piece waits yet");
    await commit("b:1", 7, sequence);
    assert.ok(asked.filter(([parent]) => parent === "b:1").length > 1);
  });

  it("is not about a piece that the parent may only announce later", async () => {
    const { deliver, asked } = bench({
      mayHave: (parent, _number, last) => parent === "a:1" || last,
    });
    await deliver("a:1", 0);
    await deliver("b:1", 7);
    assert.deepEqual(asked, []);
  });

  it("is not asked if the caller gave the digest of each piece, and no piece waits", async () => {
    const pieces = Array.from({ length: COUNT }, (_, number) => ({
      number,
      offset: number * PIECE,
      length: PIECE,
      digest: digestOfPiece(number, "crc32"),
    }));
    const { comparison, deliver, asked } = bench({}, { pieces });
    await deliver("a:1", 0);
    await deliver("b:1", 7);
    assert.deepEqual([asked, comparison.finish(), comparison.complete], [[], true, true]);
  });

  it("is forgotten at a restart, whatever the answer", async () => {
    const { comparison, announce, deliver, asked, state, parents, disagreements } = bench();
    await deliver("a:1", 0);
    await deliver("a:1", 1);
    await deliver("b:1", 7);
    const gate = new Gate();
    state.silent.set("c:1", gate);
    await announce("c:1", 8);
    await settle();
    const open = asked.filter(([parent]) => parent === "c:1").length;
    assert.ok(open > 0);
    assert.deepEqual(
      comparison.restart(new Set(["b:1", "c:1"])).map(({ number }) => number),
      [7],
    );
    assert.deepEqual(comparison.contributors, ["b:1"]);
    parents.behave("c:1", () => new ClaimedContent(new Uint8Array(PIECE)));
    gate.open();
    await settle();
    assert.deepEqual(disagreements, []);
    // The content of the new round is compared again, and differs.
    await announce("c:1", 8);
    await settle();
    assert.deepEqual(asked.at(-1), ["c:1", 7, false]);
    assert.deepEqual(disagreements, ["c:1"]);
  });
});

describe("the first piece in the sink", () => {
  it("is that of one parent: others wait for all its commits, and follow if these fail", async () => {
    const { comparison, announce, commit } = bench();
    const [one, other] = [new Gate(), new Gate()];
    const full = (gate: Gate): Promise<void> =>
      gate.opened.then(() => {
        throw new VortexError("StorageFailed", "full");
      });
    const first = rejectionOf(commit("a:1", 0, await announce("a:1", 0), full(one)));
    const second = rejectionOf(commit("a:1", 1, await announce("a:1", 1), full(other)));
    const waiting = commit("b:1", 7, await announce("b:1", 7));
    const isSettled = settled(waiting);
    await settle();
    assert.equal(isSettled(), false);
    one.open();
    await first;
    await settle();
    assert.equal(isSettled(), false, "the second commit may still succeed");
    other.open();
    await second;
    await waiting;
    assert.deepEqual(comparison.contributors, ["b:1"]);
  });

  it("keeps a commit waiting until its signal aborts", async () => {
    const { announce, commit } = bench();
    const gate = new Gate();
    const first = commit("a:1", 0, await announce("a:1", 0), gate.opened);
    const abort = new AbortController();
    const waiting = rejectionOf(
      commit("b:1", 7, await announce("b:1", 7), undefined, abort.signal),
    );
    await settle();
    abort.abort();
    assert.equal((await waiting).code, "Aborted");
    gate.open();
    await first;
  });
});

describe("the final question to a parent", () => {
  it("goes out while its last pieces are in transfer, once all are announced", async () => {
    const { comparison, announce, deliver, asked, state } = bench();
    await deliver("a:1", 0);
    state.allInFlight = true;
    const gates = [new Gate(), new Gate()] as const;
    const announced = [announce("a:1", 1, gates[0]), announce("a:1", 2, gates[1])];
    comparison.step(true);
    gates[0].open();
    await announced[0];
    await settle();
    assert.deepEqual(asked, [], "piece 2 is not announced yet");
    gates[1].open();
    await Promise.all(announced);
    await settle();
    assert.deepEqual(asked, [["a:1", 0, true]]);
  });

  for (const [name, changes, isAskedAtEnd] of [
    ["over gRPC", { piecesAreMessages: true }, true],
    ["if the digest of the whole decides", { hasTaskDigest: true }, false],
  ] as const) {
    it(`does not go out before the end ${name}`, async () => {
      const { comparison, announce, commit, deliver, asked, state } = bench(changes);
      await deliver("a:1", 0);
      state.allInFlight = true;
      const sequence = await announce("a:1", 1);
      await settle();
      assert.deepEqual(asked, []);
      await commit("a:1", 1, sequence);
      assert.equal(comparison.finish(), !isAskedAtEnd);
      await settle();
      assert.deepEqual(asked, isAskedAtEnd ? [["a:1", 0, true]] : []);
      assert.equal(comparison.finish(), true);
      assert.equal(comparison.complete, isAskedAtEnd);
    });
  }

  it("waits for a slot, the end waits for it, and the slot is released", async () => {
    const { comparison, deliver, asked, state } = bench();
    await deliver("a:1", 0);
    await deliver("a:1", 1);
    state.slots = 0;
    assert.equal(comparison.finish(), false);
    assert.deepEqual(asked, []);
    state.slots = 1;
    assert.equal(comparison.finish(), false);
    assert.deepEqual(asked, [["a:1", 0, true]]);
    await settle();
    assert.deepEqual([comparison.finish(), comparison.complete, state.slots], [true, true, 1]);
  });

  it("compares no bytes of the sink with another digest of the parent's own announcement", async () => {
    const { announce, asked, state, parents, disagreements } = bench();
    state.allInFlight = true;
    // Neither piece is stored yet.
    await announce("a:1", 0);
    parents.behave("a:1", ({ bytes }) => new ClaimedContent(bytes, digestOfPiece(0, "sha256")));
    await announce("a:1", 1);
    await settle();
    assert.deepEqual(asked, [["a:1", 0, true]]);
    assert.deepEqual(disagreements, []);
  });
});
