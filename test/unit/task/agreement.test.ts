/** Agreement between sources, and the planning of rounds: both state machines, step by step. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  Agreement,
  earlierSource,
  isEarlierSource,
  type Question,
} from "../../../src/task/agreement.ts";
import { RoundPlanner } from "../../../src/task/round-planner.ts";
import type { SinkPiece } from "../../../src/task/sink.ts";

const EARLIER = earlierSource(undefined);
const everything = (): boolean => true;
const noParent = (): boolean => false;
const piece = (number: number): SinkPiece => ({ number, digest: `crc32:${number}`, crc32: number });
const numbersOf = (question: Question | undefined): readonly number[] | undefined =>
  question?.claims.map(({ number }) => number);

/** Returns an agreement with pieces of `source`, announced and committed one after the other. */
function withPieces(source: string, numbers: readonly number[], random = 0.5): Agreement {
  const agreement = new Agreement(3, () => random);
  bring(agreement, source, numbers);
  return agreement;
}

/** Has `source` announce pieces, one after the other, and commits them. */
function bring(agreement: Agreement, source: string, numbers: readonly number[]): void {
  for (const [index, number] of numbers.entries()) {
    const at = isEarlierSource(source)
      ? index - numbers.length
      : agreement.announced(source, number, `crc32:${number}`);
    agreement.hold(piece(number), source, at);
  }
}

/** Answers a question with full agreement. */
function agree(agreement: Agreement, question: Question | undefined): void {
  assert.ok(question !== undefined);
  agreement.asked(question);
  agreement.answered(question, question.claims);
}

