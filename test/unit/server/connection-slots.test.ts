import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  type ConnectionSlot,
  ConnectionSlots,
  EVICTION_DELAY_MS,
} from "../../../src/server/admission/connection-slots.ts";
import { FakeClock } from "../../support/fake-clock.ts";

/** Slots under test, with the names of the connections that were evicted. */
class Clients {
  readonly clock = new FakeClock();
  readonly #evicted: string[] = [];
  readonly #slots: ConnectionSlots;

  constructor(maxConnections: number) {
    this.#slots = new ConnectionSlots(maxConnections, this.clock);
  }

  /** Returns the names of the evicted connections, after any pending eviction. */
  async evicted(): Promise<readonly string[]> {
    await this.clock.advance(EVICTION_DELAY_MS);
    assert.equal(this.clock.pending, 0);
    return this.#evicted;
  }

  arrive(name: string, host = "10.0.0.1"): ConnectionSlot {
    const slot = this.#slots.take(host, () => this.#evicted.push(name));
    assert.ok(slot !== undefined, `no slot for ${name}`);
    return slot;
  }

  refused(host = "10.0.0.1"): boolean {
    return this.#slots.take(host, () => {}) === undefined;
  }
}

describe("ConnectionSlots", () => {
  it("evicts no connection while a slot is free, also after one has left", async () => {
    const clients = new Clients(2);
    const first = clients.arrive("first");
    clients.arrive("second");
    assert.deepEqual(await clients.evicted(), []);
    first.leave();
    first.leave();
    clients.arrive("third");
    assert.deepEqual(await clients.evicted(), []);
    clients.arrive("fourth");
    assert.deepEqual(await clients.evicted(), ["second"]);
  });

  it("evicts connections without a request first, then the longest idle", async () => {
    const clients = new Clients(3);
    const [first, second] = [clients.arrive("first"), clients.arrive("second")];
    clients.arrive("third");
    for (const slot of [second, first]) {
      slot.begin();
      slot.end();
    }
    for (const name of ["fourth", "fifth", "sixth"]) {
      const slot = clients.arrive(name);
      slot.begin();
      if (name === "fourth") slot.end();
    }
    assert.deepEqual(await clients.evicted(), ["third", "second", "first"]);
  });

  it("any number of silent connections evict only each other", async () => {
    const clients = new Clients(3);
    for (const name of ["first", "second"]) {
      const slot = clients.arrive(name);
      slot.begin();
      slot.end();
    }
    for (let index = 0; index < 10; index++) clients.arrive(`silent ${index}`);
    assert.deepEqual(
      await clients.evicted(),
      Array.from({ length: 9 }, (_, index) => `silent ${index}`),
    );
  });

  it("a connection with a request in flight stays until its last one has ended", async () => {
    const clients = new Clients(2);
    const [first, second] = [clients.arrive("first"), clients.arrive("second")];
    first.begin();
    first.begin();
    second.begin();
    first.end();
    assert.equal(clients.refused(), true);
    first.end();
    clients.arrive("third");
    assert.deepEqual(await clients.evicted(), ["first"]);
  });

  it("a request during the eviction delay saves a connection, and another one is evicted in time", async () => {
    const clients = new Clients(3);
    const first = clients.arrive("first");
    for (const name of ["second", "third", "fourth", "fifth"]) clients.arrive(name);
    await clients.clock.advance(EVICTION_DELAY_MS - 1);
    first.begin();
    await clients.clock.advance(1);
    first.end();
    assert.deepEqual(await clients.evicted(), ["second", "third"]);
    for (const name of ["sixth", "seventh", "eighth"]) clients.arrive(name);
    assert.deepEqual(await clients.evicted(), ["second", "third", "fourth", "fifth", "sixth"]);
  });

  it("a connection answered during its eviction delay stays, and the next silent one is evicted", async () => {
    const clients = new Clients(2);
    const first = clients.arrive("first");
    for (const name of ["second", "third"]) clients.arrive(name);
    first.begin();
    first.end();
    // The delay of the second connection starts at the end of the first one's.
    await clients.clock.advance(EVICTION_DELAY_MS);
    assert.deepEqual(await clients.evicted(), ["second"]);
    clients.arrive("fourth");
    assert.deepEqual(await clients.evicted(), ["second", "third"]);
  });

  it("evicts no connection at the end of a delay if a slot is free again", async () => {
    for (const ask of [0, 1, 2]) {
      const clients = new Clients(1);
      const first = clients.arrive("first");
      const second = clients.arrive("second");
      if (ask > 0) first.begin();
      if (ask > 1) first.end();
      second.leave();
      assert.deepEqual(await clients.evicted(), []);
      if (ask === 1) {
        assert.equal(clients.refused(), true);
        first.end();
      }
      clients.arrive("third");
      assert.deepEqual(await clients.evicted(), ["first"]);
    }
  });

  it("a request during the eviction delay saves a connection at the cost of a host with more slots", async () => {
    const clients = new Clients(3);
    const first = clients.arrive("first", "10.0.0.1");
    for (const name of ["b1", "b2"]) clients.arrive(name, "10.0.0.2").begin();
    clients.arrive("b3", "10.0.0.2").begin();
    first.begin();
    assert.deepEqual(await clients.evicted(), ["b1"]);
    assert.equal(clients.refused("10.0.0.1"), true);
  });

  it("events of an evicted connection change nothing", async () => {
    const clients = new Clients(1);
    const first = clients.arrive("first");
    const second = clients.arrive("second");
    assert.deepEqual(await clients.evicted(), ["first"]);
    first.begin();
    first.end();
    first.begin();
    second.leave();
    const third = clients.arrive("third");
    first.leave();
    third.begin();
    assert.equal(clients.refused(), true);
    assert.deepEqual(await clients.evicted(), ["first"]);
  });

  it("a second request of a connection does not renew its age", async () => {
    const clients = new Clients(3);
    const [a1] = ["a1", "a2", "a3"].map((name) => {
      const slot = clients.arrive(name);
      slot.begin();
      return slot;
    });
    a1?.begin();
    a1?.end();
    clients.arrive("b1", "10.0.0.2");
    assert.deepEqual(await clients.evicted(), ["a1"]);
  });

  it("an idle connection stays once it makes another request", async () => {
    const clients = new Clients(1);
    const first = clients.arrive("first");
    first.begin();
    first.end();
    first.begin();
    assert.equal(clients.refused(), true);
    assert.deepEqual(await clients.evicted(), []);
  });

  it("the timer of an eviction does not keep the process alive", () => {
    const clients = new Clients(1);
    clients.arrive("first");
    clients.arrive("second");
    assert.deepEqual([clients.clock.pending, clients.clock.foregroundPending], [1, 0]);
  });

  it("a request during the eviction delay does not help if no other connection can be evicted", async () => {
    const clients = new Clients(1);
    const first = clients.arrive("first");
    clients.arrive("second").begin();
    first.begin();
    assert.deepEqual(await clients.evicted(), ["first"]);
  });

  it("a connection that leaves during its eviction delay is not evicted", async () => {
    const clients = new Clients(1);
    const first = clients.arrive("first");
    clients.arrive("second");
    first.leave();
    assert.deepEqual(await clients.evicted(), []);
  });

  it("the end of a request does not readmit an evicted connection", async () => {
    const clients = new Clients(1);
    const first = clients.arrive("first", "10.0.0.1");
    clients.arrive("second").begin();
    first.begin();
    first.end();
    first.leave();
    assert.equal(clients.refused(), true);
  });

  it("when all are busy, evicts the oldest of the host with most slots, unless that host then has fewer than the newcomer's", async () => {
    const clients = new Clients(5);
    for (const [name, host] of [
      ["a1", "10.0.0.1"],
      ["b1", "10.0.0.2"],
      ["b2", "10.0.0.2"],
      ["b3", "10.0.0.2"],
      ["a2", "10.0.0.1"],
    ] as const) {
      clients.arrive(name, host).begin();
    }
    assert.equal(clients.refused("10.0.0.1"), true);
    clients.arrive("c1", "10.0.0.3").begin();
    assert.deepEqual(await clients.evicted(), ["b1"]);
    // Two connections of each other host, and one of this.
    assert.equal(clients.refused("10.0.0.3"), true);
    clients.arrive("d1", "10.0.0.4").begin();
    assert.deepEqual(await clients.evicted(), ["b1", "a1"]);
  });

  it("all addresses of an IPv6 network are one host", async () => {
    const clients = new Clients(3);
    clients.arrive("a1", "2001:db8:0:1::1").begin();
    clients.arrive("a2", "2001:db8:0:1::2").begin();
    clients.arrive("a3", "2001:db8:0:1:ffff::3").begin();
    assert.equal(clients.refused("2001:db8:0:1::4"), true);
    clients.arrive("b1", "2001:db8:0:2::1").begin();
    assert.deepEqual(await clients.evicted(), ["a1"]);
  });
});
