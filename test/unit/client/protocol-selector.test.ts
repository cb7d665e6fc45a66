import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  ProtocolSelector,
  type SelectedProtocol,
} from "../../../src/client/auto/protocol-selector.ts";
import type { Protocol } from "../../../src/transport/protocol.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const peer = "a:4006 a:4005 a:4000";
const MIB = 1024 * 1024;

describe("ProtocolSelector", () => {
  it("compares the other protocol once, and keeps the selected one unless it is much slower", async () => {
    const { selector, changes, pass } = setUp();
    await pass("quic", 7 * MIB, 70);
    assert.equal(selector.get(peer)?.protocol, "quic");
    await pass("quic", 2 * MIB, 20);
    assert.deepEqual(selector.get(peer), { protocol: "tcp", reason: "compared with quic" });
    await pass("tcp", 9 * MIB, 60);
    assert.equal(selector.get(peer)?.protocol, "quic");
    await pass("quic", 90 * MIB, 10_000);
    assert.equal(selector.get(peer)?.protocol, "quic");
    assert.deepEqual(changes, []);
  });

  it("switches when the selected protocol has less than half the rate", async () => {
    const { selector, changes, pass } = setUp();
    await pass("quic", 10 * MIB, 1000);
    await pass("tcp", 10 * MIB, 100);
    const reason = "quic made 10.5 MB/s, tcp 104.9 MB/s";
    assert.deepEqual(selector.get(peer), { protocol: "tcp", reason });
    assert.deepEqual(changes, [{ protocol: "tcp", reason }]);
  });

  it("drops the selection at its expiry", async () => {
    const { selector, clock, pass } = setUp();
    await pass("quic", 10 * MIB, 1000);
    await pass("tcp", 10 * MIB, 100);
    await clock.advance(600_000);
    assert.equal(selector.get(peer), undefined);
    assert.equal(selector.size, 0);
  });

  it("keeps the selection when the trial fails, and drops it when the selected protocol fails", async () => {
    const { selector, pass } = setUp();
    await pass("quic", 10 * MIB, 1000);
    assert.equal(selector.get(peer)?.protocol, "tcp");
    assert.equal(selector.reportFailure(peer, "tcp"), true);
    assert.equal(selector.get(peer)?.protocol, "quic");
    assert.equal(selector.reportFailure(peer, "quic"), false);
    assert.equal(selector.get(peer), undefined);
  });

  it("counts time with several concurrent requests once", async () => {
    const { selector, clock, changes } = setUp();
    const quic = Array.from({ length: 8 }, () => selector.measure(peer, "quic"));
    await clock.advance(100);
    for (const request of quic) request.end(2 * MIB);
    const tcp = Array.from({ length: 2 }, () => selector.measure(peer, "tcp"));
    await clock.advance(100);
    for (const request of tcp) request.end(5 * MIB);
    // 16 MiB and 10 MiB in the same time: per request, TCP would seem over twice as fast.
    assert.equal(selector.get(peer)?.protocol, "quic");
    assert.deepEqual(changes, []);
  });

  it("counts only the first end of a request", async () => {
    const { selector, clock } = setUp();
    const request = selector.measure(peer, "quic");
    await clock.advance(100);
    request.end(4 * MIB);
    request.end(4 * MIB);
    assert.equal(selector.get(peer)?.protocol, "quic");
    const next = selector.measure(peer, "quic");
    await clock.advance(100);
    next.end(4 * MIB);
    assert.equal(selector.get(peer)?.protocol, "tcp");
  });

  it("limits the number of peers", () => {
    const { selector } = setUp();
    for (let n = 0; n < 5000; n++)
      selector.select(`peer ${n}`, { protocol: "quic", reason: "" }, ["quic"]);
    assert.equal(selector.size, 4096);
    assert.equal(selector.get("peer 0"), undefined);
    assert.equal(selector.get("peer 4999")?.protocol, "quic");
  });
});

function setUp(): {
  selector: ProtocolSelector;
  clock: FakeClock;
  changes: SelectedProtocol[];
  pass(protocol: Protocol, bytes: number, milliseconds: number): Promise<void>;
} {
  const clock = new FakeClock();
  const changes: SelectedProtocol[] = [];
  const selector = new ProtocolSelector(clock, 600_000, (_peer, selected) =>
    changes.push(selected),
  );
  selector.select(peer, { protocol: "quic", reason: "tried first" }, ["quic", "tcp", "grpc"]);
  return {
    selector,
    clock,
    changes,
    async pass(protocol, bytes, milliseconds) {
      const request = selector.measure(peer, protocol);
      await clock.advance(milliseconds);
      request.end(bytes);
    },
  };
}