describe("the questions to a parent that joins", () => {
  it("are about the oldest, the newest and a random piece of earlier sources", () => {
    const agreement = withPieces("a:1", [5, 3, 8, 1, 9], 0.5);
    agreement.announced("b:1", 2, "crc32:2");
    assert.equal(agreement.mayCommit("b:1", everything), false);
    assert.deepEqual(numbersOf(agreement.question("b:1", everything)), [5, 9, 8]);
  });

  it("are about other pieces if the parent lacks these", () => {
    const agreement = withPieces("a:1", [5, 3, 8, 1, 9]);
    agreement.announced("b:1", 2, "crc32:2");
    const offers = (number: number): boolean => number !== 5 && number !== 9;
    assert.deepEqual(numbersOf(agreement.question("b:1", offers)), [3, 1, 8]);
    assert.equal(agreement.question("b:1", noParent), undefined);
    assert.equal(
      agreement.mayCommit("b:1", noParent),
      true,
      "a parent that cannot be compared is not held up",
    );
  });

  it("come neither before its first announcement, nor to the reference, nor twice", () => {
    const agreement = withPieces("a:1", [0, 1, 2]);
    assert.equal(agreement.question("b:1", everything), undefined);
    assert.equal(agreement.question("a:1", everything), undefined);
    assert.equal(agreement.mayCommit("a:1", everything), true);
    agreement.announced("b:1", 7, "crc32:7");
    const question = agreement.question("b:1", everything);
    assert.ok(question !== undefined);
    agreement.asked(question);
    assert.equal(agreement.question("b:1", everything), undefined, "one at a time");
    assert.equal(agreement.mayCommit("b:1", everything), false);
    agreement.answered(question, question.claims);
    assert.equal(agreement.mayCommit("b:1", everything), true);
    agreement.hold(piece(7), "b:1", agreement.announced("b:1", 7, "crc32:7"));
    assert.equal(agreement.question("b:1", everything), undefined, "three were asked about");
  });

  it("continue up to three as pieces arrive, if fewer were held before", () => {
    const agreement = withPieces("a:1", [0]);
    agreement.announced("b:1", 7, "crc32:7");
    agree(agreement, agreement.question("b:1", everything));
    assert.equal(agreement.question("b:1", everything), undefined);
    agreement.hold(piece(1), "a:1", agreement.announced("a:1", 1, "crc32:1"));
    assert.equal(agreement.question("b:1", everything), undefined, "both of the rest at once");
    agreement.hold(piece(2), "a:1", agreement.announced("a:1", 2, "crc32:2"));
    assert.deepEqual(numbersOf(agreement.question("b:1", everything)), [1, 2]);
    assert.equal(agreement.mayCommit("b:1", everything), true, "its pieces do not wait for these");
  });

  it("are asked again after a failure, once a piece waits to be committed", () => {
    const agreement = withPieces("a:1", [0]);
    agreement.announced("b:1", 7, "crc32:7");
    const question = agreement.question("b:1", everything);
    assert.ok(question !== undefined);
    agreement.asked(question);
    agreement.failed(question);
    assert.equal(agreement.question("b:1", everything), undefined);
    assert.equal(agreement.mayCommit("b:1", everything), false);
    agreement.clearFailure("b:1");
    assert.deepEqual(numbersOf(agreement.question("b:1", everything)), [0]);
  });

  it("are about at most three pieces, whatever the parent can answer", () => {
    const agreement = withPieces("a:1", [0, 1, 2, 3, 4]);
    agreement.announced("b:1", 7, "crc32:7");
    const question = agreement.question("b:1", everything);
    assert.ok(question !== undefined);
    agreement.asked(question);
    agreement.answered(question, []);
    assert.equal(agreement.question("b:1", everything), undefined);
    assert.equal(agreement.mayCommit("b:1", everything), true);
    agreement.hold(piece(7), "b:1", agreement.announced("b:1", 7, "crc32:7"));
    assert.equal(agreement.complete, false);
  });

  it("continue about other pieces if the parent had none of those it was asked about", () => {
    const agreement = withPieces("a:1", [0]);
    agreement.announced("b:1", 7, "crc32:7");
    const question = agreement.question("b:1", everything);
    assert.ok(question !== undefined);
    agreement.asked(question);
    agreement.answered(question, []);
    bring(agreement, "a:1", [1]);
    assert.deepEqual(numbersOf(agreement.question("b:1", everything)), [1]);
  });

  it("hold up the pieces of a parent until one is answered, also after it committed some", () => {
    const agreement = withPieces("a:1", [0]);
    const lacksFirst = (number: number): boolean => number !== 0;
    const at = agreement.announced("b:1", 7, "crc32:7");
    assert.equal(agreement.mayCommit("b:1", lacksFirst), true, "it has nothing to compare");
    agreement.hold(piece(7), "b:1", at);
    bring(agreement, "a:1", [1]);
    assert.equal(agreement.mayCommit("b:1", lacksFirst), false);
    assert.deepEqual(numbersOf(agreement.question("b:1", lacksFirst)), [1]);
  });

  it("never go to the reference, whose pieces wait for no other parent", () => {
    const agreement = withPieces("a:1", [0]);
    const at = agreement.announced("b:1", 7, "crc32:7");
    assert.equal(agreement.mayCommit("b:1", noParent), true);
    agreement.hold(piece(7), "b:1", at);
    assert.equal(agreement.question("a:1", everything), undefined);
    assert.equal(agreement.mayCommit("a:1", everything), true);
  });

  it("are three, whatever the parent was asked about its own pieces", () => {
    const agreement = withPieces("a:1", [0]);
    bring(agreement, "b:1", [7, 8]);
    agree(agreement, agreement.lastQuestion("b:1", everything, noParent, false));
    bring(agreement, "a:1", [1, 2]);
    assert.equal(agreement.question("b:1", everything)?.claims.length, 3);
  });

  it("examine only the ends of a long task, so that a step costs the same for a million pieces", () => {
    const agreement = withPieces(
      "a:1",
      Array.from({ length: 2000 }, (_, number) => number),
      0,
    );
    agreement.announced("b:1", 7, "crc32:7");
    let looks = 0;
    agreement.question("b:1", () => {
      looks++;
      return false;
    });
    assert.equal(looks, 3 * 256);
  });
});

