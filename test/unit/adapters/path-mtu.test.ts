import assert from "node:assert/strict";
import { networkInterfaces } from "node:os";
import { describe, it } from "node:test";
import {
  defaultUdpPayload,
  PathMtu,
  type PathMtuStats,
  SAFE_UDP_PAYLOAD_BYTES,
} from "../../../adapters/quiche/path-mtu.ts";
import { isSameHost } from "../../../adapters/shared/local-address.ts";
import type { Clock } from "../../../src/runtime.ts";
import { portableRuntime } from "../../../src/runtime.ts";

/** What quiche would tell of a path with a round trip of 10 ms. */
function statsOf(differences: Partial<PathMtuStats> = {}): () => PathMtuStats {
  return () => ({
    lost: 0,
    lostBytes: 0,
    rtt: 10,
    cwnd: 100_000,
    deliveryRate: 5000,
    ...differences,
  });
}

const none = statsOf();
const clockAt = (now: number): Clock => ({ ...portableRuntime.clock, now: () => now });

/** Timers of loss recovery with nothing acknowledged between them. */
function silence(size: PathMtu, timers: number): void {
  for (let at = 0; at < timers; at++) size.onPto(none);
}

describe("the size of a path's datagrams", () => {
  it("is what is asked for where that is safe anyway, whatever happens", () => {
    const size = new PathMtu(1300, false);
    assert.equal(size.limit, 1300);
    silence(size, 10);
    assert.equal(size.limit, 1300);
    for (const now of [0, 10_000, 20_000]) size.onReceived(now, none);
    assert.equal(size.limit, 1300);
  });

  it("is large at once within one host", () => {
    assert.equal(new PathMtu(16_000, true).limit, 16_000);
  });

  it("is probed elsewhere: one large datagram, then safe ones until its fate is known", () => {
    const size = new PathMtu(8952, false);
    assert.equal(size.limit, 8952);
    size.onSent(1200, clockAt(0), none);
    assert.equal(size.limit, 8952, "a small datagram tells nothing");
    size.onSent(8952, clockAt(100), none);
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES);
    size.onReceived(120, none);
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES, "its acknowledgement may still be on the way");
    size.onReceived(146, none);
    assert.equal(size.limit, 8952);
  });

  it("is probed three times, and safe for good when all were lost", () => {
    const size = new PathMtu(8952, false);
    for (let lost = 0; lost < 3; lost++) {
      assert.equal(size.limit, 8952, `probe ${lost}`);
      size.onSent(8952, clockAt(0), statsOf({ lost }));
      size.onReceived(20, statsOf({ lost: lost + 1 }));
    }
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES);
    for (const now of [30, 100_000, 200_000]) size.onReceived(now, none);
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES);
  });

  it("becomes safe after three timers without an acknowledgement, whatever else the peer sends", () => {
    const size = new PathMtu(16_000, true);
    for (let timers = 0; timers < 3; timers++) {
      assert.equal(size.limit, 16_000);
      size.onReceived(timers, none);
      size.onPto(none);
    }
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES);
  });

  it("stays large when acknowledgements come between timers", () => {
    const size = new PathMtu(16_000, true);
    for (let round = 1; round < 6; round++) {
      size.onSent(16_000, clockAt(0), none);
      size.onPto(statsOf({ deliveryRate: round }));
      size.onPto(statsOf({ deliveryRate: round }));
    }
    assert.equal(size.limit, 16_000);
  });

  it("becomes safe when only small datagrams are acknowledged, and every large one is lost", () => {
    const size = new PathMtu(16_000, true);
    for (let round = 0; round < 4; round++) {
      assert.equal(size.limit, 16_000, `${round}`);
      size.onPto(statsOf({ rtt: 10 + round, lostBytes: 32_000 * Math.max(0, round - 1) }));
      for (let datagram = 0; datagram < 2; datagram++) size.onSent(16_000, clockAt(0), none);
    }
    size.onPto(statsOf({ rtt: 14, lostBytes: 96_000 }));
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES);
  });

  it("stays large when some large datagrams are lost and others are not", () => {
    const size = new PathMtu(16_000, true);
    for (let round = 0; round < 10; round++) {
      size.onPto(statsOf({ rtt: 10 + round, lostBytes: 16_000 * round }));
      for (let datagram = 0; datagram < 2; datagram++) size.onSent(16_000, clockAt(0), none);
    }
    assert.equal(size.limit, 16_000);
  });

  it("is tried again when datagrams have passed for five seconds, three times at most", () => {
    const size = new PathMtu(16_000, true);
    silence(size, 3);
    for (let now = 0, tries = 0; tries < 3; now += 20_000, tries++) {
      size.onReceived(now, none);
      size.onReceived(now + 4000, none);
      silence(size, 1);
      size.onReceived(now + 6000, none);
      assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES, "silence again: not five seconds yet");
      size.onReceived(now + 11_000, none);
      assert.equal(size.limit, 16_000);
      size.onSent(16_000, clockAt(now + 11_000), none);
      size.onReceived(now + 11_100, none);
      assert.equal(size.limit, 16_000, "it was not lost");
      silence(size, 3);
      assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES);
    }
    for (const now of [100_000, 200_000, 300_000]) size.onReceived(now, none);
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES);
  });

  it("by itself is large on this host and an Ethernet frame's elsewhere", () => {
    const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
    for (const host of [
      "127.0.0.1",
      "127.8.9.1",
      "::1",
      "::ffff:127.0.0.1",
      ...own.map(({ address }) => address),
    ]) {
      assert.ok(isSameHost(host), host);
    }
    for (const host of ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"]) {
      assert.ok(!isSameHost(host), host);
    }
    assert.deepEqual([true, false].map(defaultUdpPayload), [16_000, 1452]);
  });
});
