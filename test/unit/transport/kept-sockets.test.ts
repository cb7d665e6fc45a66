/** Reuse of TCP sockets: every order of events on up to two sockets. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { KeptSockets, PARKED_MS } from "../../../src/transport/kept-sockets.ts";

const EVENTS = ["take", "bytes", "fin", "release", "surplus", "abort", "expire"] as const;
type Event = (typeof EVENTS)[number];

/** Returns every sequence of `length` items. */
function* sequences<T>(items: readonly T[], length: number): Generator<readonly T[]> {
  if (length === 0) return yield [];
  for (const rest of sequences(items, length - 1)) for (const item of items) yield [...rest, item];
}

/** Socket as its owner sees it, without knowledge of the state machine. */
class Socket {
  /** True while an exchange uses the socket. */
  inUse = false;
  /** True once this side must not use the socket for a further exchange. */
  unusable = false;
  closes = 0;
  /** Completed exchanges. */
  answers = 0;
  /** True if a byte has arrived in the current exchange. */
  answered = false;
  parkedAt = 0;
}

/** Applies events to sockets, and checks after each what must hold in any order. */
class Model {
  readonly kept = new KeptSockets<Socket>();
  readonly sockets: Socket[] = [];
  now = 0;

  open(): Socket {
    const socket = new Socket();
    socket.inUse = true;
    this.kept.open(socket);
    this.sockets.push(socket);
    return socket;
  }

  apply(event: Event, socket: Socket): void {
    this.now++;
    switch (event) {
      case "take":
        this.#take();
        break;
      case "bytes":
        if (socket.closes > 0) return;
        if (socket.inUse) socket.answered = true;
        else socket.unusable = true;
        this.#act(socket, this.kept.received(socket));
        break;
      case "fin":
        if (socket.closes > 0) return;
        socket.unusable = true;
        this.#act(socket, this.kept.ended(socket));
        break;
      case "release":
      case "surplus":
        this.#release(socket, event === "surplus" ? 1 : 0);
        break;
      case "abort":
        if (!socket.inUse) return;
        socket.inUse = false;
        socket.unusable = true;
        this.kept.drop(socket);
        break;
      case "expire":
        this.now += PARKED_MS;
        for (const expired of this.kept.expire(this.now)) {
          assert.equal(expired.inUse, false, "a socket in use expired");
          assert.ok(this.now - expired.parkedAt >= PARKED_MS, "expired early");
          this.#close(expired);
        }
        assert.equal(this.kept.nextExpiry, undefined);
    }
  }

  #take(): void {
    const idle = this.sockets.filter((each) => !each.inUse && !each.unusable && each.closes === 0);
    const latest = idle.toSorted((a, b) => b.parkedAt - a.parkedAt)[0];
    const taken = this.kept.take();
    assert.equal(taken, latest, "not the usable socket that was parked last");
    if (taken === undefined) return;
    taken.inUse = true;
    taken.answered = false;
    assert.equal(this.kept.isStale(taken), taken.answers > 0);
  }

  #release(socket: Socket, unread: number): void {
    if (!socket.inUse) return;
    socket.inUse = false;
    socket.answers++;
    const wholeAnswer = socket.answered && unread === 0 && !socket.unusable;
    const action = this.kept.release(socket, unread, this.now);
    assert.equal(action, wholeAnswer && this.kept.peerKeeps ? "park" : "close");
    socket.parkedAt = this.now;
    this.#act(socket, action);
  }

  #act(socket: Socket, action: string): void {
    if (action !== "close") return;
    assert.equal(socket.inUse, false, "closed under an exchange");
    this.#close(socket);
  }

  #close(socket: Socket): void {
    socket.closes++;
    socket.unusable = true;
    assert.equal(socket.closes, 1, "closed twice");
  }

  check(): void {
    for (const socket of this.sockets) {
      if (!socket.inUse) continue;
      assert.equal(this.kept.isStale(socket), socket.answers > 0 && !socket.answered);
    }
    const parked = this.sockets.filter((each) => !each.inUse && !each.unusable);
    assert.equal(this.kept.parked, parked.length);
    assert.equal(
      this.kept.nextExpiry,
      parked.length === 0
        ? undefined
        : Math.min(...parked.map((each) => each.parkedAt)) + PARKED_MS,
    );
  }
}

describe("reuse of sockets", () => {
  it("holds its rules in every order of six events on one socket", () => {
    let count = 0;
    for (const events of sequences(EVENTS, 6)) {
      const model = new Model();
      const socket = model.open();
      for (const event of events) {
        model.apply(event, socket);
        model.check();
      }
      count++;
    }
    assert.equal(count, EVENTS.length ** 6);
  });

  it("holds its rules in every order of four events on two sockets", () => {
    const steps = EVENTS.flatMap((event) => [0, 1].map((at) => ({ event, at })));
    for (const events of sequences(steps, 4)) {
      const model = new Model();
      const both = [model.open(), model.open()];
      // Both have answered once, so that the events begin with parked sockets.
      for (const socket of both) {
        model.apply("bytes", socket);
        model.apply("release", socket);
      }
      for (const { event, at } of events) {
        const socket = both[at];
        assert.ok(socket !== undefined);
        model.apply(event, socket);
        model.check();
      }
    }
  });
});

describe("the memory of a peer", () => {
  const answeredOnce = () => {
    const model = new Model();
    const socket = model.open();
    model.apply("bytes", socket);
    return { model, socket };
  };

  for (const [what, before, after] of [
    ["before the exchange is released", ["fin", "release"], []],
    ["while the socket is parked", ["release", "fin"], []],
    ["while the next request is unanswered", ["release", "take", "fin"], ["abort"]],
  ] as const) {
    it(`a FIN after one response, ${what}: no socket is parked again`, () => {
      const { model, socket } = answeredOnce();
      for (const event of [...before, ...after]) model.apply(event, socket);
      assert.equal(model.kept.peerKeeps, false);
      const next = model.open();
      model.apply("bytes", next);
      model.apply("release", next);
      assert.deepEqual([next.closes, model.kept.parked], [1, 0]);
    });
  }

  it("a peer that has answered twice on a socket is not taken for one that closes", () => {
    const { model, socket } = answeredOnce();
    for (const event of ["release", "take", "bytes", "release"] as const)
      model.apply(event, socket);
    const other = model.open();
    for (const event of ["bytes", "release", "fin"] as const) model.apply(event, other);
    assert.equal(model.kept.peerKeeps, true);
  });

  it("a FIN before any response, an abort and an expiry teach nothing", () => {
    for (const events of [["fin"], ["abort"], ["bytes", "abort"], ["bytes", "release", "expire"]]) {
      const model = new Model();
      const socket = model.open();
      for (const event of events as Event[]) model.apply(event, socket);
      assert.equal(model.kept.peerKeeps, true);
    }
  });

  it("a socket that has carried no exchange is parked, expires, and is not stale when taken", () => {
    const kept = new KeptSockets<object>();
    const [first, second] = [{}, {}];
    kept.openParked(first, 0);
    kept.openParked(second, 1);
    assert.equal(kept.take(), second);
    assert.equal(kept.isStale(second), false);
    assert.deepEqual(kept.expire(PARKED_MS - 1), []);
    assert.deepEqual(kept.expire(PARKED_MS), [first]);
    assert.equal(kept.take(), undefined);
  });
});