describe("the final question to a parent", () => {
  it("is about its first announcement, if there was more than one", () => {
    const agreement = new Agreement(3, () => 0.5);
    const at = agreement.announced("a:1", 4, "crc32:4");
    agreement.hold(piece(4), "a:1", at);
    assert.equal(
      agreement.lastQuestion("a:1", everything, noParent, true),
      undefined,
      "one needs no other",
    );
    assert.equal(agreement.complete, true);
    const next = agreement.announced("a:1", 2, "crc32:2");
    const early = agreement.lastQuestion("a:1", everything, noParent, false);
    assert.deepEqual(early?.claims, [{ number: 4, digest: "crc32:4", source: "a:1" }]);
    agreement.hold(piece(2), "a:1", next);
    assert.equal(agreement.complete, false);
    agree(agreement, early);
    assert.equal(agreement.complete, true);
    assert.equal(agreement.lastQuestion("a:1", everything, noParent, true), undefined);
  });

  it("comes again if the parent delivered another piece", () => {
    const agreement = withPieces("a:1", [0, 1]);
    agree(agreement, agreement.lastQuestion("a:1", everything, noParent, false));
    agreement.hold(piece(2), "a:1", agreement.announced("a:1", 2, "crc32:2"));
    assert.equal(agreement.complete, false);
    assert.deepEqual(numbersOf(agreement.lastQuestion("a:1", everything, noParent, true)), [0]);
  });

  it("goes to another parent, about the last piece, if the parent itself is unavailable", () => {
    const agreement = withPieces("a:1", [0, 1, 2]);
    agreement.announced("b:1", 7, "crc32:7");
    const joined = agreement.question("b:1", (number) => number !== 2);
    agree(agreement, joined);
    assert.equal(agreement.complete, false);
    const gone = (parent: string): boolean => parent === "a:1";
    const offers = (number: number): boolean => number === 2;
    const question = agreement.lastQuestion("b:1", offers, gone, true);
    assert.deepEqual(question?.claims, [{ number: 2, digest: "crc32:2", source: "a:1" }]);
    agree(agreement, question);
    assert.equal(agreement.complete, true);
  });

  it("is not repeated to a parent that no longer has its own piece", () => {
    const agreement = withPieces("a:1", [0, 1]);
    const question = agreement.lastQuestion("a:1", everything, noParent, true);
    assert.ok(question !== undefined);
    agreement.asked(question);
    agreement.answered(question, []);
    assert.equal(agreement.lastQuestion("a:1", everything, noParent, true), undefined);
    assert.equal(agreement.complete, false);
  });

  it("comes after the comparison: an answer about others says nothing about earlier announcements", () => {
    const agreement = withPieces("a:1", [0]);
    const at = agreement.announced("b:1", 7, "crc32:7");
    agree(agreement, agreement.question("b:1", everything));
    agreement.hold(piece(7), "b:1", at);
    assert.equal(agreement.complete, false);
    const question = agreement.lastQuestion("b:1", everything, noParent, true);
    assert.deepEqual(question?.claims, [{ number: 7, digest: "crc32:7", source: "b:1" }]);
    agree(agreement, question);
    assert.equal(agreement.complete, true);
  });

  it("is about the first announcement, also if that piece is not stored", () => {
    const agreement = new Agreement(3, () => 0.5);
    assert.equal(agreement.hasAnnounced("a:1"), false);
    agreement.announced("a:1", 1, "crc32:1");
    assert.equal(agreement.hasAnnounced("a:1"), true);
    bring(agreement, "a:1", [2]);
    assert.equal(agreement.complete, false);
    const question = agreement.lastQuestion("a:1", everything, noParent, true);
    assert.deepEqual(numbersOf(question), [1]);
    agree(agreement, question);
    assert.equal(agreement.complete, true);
  });

  it("is repeated after a piece that was announced after it", () => {
    const agreement = new Agreement(3, () => 0.5);
    bring(agreement, "a:1", [0, 1]);
    agree(agreement, agreement.lastQuestion("a:1", everything, noParent, true));
    assert.equal(agreement.complete, true);
    bring(agreement, "a:1", [2]);
    assert.equal(agreement.complete, false);
    assert.deepEqual(numbersOf(agreement.lastQuestion("a:1", everything, noParent, true)), [0]);
  });

  it("is asked of another parent about the oldest and the newest piece of one that is gone", () => {
    const agreement = withPieces("a:1", [0, 1, 2]);
    const gone = (parent: string): boolean => parent === "a:1";
    const question = agreement.lastQuestion("b:1", everything, gone, true);
    assert.deepEqual(numbersOf(question), [0, 2]);
    assert.ok(question !== undefined);
    agreement.asked(question);
    agreement.answered(question, question.claims.slice(1));
    assert.equal(agreement.complete, false, "it may have changed before the newest one");
    const other = agreement.lastQuestion("c:1", everything, gone, true);
    assert.deepEqual(numbersOf(other), [0]);
    agree(agreement, other);
    assert.equal(agreement.complete, true);
  });

  it("is about the pieces that the gone parent announced first and last, in whatever order they were stored", () => {
    const agreement = new Agreement(3, () => 0.5);
    const at = [0, 1, 2].map((number) => agreement.announced("a:1", number, `crc32:${number}`));
    for (const number of [1, 2, 0]) agreement.hold(piece(number), "a:1", at[number] ?? 0);
    const gone = (parent: string): boolean => parent === "a:1";
    assert.deepEqual(numbersOf(agreement.lastQuestion("b:1", everything, gone, true)), [0, 2]);
  });

  it("is not about a gone parent that had confirmed its own pieces", () => {
    const agreement = withPieces("a:1", [0, 1, 2]);
    agree(agreement, agreement.lastQuestion("a:1", everything, noParent, true));
    const gone = (parent: string): boolean => parent === "a:1";
    assert.equal(agreement.lastQuestion("b:1", everything, gone, true), undefined);
    assert.equal(agreement.complete, true);
  });

  it("compares a parent at the end that had none of the others' pieces before", () => {
    const agreement = withPieces("a:1", [0]);
    const at = agreement.announced("b:1", 7, "crc32:7");
    assert.equal(agreement.mayCommit("b:1", noParent), true);
    agreement.hold(piece(7), "b:1", at);
    assert.equal(agreement.complete, false);
    assert.equal(agreement.lastQuestion("b:1", everything, noParent, false), undefined);
    const question = agreement.lastQuestion("b:1", everything, noParent, true);
    assert.deepEqual(question?.claims, [{ number: 0, digest: "crc32:0", source: "a:1" }]);
    agree(agreement, question);
    agree(agreement, agreement.lastQuestion("b:1", everything, noParent, true));
    assert.equal(agreement.complete, true);
  });

  it("is asked of no parent without end, however many sources an earlier download had", () => {
    const agreement = new Agreement(3, () => 0);
    for (let number = 0; number < 100; number++)
      bring(agreement, earlierSource(`p${number}:1`), [number]);
    let asked = 0;
    for (;;) {
      const question = agreement.lastQuestion("b:1", everything, noParent, true);
      if (question === undefined) break;
      asked += question.claims.length;
      agree(agreement, question);
    }
    assert.deepEqual([asked, agreement.complete], [27, false]);
  });

  it("compares the parents of an earlier download one by one", () => {
    const agreement = withPieces(earlierSource("p:1"), [0, 1, 2, 3]);
    bring(agreement, earlierSource("q:1"), [7, 8, 9]);
    const offers = (number: number): boolean => number < 4 || number > 7;
    const first = agreement.lastQuestion("b:1", offers, noParent, true);
    assert.deepEqual(numbersOf(first), [0, 9, 3]);
    agree(agreement, first);
    assert.equal(agreement.complete, false, "7 is older than 9, and nothing confirms it");
    assert.equal(agreement.lastQuestion("b:1", offers, noParent, true), undefined);
    agree(agreement, agreement.lastQuestion("c:1", everything, noParent, true));
    const last = agreement.lastQuestion("c:1", everything, noParent, true);
    assert.deepEqual(numbersOf(last), [7]);
    agree(agreement, last);
    assert.equal(agreement.complete, true);
  });

  it("compares pieces of an earlier download with parents that delivered nothing", () => {
    const agreement = withPieces(EARLIER, [3, 1, 2]);
    assert.equal(agreement.complete, false);
    assert.equal(
      agreement.lastQuestion("a:1", everything, noParent, false),
      undefined,
      "not before the end",
    );
    const question = agreement.lastQuestion("a:1", everything, noParent, true);
    assert.deepEqual(numbersOf(question), [3, 2, 1]);
    agree(agreement, question);
    assert.equal(agreement.complete, true);
    assert.equal(
      agreement.lastQuestion("b:1", everything, noParent, true),
      undefined,
      "one parent is enough",
    );
  });
});

