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

describe("verdicts on protocols, revised by rates", () => {
  it("tries the other one once, and keeps what is not clearly slower", async () => {
    const { verdicts, changes, pass } = verdictsOf();
    await pass("quic", 7 * MIB, 70);
    assert.equal(verdicts.get(peer)?.protocol, "quic");
    await pass("quic", 2 * MIB, 20);
    assert.deepEqual(verdicts.get(peer), { protocol: "tcp", reason: "compared with quic" });
    await pass("tcp", 9 * MIB, 60);
    assert.equal(verdicts.get(peer)?.protocol, "quic");
    await pass("quic", 90 * MIB, 10_000);
    assert.equal(verdicts.get(peer)?.protocol, "quic");
    assert.deepEqual(changes, []);
  });

  it("moves where the one in use makes less than half", async () => {
    const { verdicts, changes, pass } = verdictsOf();
    await pass("quic", 10 * MIB, 1000);
    await pass("tcp", 10 * MIB, 100);
    const reason = "quic made 10.5 MB/s, tcp 104.9 MB/s";
    assert.deepEqual(verdicts.get(peer), { protocol: "tcp", reason });
    assert.deepEqual(changes, [{ protocol: "tcp", reason }]);
  });

  it("forgets at the end of its term, so that the first choice is tried again", async () => {
    const { verdicts, clock, pass } = verdictsOf();
    await pass("quic", 10 * MIB, 1000);
    await pass("tcp", 10 * MIB, 100);
    await clock.advance(600_000);
    assert.equal(verdicts.get(peer), undefined);
    assert.equal(verdicts.size, 0);
  });

  it("a trial that fails leaves the verdict; the verdict's own failure ends it", async () => {
    const { verdicts, pass } = verdictsOf();
    await pass("quic", 10 * MIB, 1000);
    assert.equal(verdicts.get(peer)?.protocol, "tcp");
    assert.equal(verdicts.reportFailure(peer, "tcp"), true);
    assert.equal(verdicts.get(peer)?.protocol, "quic");
    assert.equal(verdicts.reportFailure(peer, "quic"), false);
    assert.equal(verdicts.get(peer), undefined);
  });

  it("time in which several requests run counts once", async () => {
    const { verdicts, clock, changes } = verdictsOf();
    const quic = Array.from({ length: 8 }, () => verdicts.measure(peer, "quic"));
    await clock.advance(100);
    for (const request of quic) request.end(2 * MIB);
    const tcp = Array.from({ length: 2 }, () => verdicts.measure(peer, "tcp"));
    await clock.advance(100);
    for (const request of tcp) request.end(5 * MIB);
    // 16 MiB and 10 MiB in the same time: by single requests, TCP would look more than twice as fast.
    assert.equal(verdicts.get(peer)?.protocol, "quic");
    assert.deepEqual(changes, []);
  });

  it("remembers no more than so many peers", () => {
    const { verdicts } = verdictsOf();
    for (let n = 0; n < 5000; n++)
      verdicts.select(`peer ${n}`, { protocol: "quic", reason: "" }, ["quic"]);
    assert.equal(verdicts.size, 4096);
    assert.equal(verdicts.get("peer 0"), undefined);
    assert.equal(verdicts.get("peer 4999")?.protocol, "quic");
  });
});

function verdictsOf(): {
  verdicts: ProtocolSelector;
  clock: FakeClock;
  changes: SelectedProtocol[];
  pass(protocol: Protocol, bytes: number, milliseconds: number): Promise<void>;
} {
  const clock = new FakeClock();
  const changes: SelectedProtocol[] = [];
  const verdicts = new ProtocolSelector(clock, 600_000, (_peer, verdict) => changes.push(verdict));
  verdicts.select(peer, { protocol: "quic", reason: "tried first" }, ["quic", "tcp", "grpc"]);
  return {
    verdicts,
    clock,
    changes,
    async pass(protocol, bytes, milliseconds) {
      const request = verdicts.measure(peer, protocol);
      await clock.advance(milliseconds);
      request.end(bytes);
    },
  };
}
