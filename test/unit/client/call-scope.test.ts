import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { CallScope, type CallScopeOptions } from "../../../src/client/call/scope.ts";
import { VortexError } from "../../../src/errors.ts";
import { assertRejects, rejectionOf } from "../../support/failures.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const usual: CallScopeOptions = {
  pieceTimeout: 10_000,
  stallTimeout: 1000,
  what: "piece 3",
  addr: "peer:1",
};

function scopeOf(options: Partial<CallScopeOptions> = {}): { scope: CallScope; clock: FakeClock } {
  const clock = new FakeClock();
  return { scope: new CallScope(clock, { ...usual, ...options }), clock };
}

/** Returns the current failure of the scope; a call defeats narrowing of the property. */
function failureOf(scope: CallScope): VortexError | undefined {
  return scope.failure;
}

/** Promise that the test settles. */
function owing<T>(): { owed: Promise<T>; give(value: T): void; break(error: unknown): void } {
  let give: (value: T) => void = () => {};
  let fail: (error: unknown) => void = () => {};
  const owed = new Promise<T>((resolve, reject) => {
    give = resolve;
    fail = reject;
  });
  return { owed, give: (value) => give(value), break: (error) => fail(error) };
}

describe("the piece timeout", () => {
  it("fails the scope exactly when it has elapsed", async () => {
    const { scope, clock } = scopeOf();
    await clock.advance(9999);
    assert.equal(failureOf(scope), undefined);
    await clock.advance(1);
    assert.equal(failureOf(scope)?.code, "PieceTimeout");
    assert.equal(failureOf(scope)?.addr, "peer:1");
    assert.equal(scope.signal.reason, scope.failure);
    assert.equal(clock.pending, 0);
  });

  it("does not affect a finished scope", async () => {
    const { scope, clock } = scopeOf();
    scope.finish();
    await clock.advance(20_000);
    assert.equal(failureOf(scope), undefined);
    assert.equal(scope.signal.aborted, false);
  });
});

describe("holds by the caller", () => {
  it("do not count against the piece timeout, whatever their number and length", async () => {
    const { scope, clock } = scopeOf({ unreadTimeout: 1_000_000 });
    for (let round = 0; round < 9; round++) {
      await clock.advance(1000);
      scope.hold();
      await clock.advance(round === 4 ? 900_000 : 50);
      scope.resume();
    }
    await clock.advance(999);
    assert.equal(failureOf(scope), undefined);
    await clock.advance(1);
    assert.equal(failureOf(scope)?.code, "PieceTimeout");
    assert.match(
      failureOf(scope)?.message ?? "",
      /^piece 3: not complete within 10000 ms \(pieceTimeout\)$/,
    );
    assert.equal(clock.pending, 0);
  });

  it("ignore a nested hold and a second resume", async () => {
    const { scope, clock } = scopeOf();
    scope.hold();
    await clock.advance(5000);
    scope.hold();
    await clock.advance(4000);
    scope.resume();
    scope.resume();
    await clock.advance(9999);
    assert.equal(failureOf(scope), undefined);
    await clock.advance(1);
    assert.equal(failureOf(scope)?.code, "PieceTimeout");
  });

  it("fail the scope at the unread timeout, by default the piece timeout", async () => {
    for (const [options, limit] of [
      [{}, 10_000],
      [{ unreadTimeout: 25_000 }, 25_000],
      [{ unreadTimeout: 2000 }, 2000],
    ] as const) {
      const { scope, clock } = scopeOf(options);
      scope.hold();
      await clock.advance(limit - 1);
      assert.equal(failureOf(scope), undefined);
      await clock.advance(1);
      assert.equal(failureOf(scope)?.code, "PieceTimeout");
      assert.match(
        failureOf(scope)?.message ?? "",
        /: content not read for \d+ ms \(unreadTimeout\)$/,
      );
      assert.equal(clock.pending, 0);
    }
  });

  it("share one timer", async () => {
    const { scope, clock } = scopeOf({ unreadTimeout: 60_000 });
    for (let round = 0; round < 100; round++) {
      scope.hold();
      await clock.advance(1000);
      scope.resume();
      assert.equal(clock.pending, 1);
    }
    scope.finish();
    scope.hold();
    scope.resume();
    await clock.advance(100_000);
    assert.deepEqual([failureOf(scope), clock.pending], [undefined, 0]);
  });
});