describe("sources that agree", () => {
  it("are found through each other", () => {
    const agreement = withPieces("a:1", [0]);
    const at = agreement.announced("b:1", 7, "crc32:7");
    agree(agreement, agreement.question("b:1", everything));
    agreement.hold(piece(7), "b:1", at);
    const third = agreement.announced("c:1", 9, "crc32:9");
    agree(
      agreement,
      agreement.question("c:1", (number) => number === 7),
    );
    agreement.hold(piece(9), "c:1", third);
    assert.equal(agreement.complete, false, "the last one may have changed since its announcement");
    assert.equal(agreement.lastQuestion("a:1", everything, noParent, true), undefined);
    assert.equal(
      agreement.lastQuestion("b:1", everything, noParent, true),
      undefined,
      "another source has the only piece that it announced",
    );
    agree(agreement, agreement.lastQuestion("c:1", everything, noParent, true));
    assert.equal(agreement.complete, true);
    assert.deepEqual(agreement.contributors, ["a:1", "b:1", "c:1"]);
  });

  it("do not include a source that neither of them was compared with", () => {
    const agreement = withPieces("a:1", [0]);
    const at = agreement.announced("c:1", 9, "crc32:9");
    assert.equal(agreement.mayCommit("c:1", noParent), true);
    agreement.hold(piece(9), "c:1", at);
    agreement.announced("b:1", 7, "crc32:7");
    agree(
      agreement,
      agreement.question("b:1", (number) => number === 0),
    );
    assert.equal(agreement.complete, false);
    agree(
      agreement,
      agreement.lastQuestion("c:1", (number) => number === 0, noParent, true),
    );
    agree(agreement, agreement.lastQuestion("c:1", everything, noParent, true));
    assert.equal(agreement.complete, true);
  });

  it("say nothing about a parent without pieces, nor does it about them", () => {
    const agreement = withPieces("a:1", [0]);
    agreement.announced("b:1", 7, "crc32:7");
    agreement.announced("b:1", 8, "crc32:8");
    assert.deepEqual(agreement.contributors, ["a:1"]);
    assert.equal(agreement.complete, true);
  });

  it("are compared again after a restart, which keeps the pieces of some", () => {
    const agreement = withPieces("a:1", [0, 1]);
    const at = agreement.announced("b:1", 7, "crc32:7");
    agree(agreement, agreement.question("b:1", everything));
    agreement.hold(piece(7), "b:1", at);
    agreement.restart([...agreement.pieces].filter(({ source }) => source === "b:1"));
    assert.deepEqual(agreement.contributors, ["b:1"]);
    agreement.announced("a:1", 0, "crc32:0");
    assert.equal(agreement.mayCommit("a:1", everything), false);
    assert.deepEqual(numbersOf(agreement.question("a:1", everything)), [7]);
  });

  it("are compared after a restart by the pieces stored since, the oldest of them first", () => {
    const agreement = withPieces("a:1", [0, 1, 2, 3]);
    agreement.restart([]);
    assert.deepEqual([agreement.isEmpty, [...agreement.pieces]], [true, []]);
    assert.equal(agreement.complete, true);
    bring(agreement, "b:1", [3, 2, 0, 1]);
    agreement.announced("a:1", 5, "crc32:5");
    assert.deepEqual(numbersOf(agreement.question("a:1", everything)), [3, 1, 0]);
  });

  it("may have changed between a kept piece and the first one after a restart", () => {
    const agreement = withPieces("b:1", [7]);
    agreement.restart([...agreement.pieces]);
    bring(agreement, "b:1", [8]);
    agreement.announced("c:1", 9, "crc32:9");
    agree(
      agreement,
      agreement.question("c:1", (number) => number === 7),
    );
    assert.equal(agreement.complete, false, "only the kept piece was compared");
  });
});

