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

/** Returns statistics of a path with a round-trip time of 10 ms. */
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

/** Fires `timers` PTOs with no acknowledgement in between. */
function silence(size: PathMtu, timers: number): void {
  for (let at = 0; at < timers; at++) size.onPto(none);
}

describe("path MTU discovery", () => {
  it("keeps a requested size that is safe", () => {
    const size = new PathMtu(1300, false);
    assert.equal(size.limit, 1300);
    silence(size, 10);
    assert.equal(size.limit, 1300);
    for (const now of [0, 10_000, 20_000]) size.onReceived(now, none);
    assert.equal(size.limit, 1300);
  });

  it("starts large within one host", () => {
    assert.equal(new PathMtu(16_000, true).limit, 16_000);
  });

  it("probes other paths: one large datagram, then safe ones until it is acknowledged or lost", () => {
    const size = new PathMtu(8952, false);
    assert.equal(size.limit, 8952);
    size.onSent(1200, clockAt(0), none);
    assert.equal(size.limit, 8952, "a small datagram is no probe");
    size.onSent(8952, clockAt(100), none);
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES);
    size.onReceived(120, none);
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES, "its acknowledgement may still be on the way");
    size.onReceived(146, none);
    assert.equal(size.limit, 8952);
  });

  it("probes three times, and stays safe when all probes are lost", () => {
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

  it("falls back to the safe size after three PTOs without an acknowledgement, whatever the peer sends", () => {
    const size = new PathMtu(16_000, true);
    for (let timers = 0; timers < 3; timers++) {
      assert.equal(size.limit, 16_000);
      size.onReceived(timers, none);
      size.onPto(none);
    }
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES);
  });

  it("stays large when acknowledgements arrive between PTOs", () => {
    const size = new PathMtu(16_000, true);
    for (let round = 1; round < 6; round++) {
      size.onSent(16_000, clockAt(0), none);
      size.onPto(statsOf({ deliveryRate: round }));
      size.onPto(statsOf({ deliveryRate: round }));
    }
    assert.equal(size.limit, 16_000);
  });

  it("falls back to the safe size when only small datagrams are acknowledged and all large ones are lost", () => {
    const size = new PathMtu(16_000, true);
    for (let round = 0; round < 4; round++) {
      assert.equal(size.limit, 16_000, `${round}`);
      size.onPto(statsOf({ rtt: 10 + round, lostBytes: 32_000 * Math.max(0, round - 1) }));
      for (let datagram = 0; datagram < 2; datagram++) size.onSent(16_000, clockAt(0), none);
    }
    size.onPto(statsOf({ rtt: 14, lostBytes: 96_000 }));
    assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES);
  });

  it("stays large when only some large datagrams are lost", () => {
    const size = new PathMtu(16_000, true);
    for (let round = 0; round < 10; round++) {
      size.onPto(statsOf({ rtt: 10 + round, lostBytes: 16_000 * round }));
      for (let datagram = 0; datagram < 2; datagram++) size.onSent(16_000, clockAt(0), none);
    }
    assert.equal(size.limit, 16_000);
  });

  it("probes again after datagrams have passed for five seconds, at most three times", () => {
    const size = new PathMtu(16_000, true);
    silence(size, 3);
    for (let now = 0, tries = 0; tries < 3; now += 20_000, tries++) {
      size.onReceived(now, none);
      size.onReceived(now + 4000, none);
      silence(size, 1);
      size.onReceived(now + 6000, none);
      assert.equal(size.limit, SAFE_UDP_PAYLOAD_BYTES, "another PTO: not five seconds yet");
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

  it("defaults to a large size on this host and to an Ethernet frame elsewhere", () => {
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