describe("the stall timeout", () => {
  it("fails the scope when a wait exceeds it", async () => {
    const { scope, clock } = scopeOf();
    const { owed, break: fail } = owing<number>();
    scope.signal.addEventListener("abort", () => fail(new VortexError("Closed", "cancelled")));
    const waiting = scope.waitFor(owed);
    waiting.catch(() => {});
    await clock.advance(999);
    assert.equal(failureOf(scope), undefined);
    await clock.advance(1);
    const error = await assertRejects(waiting, "Stalled");
    assert.equal(error, scope.failure);
    assert.equal(clock.pending, 0);
  });

  it("applies to each wait separately", async () => {
    const { scope, clock } = scopeOf();
    for (let round = 0; round < 5; round++) {
      const { owed, give } = owing<number>();
      const waiting = scope.waitFor(owed);
      await clock.advance(900);
      give(round);
      assert.equal(await waiting, round);
    }
    assert.equal(failureOf(scope), undefined);
    scope.finish();
    assert.equal(clock.pending, 0);
  });

  it("does not count the time between two waits", async () => {
    const { scope, clock } = scopeOf();
    await scope.waitFor(Promise.resolve());
    await clock.advance(5000);
    const { owed, give } = owing<void>();
    const waiting = scope.waitFor(owed);
    await clock.advance(999);
    assert.equal(failureOf(scope), undefined);
    give();
    await waiting;
    scope.finish();
  });

  it("is measured from the start of the wait, not from an earlier check", async () => {
    const { scope, clock } = scopeOf();
    // The watchdog starts here and checks at 1000.
    await scope.waitFor(Promise.resolve());
    await clock.advance(600);
    const waiting = scope.waitFor(owing<void>().owed);
    waiting.catch(() => {});
    await clock.advance(999);
    assert.equal(failureOf(scope), undefined);
    await clock.advance(1);
    assert.equal(failureOf(scope)?.code, "Stalled");
  });

  it("uses one timer for any number of waits", async () => {
    const { scope, clock } = scopeOf();
    for (let round = 0; round < 100; round++) await scope.waitFor(Promise.resolve());
    assert.equal(clock.pending, 2);
    scope.finish();
    assert.equal(clock.pending, 0);
  });
});

describe("the caller's signal", () => {
  it("fails the scope with Aborted, its reason as cause, and the peer's address", () => {
    const abort = new AbortController();
    const { scope, clock } = scopeOf({ signal: abort.signal });
    const reason = new Error("enough");
    abort.abort(reason);
    assert.equal(failureOf(scope)?.code, "Aborted");
    assert.equal(failureOf(scope)?.cause, reason);
    assert.equal(failureOf(scope)?.addr, "peer:1");
    assert.equal(clock.pending, 0);
  });

  it("fails the scope from the start when it is already aborted", () => {
    const { scope, clock } = scopeOf({ signal: AbortSignal.abort() });
    assert.equal(failureOf(scope)?.code, "Aborted");
    assert.equal(clock.pending, 0);
  });

  it("keeps the code of a VortexError as reason", () => {
    const { scope } = scopeOf({
      signal: AbortSignal.abort(new VortexError("Closed", "the program ends")),
    });
    assert.equal(failureOf(scope)?.code, "Closed");
  });

  it("has no listener after the scope has finished", () => {
    const listeners = new Set<unknown>();
    const { signal } = new AbortController();
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    Object.assign(signal, {
      addEventListener: (...args: Parameters<AbortSignal["addEventListener"]>) => {
        listeners.add(args[1]);
        add(...args);
      },
      removeEventListener: (...args: Parameters<AbortSignal["removeEventListener"]>) => {
        listeners.delete(args[1]);
        remove(...args);
      },
    });
    const { scope } = scopeOf({ signal });
    assert.equal(listeners.size, 1);
    scope.finish();
    assert.equal(listeners.size, 0);
  });
});