describe("the rounds of a task whose digest is known", () => {
  const three = ["a:1", "b:1", "c:1"];

  it("end after the first if pieces are missing and no parent was excluded", () => {
    assert.equal(new RoundPlanner(three).next({ mismatch: false, sources: ["a:1"] }), undefined);
    assert.equal(
      new RoundPlanner(three).next({ mismatch: false, sources: ["a:1", EARLIER] }),
      undefined,
    );
  });

  it("try the excluded parents first, whatever failed", () => {
    for (const mismatch of [true, false]) {
      const planner = new RoundPlanner(three);
      planner.exclude("b:1");
      planner.exclude("c:1");
      assert.deepEqual(planner.current, ["a:1"]);
      assert.deepEqual(planner.next({ mismatch, sources: ["a:1"] }), ["b:1", "c:1"]);
    }
  });

  it("try each source of a wrong whole alone, then all that are not proven wrong", () => {
    const planner = new RoundPlanner(three);
    assert.deepEqual(planner.next({ mismatch: true, sources: three }), ["a:1"]);
    // The first parent lacks pieces, the content of the second is wrong, and the third lacks pieces
    // too.
    assert.deepEqual(planner.next({ mismatch: false, sources: ["a:1"] }), ["b:1"]);
    assert.deepEqual(planner.next({ mismatch: true, sources: ["b:1"] }), ["c:1"]);
    assert.deepEqual(planner.next({ mismatch: false, sources: ["c:1"] }), ["a:1", "c:1"]);
    assert.equal(planner.next({ mismatch: true, sources: ["a:1", "c:1"] }), undefined);
  });

  it("exclude a parent whose pieces alone formed a wrong whole, also if others took part", () => {
    const planner = new RoundPlanner(three);
    assert.deepEqual(planner.next({ mismatch: true, sources: ["a:1"] }), ["b:1", "c:1"]);
  });

  it("try the same parents again without the pieces of an earlier download, and only then", () => {
    const planner = new RoundPlanner(["a:1"]);
    assert.deepEqual(planner.next({ mismatch: true, sources: [EARLIER] }), ["a:1"]);
    assert.equal(planner.next({ mismatch: true, sources: ["a:1"] }), undefined);
    const mixed = new RoundPlanner(["a:1"]);
    assert.deepEqual(mixed.next({ mismatch: true, sources: [EARLIER, "a:1"] }), ["a:1"]);
    const set = new RoundPlanner(["a:1"]);
    set.exclude("a:1");
    assert.deepEqual(set.next({ mismatch: false, sources: [EARLIER] }), ["a:1"]);
  });

  it("come to an end, whatever happens in them", () => {
    const parents = ["a:1", "b:1", "c:1", "d:1"];
    for (let seed = 0; seed < 300; seed++) {
      const planner = new RoundPlanner(parents);
      let state = seed;
      const next = (): number => {
        state = (state * 1103515245 + 12345) & 0x7fffffff;
        return state >> 8;
      };
      let rounds = 0;
      for (;;) {
        const current = [...planner.current];
        for (const parent of current.slice(1)) if (next() % 3 === 0) planner.exclude(parent);
        const sources = planner.current.filter(() => next() % 4 !== 0);
        if (planner.next({ mismatch: next() % 2 === 0, sources }) === undefined) break;
        assert.ok(++rounds < 16, `${rounds} rounds`);
      }
    }
  });
});
