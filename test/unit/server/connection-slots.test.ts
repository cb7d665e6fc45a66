import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  type ConnectionSlot,
  ConnectionSlots,
  NOTICE,
} from "../../../src/server/admission/connection-slots.ts";
import { FakeClock } from "../../support/fake-clock.ts";

/** Connections by name, and which of them have made room. */
class Guests {
  readonly clock = new FakeClock();
  readonly #made: string[] = [];
  readonly #places: ConnectionSlots;

  constructor(most: number) {
    this.#places = new ConnectionSlots(most, this.clock);
  }

  /** Who has made room, or is to. */
  async made(): Promise<readonly string[]> {
    await this.clock.advance(NOTICE);
    assert.equal(this.clock.pending, 0);
    return this.#made;
  }

  arrive(name: string, host = "10.0.0.1"): ConnectionSlot {
    const place = this.#places.take(host, () => this.#made.push(name));
    assert.ok(place !== undefined, `no place for ${name}`);
    return place;
  }

  refused(host = "10.0.0.1"): boolean {
    return this.#places.take(host, () => {}) === undefined;
  }
}

describe("places for connections", () => {
  it("nobody has to go before they are all taken, nor once somebody has left", async () => {
    const guests = new Guests(2);
    const first = guests.arrive("first");
    guests.arrive("second");
    assert.deepEqual(await guests.made(), []);
    first.leave();
    first.leave();
    guests.arrive("third");
    assert.deepEqual(await guests.made(), []);
    guests.arrive("fourth");
    assert.deepEqual(await guests.made(), ["second"]);
  });

  it("who has made no request goes first, and then who has been without one for longest", async () => {
    const guests = new Guests(3);
    const [first, second] = [guests.arrive("first"), guests.arrive("second")];
    guests.arrive("third");
    for (const place of [second, first]) {
      place.begin();
      place.end();
    }
    for (const name of ["fourth", "fifth", "sixth"]) {
      const place = guests.arrive(name);
      place.begin();
      if (name === "fourth") place.end();
    }
    assert.deepEqual(await guests.made(), ["third", "second", "first"]);
  });

  it("however many come and say nothing, they make room for each other", async () => {
    const guests = new Guests(3);
    for (const name of ["first", "second"]) {
      const place = guests.arrive(name);
      place.begin();
      place.end();
    }
    for (let index = 0; index < 10; index++) guests.arrive(`silent ${index}`);
    assert.deepEqual(
      await guests.made(),
      Array.from({ length: 9 }, (_, index) => `silent ${index}`),
    );
  });

  it("who has a request stays, until its last one has ended", async () => {
    const guests = new Guests(2);
    const [first, second] = [guests.arrive("first"), guests.arrive("second")];
    first.begin();
    first.begin();
    second.begin();
    first.end();
    assert.equal(guests.refused(), true);
    first.end();
    guests.arrive("third");
    assert.deepEqual(await guests.made(), ["first"]);
  });

  it("who is to make room and says what it wants stays, and another one makes room in time", async () => {
    const guests = new Guests(3);
    const first = guests.arrive("first");
    for (const name of ["second", "third", "fourth", "fifth"]) guests.arrive(name);
    await guests.clock.advance(NOTICE - 1);
    first.begin();
    await guests.clock.advance(1);
    first.end();
    assert.deepEqual(await guests.made(), ["second", "third"]);
    for (const name of ["sixth", "seventh", "eighth"]) guests.arrive(name);
    assert.deepEqual(await guests.made(), ["second", "third", "fourth", "fifth", "sixth"]);
  });

  it("one that asks within its notice and has its answer stays; the next that says nothing goes", async () => {
    const guests = new Guests(2);
    const first = guests.arrive("first");
    for (const name of ["second", "third"]) guests.arrive(name);
    first.begin();
    first.end();
    // One notice after another.
    await guests.clock.advance(NOTICE);
    assert.deepEqual(await guests.made(), ["second"]);
    guests.arrive("fourth");
    assert.deepEqual(await guests.made(), ["second", "third"]);
  });

  it("at the end of a notice no connection has to go if there is room again", async () => {
    for (const ask of [0, 1, 2]) {
      const guests = new Guests(1);
      const first = guests.arrive("first");
      const second = guests.arrive("second");
      if (ask > 0) first.begin();
      if (ask > 1) first.end();
      second.leave();
      assert.deepEqual(await guests.made(), []);
      if (ask === 1) {
        assert.equal(guests.refused(), true);
        first.end();
      }
      guests.arrive("third");
      assert.deepEqual(await guests.made(), ["first"]);
    }
  });

  it("one that asks within its notice stays where a host with more places can make room", async () => {
    const guests = new Guests(3);
    const first = guests.arrive("first", "10.0.0.1");
    for (const name of ["b1", "b2"]) guests.arrive(name, "10.0.0.2").begin();
    guests.arrive("b3", "10.0.0.2").begin();
    first.begin();
    assert.deepEqual(await guests.made(), ["b1"]);
    assert.equal(guests.refused("10.0.0.1"), true);
  });

  it("what a connection does after it has made room changes nothing", async () => {
    const guests = new Guests(1);
    const first = guests.arrive("first");
    const second = guests.arrive("second");
    assert.deepEqual(await guests.made(), ["first"]);
    first.begin();
    first.end();
    first.begin();
    second.leave();
    const third = guests.arrive("third");
    first.leave();
    third.begin();
    assert.equal(guests.refused(), true);
    assert.deepEqual(await guests.made(), ["first"]);
  });

  it("a second request of a connection leaves its age as it is", async () => {
    const guests = new Guests(3);
    const [a1] = ["a1", "a2", "a3"].map((name) => {
      const place = guests.arrive(name);
      place.begin();
      return place;
    });
    a1?.begin();
    a1?.end();
    guests.arrive("b1", "10.0.0.2");
    assert.deepEqual(await guests.made(), ["a1"]);
  });

  it("an idle connection that asks again stays", async () => {
    const guests = new Guests(1);
    const first = guests.arrive("first");
    first.begin();
    first.end();
    first.begin();
    assert.equal(guests.refused(), true);
    assert.deepEqual(await guests.made(), []);
  });

  it("a notice keeps no process alive", () => {
    const guests = new Guests(1);
    guests.arrive("first");
    guests.arrive("second");
    assert.deepEqual([guests.clock.pending, guests.clock.holding], [1, 0]);
  });

  it("one that asks within its notice goes where no other can make room", async () => {
    const guests = new Guests(1);
    const first = guests.arrive("first");
    guests.arrive("second").begin();
    first.begin();
    assert.deepEqual(await guests.made(), ["first"]);
  });

  it("who leaves before it has to makes no room any more", async () => {
    const guests = new Guests(1);
    const first = guests.arrive("first");
    guests.arrive("second");
    first.leave();
    assert.deepEqual(await guests.made(), []);
  });

  it("who has made room does not come back with a request that ends", async () => {
    const guests = new Guests(1);
    const first = guests.arrive("first", "10.0.0.1");
    guests.arrive("second").begin();
    first.begin();
    first.end();
    first.leave();
    assert.equal(guests.refused(), true);
  });

  it("where all have requests, one of the host with most places goes, the first; but no host is made poorer than the newcomer's", async () => {
    const guests = new Guests(5);
    for (const [name, host] of [
      ["a1", "10.0.0.1"],
      ["b1", "10.0.0.2"],
      ["b2", "10.0.0.2"],
      ["b3", "10.0.0.2"],
      ["a2", "10.0.0.1"],
    ] as const) {
      guests.arrive(name, host).begin();
    }
    assert.equal(guests.refused("10.0.0.1"), true);
    guests.arrive("c1", "10.0.0.3").begin();
    assert.deepEqual(await guests.made(), ["b1"]);
    // Two of each of the others, and one of this.
    assert.equal(guests.refused("10.0.0.3"), true);
    guests.arrive("d1", "10.0.0.4").begin();
    assert.deepEqual(await guests.made(), ["b1", "a1"]);
  });

  it("all addresses of an IPv6 network are one host", async () => {
    const guests = new Guests(3);
    guests.arrive("a1", "2001:db8:0:1::1").begin();
    guests.arrive("a2", "2001:db8:0:1::2").begin();
    guests.arrive("a3", "2001:db8:0:1:ffff::3").begin();
    assert.equal(guests.refused("2001:db8:0:1::4"), true);
    guests.arrive("b1", "2001:db8:0:2::1").begin();
    assert.deepEqual(await guests.made(), ["a1"]);
  });
});