describe("failing and finishing", () => {
  it("only the first failure counts", () => {
    const { scope } = scopeOf();
    scope.fail(new VortexError("DigestMismatch", "first"));
    scope.fail(new VortexError("Aborted", "second"));
    assert.equal(failureOf(scope)?.code, "DigestMismatch");
    assert.equal(scope.end(new VortexError("Closed", "third")).code, "DigestMismatch");
  });

  it("end returns the error with the peer's address and the original as cause", () => {
    const { scope } = scopeOf();
    const original = new VortexError("TruncatedContent", "short");
    const error = scope.end(original);
    assert.deepEqual(
      [error.code, error.addr, error.message, error.cause],
      ["TruncatedContent", "peer:1", "short", original],
    );
    assert.equal(scope.failure, error);
  });

  it("end converts other errors to Internal", () => {
    const { scope } = scopeOf();
    const cause = new TypeError("oops");
    const error = scope.end(cause);
    assert.deepEqual([error.code, error.addr, error.cause], ["Internal", "peer:1", cause]);
  });

  it("end after finish returns the error and leaves the scope without a failure", () => {
    const { scope } = scopeOf();
    scope.finish();
    assert.equal(scope.end(new VortexError("Closed", "late")).code, "Closed");
    assert.equal(failureOf(scope), undefined);
  });

  it("a failed scope replaces the error of an awaited promise", async () => {
    const { scope } = scopeOf();
    const { owed, break: fail } = owing<void>();
    const waiting = scope.waitFor(owed);
    scope.fail(new VortexError("PieceMismatch", "wrong one"));
    fail(new VortexError("Closed", "the stream was cancelled on this side"));
    assert.equal((await rejectionOf(waiting)).code, "PieceMismatch");
  });

  it("an awaited promise that fails by itself keeps its error", async () => {
    const { scope } = scopeOf();
    await assertRejects(
      scope.waitFor(Promise.reject(new VortexError("StreamReset", "no"))),
      "StreamReset",
    );
    assert.equal(failureOf(scope), undefined);
    scope.finish();
  });

  it("cleanups run once when the scope ends in any way, or at once if it has ended", () => {
    for (const end of [
      (scope: CallScope) => scope.finish(),
      (scope: CallScope) => scope.fail(new VortexError("Closed", "x")),
      (scope: CallScope) => void scope.end(new Error("x")),
    ]) {
      const { scope, clock } = scopeOf();
      let runs = 0;
      scope.onFinish(() => runs++);
      assert.equal(runs, 0);
      end(scope);
      end(scope);
      assert.equal(runs, 1);
      scope.onFinish(() => runs++);
      assert.equal(runs, 2);
      assert.equal(clock.pending, 0);
    }
  });
});

describe("one signal for many calls", () => {
  /** Signal that counts its listeners. */
  function counting(): { abort: () => void; signal: AbortSignal; count: () => number } {
    const controller = new AbortController();
    const { signal } = controller;
    const listeners = new Set<unknown>();
    const { addEventListener, removeEventListener } = signal;
    signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
      listeners.add(args[1]);
      addEventListener.apply(signal, args);
    };
    signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
      listeners.delete(args[1]);
      removeEventListener.apply(signal, args);
    };
    return { abort: () => controller.abort(), signal, count: () => listeners.size };
  }

  it("has one listener while any call is in progress", () => {
    const { signal, count, abort } = counting();
    const scopes = Array.from({ length: 30 }, () => scopeOf({ signal }).scope);
    assert.equal(count(), 1);
    for (const scope of scopes.splice(0, 29)) scope.finish();
    assert.equal(count(), 1);
    const [last] = scopes;
    assert.ok(last !== undefined);
    abort();
    assert.equal(failureOf(last)?.code, "Aborted");
  });

  it("loses its listener after the last call, and regains it for the next", () => {
    const { signal, count } = counting();
    for (let round = 0; round < 3; round++) {
      const scopes = [scopeOf({ signal }).scope, scopeOf({ signal }).scope];
      assert.equal(count(), 1);
      for (const scope of scopes) scope.finish();
      assert.equal(count(), 0);
    }
  });

  it("aborts all calls in progress, even when one of them ends another", () => {
    const { signal, abort } = counting();
    const { scope: done } = scopeOf({ signal });
    done.finish();
    const { scope: first } = scopeOf({ signal });
    const { scope: second } = scopeOf({ signal });
    const { scope: third } = scopeOf({ signal });
    first.onFailure(() => second.finish());
    abort();
    assert.deepEqual(
      [done, first, second, third].map((scope) => failureOf(scope)?.code),
      [undefined, "Aborted", undefined, "Aborted"],
    );
  });
});
