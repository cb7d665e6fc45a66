import assert from "node:assert/strict";
import { networkInterfaces } from "node:os";
import { describe, it } from "node:test";
import { isSameHost } from "../../adapters/local-address.ts";
import { automaticSize, PathSize, type PathStats, SAFE_SIZE } from "../../adapters/quiche/path-size.ts";

/** What quiche would tell of a path with a round trip of 10 ms. */
function statsOf(lost: number): () => PathStats {
  return () => ({ lost, rtt: 10 });
}

const none = statsOf(0);

describe("the size of a path's datagrams", () => {
  it("is what is asked for where that is safe anyway, and nothing is watched", () => {
    const size = new PathSize(1300, false);
    assert.deepEqual([size.limit, size.watching], [1300, false]);
    for (let timers = 0; timers < 10; timers++) size.onTimer();
    assert.equal(size.limit, 1300);
  });

  it("is large at once within one host", () => {
    const size = new PathSize(16_000, true);
    assert.deepEqual([size.limit, size.watching], [16_000, false]);
  });

  it("is probed elsewhere: one large datagram, then safe ones until its fate is known", () => {
    const size = new PathSize(8952, false);
    assert.equal(size.limit, 8952);
    size.onSent(1200, 0, none);
    assert.equal(size.limit, 8952, "a small datagram tells nothing");
    size.onSent(8952, 100, none);
    assert.equal(size.limit, SAFE_SIZE);
    size.onReceived(120, none);
    assert.equal(size.limit, SAFE_SIZE, "its acknowledgement may still be on the way");
    size.onReceived(146, none);
    assert.deepEqual([size.limit, size.watching], [8952, false]);
  });

  it("is probed three times, and safe for good when all were lost", () => {
    const size = new PathSize(8952, false);
    for (let lost = 0; lost < 3; lost++) {
      assert.equal(size.limit, 8952, `probe ${lost}`);
      size.onSent(8952, 0, statsOf(lost));
      size.onReceived(20, statsOf(lost + 1));
    }
    assert.deepEqual([size.limit, size.watching], [SAFE_SIZE, false]);
  });

  it("becomes safe when large datagrams meet silence, but not when something comes between", () => {
    const size = new PathSize(16_000, true);
    for (let round = 0; round < 5; round++) {
      size.onTimer();
      size.onTimer();
      size.onReceived(0, none);
    }
    assert.equal(size.limit, 16_000);
    for (let timers = 0; timers < 3; timers++) size.onTimer();
    assert.equal(size.limit, SAFE_SIZE);
    size.onReceived(0, none);
    assert.equal(size.limit, SAFE_SIZE);
  });

  it("by itself is large on this host and an Ethernet frame's elsewhere", () => {
    const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
    for (const host of ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", ...own.map(({ address }) => address)]) {
      assert.ok(isSameHost(host), host);
    }
    for (const host of ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"]) {
      assert.ok(!isSameHost(host), host);
    }
    assert.deepEqual([true, false].map(automaticSize), [16_000, 1452]);
  });
});
