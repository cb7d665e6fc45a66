import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { ProtocolEvent } from "../../../src/client/auto/downloader.ts";
import { type DownloaderOptions, downloaderFactory } from "../../../src/client/factory.ts";
import type { Downloader } from "../../../src/client/task-downloader.ts";
import { VortexDownloader } from "../../../src/client/vortex/downloader.ts";
import { type ErrorCode, VortexError } from "../../../src/errors.ts";
import type { Piece } from "../../../src/piece.ts";
import type { Clock } from "../../../src/runtime.ts";
import { VortexServer } from "../../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import type { PieceLocation, TaskDirectory } from "../../../src/task/discovery.ts";
import type { OperationStart, Telemetry } from "../../../src/telemetry.ts";
import { type Address, formatAddress } from "../../../src/transport/address.ts";
import { MemoryTransport } from "../../../src/transport/memory.ts";
import { addressesOf, type PeerAddress, stockPorts } from "../../../src/transport/peer-address.ts";
import type { Protocol } from "../../../src/transport/protocol.ts";
import type { TlsClientOptions } from "../../../src/transport/tls.ts";
import type { Connection, DialOptions, Transport } from "../../../src/transport/transport.ts";
import { assertRejects } from "../../support/failures.ts";
import { FakeClock, fakeRuntime, settle } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";

const taskId = "a1".repeat(32);
const content = seededBytes(7, 300_000);
const addr = "peer.example:4006";
/** Store with the same content in pieces. */
const piecesId = "b2".repeat(32);
const pieceLength = 30_000;
const plan = { contentLength: content.length, pieceLength };
const lengths = { contentLength: content.length, pieceLength: content.length };

describe("protocol auto with one peer", () => {
  it("selects QUIC when it works and tries no other protocol", async () => {
    const { downloader, network, fetch, events } = await peer();
    await assertPiece(await fetch());
    await assertPiece(await fetch());
    assert.deepEqual(network.dials, ["quic"]);
    assert.deepEqual(events, [
      { addr: "peer.example:4006", protocol: "quic", reason: "tried first" },
    ]);
    await downloader.close();
  });

  for (const code of [
    "ProtocolNotSupported",
    "ConnectionRefused",
    "Unreachable",
    "Unavailable",
  ] as const) {
    it(`tries the next protocol at once after ${code}`, async () => {
      const { downloader, network, fetch, events, clock } = await peer({ quic: code });
      const before = clock.now();
      await assertPiece(await fetch());
      assert.equal(clock.now(), before);
      assert.deepEqual(network.dials, ["quic", "tcp"]);
      assert.equal(events[0]?.protocol, "tcp");
      assert.match(events[0]?.reason ?? "", new RegExp(`quic: ${code}`));
      await downloader.close();
    });
  }

  it("skips gRPC without pieces, and reports the error of each protocol when none works", async () => {
    const { downloader, fetch, events } = await peer({
      quic: "ProtocolNotSupported",
      tcp: "ConnectionRefused",
      grpc: "RemoteUnimplemented",
    });
    const { message } = await assertRejects(fetch(), "ConnectionRefused");
    assert.match(
      message,
      /^no protocol works: quic: .*peer\.example:4006.*; tcp: .*; grpc: RemoteUnimplemented, /,
    );
    assert.deepEqual(events, []);
    await downloader.close();
  });

  it("starts the next protocol once while one is silent, and aborts the silent one", async () => {
    const { downloader, network, fetch, events, clock } = await peer({ quic: "silent" });
    const pieces = Promise.all([fetch(), fetch(), fetch()]);
    await clock.advance(249);
    assert.deepEqual(network.dials, ["quic"]);
    await clock.advance(1);
    for (const piece of await pieces) await assertPiece(piece);
    await assertPiece(await fetch());
    assert.deepEqual(network.dials, ["quic", "tcp"]);
    assert.equal(network.hanging, 0);
    assert.deepEqual(events, [
      { addr: "peer.example:4005", protocol: "tcp", reason: "quic had not answered within 250 ms" },
    ]);
    await downloader.close();
    assert.equal(clock.pending, 0);
  });

  it("shortens the head start for a peer with low latency", async () => {
    const { downloader, network, fetch, clock } = await peer({}, { auto: { expiry: 1000 } });
    await assertPiece(await fetch());
    network.set("quic", "silent");
    network.drop("quic");
    await clock.advance(1001);
    const again = fetch();
    await clock.advance(30);
    await assertPiece(await again);
    assert.deepEqual(network.dials, ["quic", "quic", "tcp"]);
    await downloader.close();
  });

  it("lengthens the head start again when the latency rises", async () => {
    const { downloader, network, fetch, clock } = await peer({}, { auto: { expiry: 1000 } });
    // Answers take no time, so the next protocol starts after the minimum of 30 ms.
    await assertPiece(await fetch());
    network.delay = 55;
    for (const dials of [["quic", "tcp"], ["quic"]]) {
      network.dials.length = 0;
      network.drop("quic");
      await clock.advance(1001);
      const piece = fetch();
      await clock.advanceUntil(piece, 1000, 10);
      await assertPiece(await piece);
      assert.deepEqual(network.dials, dials);
    }
    await downloader.close();
  });

  it("selects again after the selection has expired", async () => {
    const { downloader, network, fetch, clock } = await peer(
      { quic: "ProtocolNotSupported" },
      { auto: { expiry: 5000 } },
    );
    await assertPiece(await fetch());
    network.set("quic", "works");
    await clock.advance(4999);
    await assertPiece(await fetch());
    assert.deepEqual(network.dials, ["quic", "tcp"]);
    await clock.advance(1);
    await assertPiece(await fetch());
    assert.deepEqual(network.dials, ["quic", "tcp", "quic"]);
    await downloader.close();
  });

  it("selects again at once when the peer restarts with another protocol", async () => {
    const { downloader, network, fetch, events } = await peer({ tcp: "ConnectionRefused" });
    await assertPiece(await fetch());
    network.set("quic", "ConnectionRefused");
    network.set("tcp", "works");
    network.drop("quic");
    await settle();
    await assertPiece(await fetch());
    assert.deepEqual(
      events.map(({ protocol }) => protocol),
      ["quic", "tcp"],
    );
    await downloader.close();
  });

  it("treats an error of the peer as an answer", async () => {
    const { downloader, network, fetch, events } = await peer();
    await assertRejects(fetch(99), "NotFound");
    assert.deepEqual(network.dials, ["quic"]);
    assert.equal(events[0]?.protocol, "quic");
    await downloader.close();
  });

  it("fails on a rejected certificate when tls requires verification", async () => {
    const tls = { fingerprints: ["00".repeat(32)] };
    const { downloader, network, fetch, events } = await peer({ quic: "HandshakeFailed" }, { tls });
    await assertRejects(fetch(), "HandshakeFailed");
    assert.deepEqual(network.dials, ["quic"]);
    assert.deepEqual(events, []);
    await downloader.close();
  });

  it("falls back to TCP on a rejected certificate when tls requires nothing, like hybrid", async () => {
    for (const protocol of ["auto", "hybrid"] as const) {
      const { downloader, network, fetch, events } = await peer(
        { quic: "HandshakeFailed" },
        { protocol },
      );
      await assertPiece(await fetch());
      assert.deepEqual(network.dials, ["quic", "tcp"]);
      assert.deepEqual(
        events.map((event) => [event.protocol, event.reason]),
        [["tcp", "quic: HandshakeFailed, peer.example:4006 is HandshakeFailed"]],
      );
      const stream = downloader.streamTask({ taskId, hostId: "me", parents: [addr], ...lengths });
      assert.deepEqual(await stream.bytes(), content);
      await downloader.close();
    }
  });

  it("falls back to TCP when the peer's certificate has changed and tls requires nothing", async () => {
    const { downloader, network, fetch, events } = await peer();
    await assertPiece(await fetch());
    network.set("quic", "HandshakeFailed");
    network.drop("quic");
    await settle();
    await assertPiece(await fetch());
    assert.deepEqual(
      events.map(({ protocol }) => protocol),
      ["quic", "tcp"],
    );
    await downloader.close();
  });

  it("does not use TCP when tls requires verification", async () => {
    const { downloader, network, fetch } = await peer(
      { quic: "ProtocolNotSupported", grpc: "ConnectionRefused" },
      { tls: { fingerprints: ["00".repeat(32)] } },
    );
    await assertRejects(fetch(), "ConnectionRefused");
    assert.deepEqual(network.dials, ["quic", "grpc"]);
    await assertRejects(
      downloader.downloadPiece({ addr: { tcp: addr }, hostId: "me", taskId, number: 0 }),
      "InvalidArgument",
    );
    await downloader.close();
  });

  it("applies tls to gRPC, else apiTls; hybrid uses no TCP when tls requires verification", async () => {
    const pinned = { fingerprints: ["00".repeat(32)] };
    const own = { ca: "PEM" };
    for (const [tls, apiTls, expected] of [
      [pinned, undefined, pinned],
      [pinned, own, pinned],
      [{ verify: false }, own, own],
      [{ verify: false }, undefined, undefined],
    ] as const) {
      for (const protocol of ["auto", "hybrid"] as const) {
        const { downloader, network, grpcTls, fetch } = await peer(
          { quic: "ProtocolNotSupported", tcp: "ConnectionRefused" },
          { protocol, tls, ...(apiTls && { apiTls }) },
        );
        await assertPiece(await fetch());
        assert.deepEqual(grpcTls, [expected]);
        const { bytes } = downloader.streamTask({
          taskId,
          hostId: "me",
          parents: [addr],
          ...lengths,
        });
        assert.deepEqual(await bytes(), content);
        assert.equal(network.dials.includes("tcp"), tls !== pinned);
        await downloader.close();
      }
    }
  });

  it("rejects protocol tcp when tls requires verification", async () => {
    for (const tls of [
      { ca: "PEM" },
      { fingerprints: ["00".repeat(32)] },
      { cert: "PEM", key: "PEM" },
    ]) {
      await assertRejects(peer({}, { protocol: "tcp", tls }), "InvalidArgument");
    }
    await (await peer({}, { protocol: "tcp", tls: { verify: false } })).downloader.close();
  });

  it("closes the connections of losing protocols, and all connections on close", async () => {
    // QUIC connects, but its answer does not come.
    const { downloader, network, fetch, clock } = await peer({ quic: "mute" });
    const piece = fetch();
    await settle();
    assert.equal(network.open, 1);
    await clock.advance(250);
    await assertPiece(await piece);
    await settle();
    assert.deepEqual(network.dials, ["quic", "tcp"]);
    assert.equal(network.openOver("quic"), 0);
    await downloader.close();
    await settle();
    assert.equal(network.open, 0);
    assert.equal(clock.pending, 0);
  });

  it("aborting the selecting request lets the waiting requests select", async () => {
    const { downloader, network, fetch, clock } = await peer({ quic: "silent" });
    const controller = new AbortController();
    const first = fetch(0, controller.signal);
    const second = fetch();
    await settle();
    controller.abort();
    await assertRejects(first, "Aborted");
    await clock.advance(250);
    await assertPiece(await second);
    assert.equal(network.hanging, 0);
    await downloader.close();
    assert.equal(clock.pending, 0);
  });

  it("closing the downloader ends the selection", async () => {
    const { downloader, network, fetch, clock } = await peer({
      quic: "silent",
      tcp: "silent",
      grpc: "silent",
    });
    const pieces = [fetch(), fetch()].map((piece) => assertRejects(piece, "Closed"));
    await clock.advance(600);
    assert.equal(network.hanging, 3);
    await downloader.close();
    await Promise.all(pieces);
    assert.equal(network.hanging, 0);
    assert.equal(clock.pending, 0);
  });

  it("counts transferred bytes, and compares the other protocol on regular requests", async () => {
    const { downloader, network, fetch, clock } = await peer();
    // The request that made the selection is not measured.
    await assertPiece(await fetch());
    for (let passed = 0; passed < 8 * 1024 * 1024; passed += content.length) {
      const piece = await fetch();
      await clock.advance(1);
      await assertPiece(piece);
    }
    assert.deepEqual(network.dials, ["quic"]);
    await assertPiece(await fetch());
    assert.deepEqual(network.dials, ["quic", "tcp"]);
    await downloader.close();
  });

  it("compares protocols without the help of the observer", async () => {
    const telemetry: Telemetry = {
      begin() {
        throw new Error("broken observer");
      },
    };
    const { downloader, network, fetch, clock } = await peer({}, { telemetry });
    await assertPiece(await fetch());
    for (let passed = 0; passed < 8 * 1024 * 1024; passed += content.length) {
      const piece = await fetch();
      await clock.advance(1);
      await assertPiece(piece);
    }
    await assertPiece(await fetch());
    assert.deepEqual(network.dials, ["quic", "tcp"]);
    await downloader.close();
  });

  it("selects again after a selected protocol has lost a connection during the content", async () => {
    const { downloader, network, fetch } = await peer({ tcp: "ConnectionRefused" });
    const piece = await fetch();
    network.drop("quic", new VortexError("ConnectionLost", "connection: reset by the test"));
    await assertRejects(piece.bytes(), "ConnectionLost");
    network.set("quic", "ConnectionRefused");
    network.set("tcp", "works");
    await assertPiece(await fetch());
    assert.deepEqual(network.dials, ["quic", "quic", "tcp"]);
    await downloader.close();
  });

  it("reports protocol and reason to telemetry", async () => {
    const starts: OperationStart[] = [];
    const telemetry: Telemetry = {
      begin(start) {
        starts.push(start);
        return { end: () => {}, run: (work) => work() };
      },
    };
    const { downloader, fetch } = await peer({ quic: "ConnectionRefused" }, { telemetry });
    await assertPiece(await fetch());
    assert.deepEqual(
      starts.map(({ protocol }) => protocol),
      ["quic", "tcp"],
    );
    assert.match(starts[1]?.protocolReason ?? "", /quic: ConnectionRefused/);
    await downloader.close();
  });
});

describe("auto and hybrid with a peer that may be a stock dfdaemon", () => {
  const unidentified: readonly Partial<DownloaderOptions>[] = [
    {},
    { tls: {} },
    { tls: { verify: false } },
    { tls: { serverName: "d7y" } },
    { tls: { cert: "PEM", key: "PEM" } },
  ];

  for (const protocol of ["auto", "hybrid"] as const) {
    it(`${protocol} does not dial QUIC and reports the reason`, async () => {
      for (const options of unidentified) {
        const { downloader, network, fetch, events } = await peer(
          {},
          { ...options, protocol, auto: { quicPeers: "known" } },
        );
        await assertPiece(await fetch());
        const stream = downloader.streamTask({ taskId, hostId: "me", parents: [addr], ...lengths });
        assert.deepEqual(await stream.bytes(), content);
        assert.ok(!network.dials.includes("quic"), JSON.stringify(options));
        assert.match(
          events[0]?.reason ?? "",
          /^quic is excluded: the peer may be a stock dfdaemon/,
        );
        const [parent] = (await stream.report).parents;
        const [quic] = parent?.excluded ?? [];
        assert.equal(quic?.protocol, "quic");
        assert.match(quic?.reason ?? "", /1\.1\.0 to 1\.4\.8.*tls\.fingerprints/);
        await downloader.close();
      }
    });

    it(`${protocol} dials QUIC if tls identifies the peer or quicPeers is "any"`, async () => {
      for (const options of [
        { tls: { fingerprints: ["00".repeat(32)] } },
        { tls: { ca: "PEM" } },
        { tls: { verify: false }, auto: { quicPeers: "any" } },
      ] as const) {
        const { downloader, network, fetch } = await peer(
          {},
          { auto: { quicPeers: "known" }, ...options, protocol },
        );
        await assertPiece(await fetch());
        assert.deepEqual(network.dials, ["quic"]);
        const stream = downloader.streamTask({ taskId, hostId: "me", parents: [addr], ...lengths });
        await stream.bytes();
        const exclusion = (await stream.report).parents[0]?.excluded?.map((one) => one.protocol);
        assert.deepEqual(exclusion, "auto" in options ? undefined : ["tcp"]);
        await downloader.close();
      }
    });
  }

  it("rejects a peer with a QUIC address only, and names the reason", async () => {
    const { downloader, network } = await peer({}, { auto: { quicPeers: "known" } });
    const request = { addr: { quic: addr }, hostId: "me", taskId, number: 0 };
    const { message } = await assertRejects(downloader.downloadPiece(request), "InvalidArgument");
    assert.match(
      message,
      /address of .*: expected one for tcp or grpc, got none; quic is excluded: the peer may be a stock dfdaemon/,
    );
    assert.deepEqual(network.dials, []);
    await downloader.close();
  });

  const restricted = { auto: { quicPeers: "known" } } as const;
  const announced = { quicAddr: "peer.example:4006", tcpAddr: "peer.example:4005" };
  const apiAddr = "peer.example:4000";

  for (const protocol of ["auto", "hybrid"] as const) {
    it(`${protocol} dials an announced QUIC port of a parent that shows the marker`, async () => {
      const options = { ...restricted, protocol };
      for (const parent of [{ apiAddr }, { apiAddr, addr: announcedAddresses }]) {
        const { downloader, network, clock } = await peer(
          { grpc: "RemoteUnimplemented" },
          options,
          announcing({ ...announced, vortexPeer: true }),
        );
        const request = { taskId: piecesId, hostId: "me", parents: [parent] };
        const stream = downloader.streamTask(request);
        const bytes = stream.bytes();
        await clock.advanceUntil(bytes, 60_000, 100);
        assert.deepEqual(await bytes, content);
        assert.ok(network.dials.includes("quic"), JSON.stringify(parent));
        assert.equal((await stream.report).parents[0]?.excluded, undefined);
        await downloader.close();
      }
    });

    it(`${protocol} dials no announced QUIC port without the marker, or of another host`, async () => {
      for (const [location, api] of [
        [announced, apiAddr],
        [{ ...announced, vortexPeer: false }, apiAddr],
        [{ ...announced, vortexPeer: true }, "api.example:4000"],
      ] as const) {
        const { downloader, network, clock } = await peer(
          {},
          { ...restricted, protocol },
          announcing(location),
        );
        const request = { taskId: piecesId, hostId: "me", parents: [{ apiAddr: api }] };
        const stream = downloader.streamTask(request);
        const bytes = stream.bytes();
        await clock.advanceUntil(bytes, 60_000, 100);
        assert.deepEqual(await bytes, content);
        assert.ok(!network.dials.includes("quic"), JSON.stringify([location, api]));
        const [quic] = (await stream.report).parents[0]?.excluded ?? [];
        assert.equal(quic?.protocol, "quic");
        assert.match(quic?.reason ?? "", /may be a stock dfdaemon/);
        await downloader.close();
      }
    });
  }

  it("quic dials an announced port only with the marker, with trust or with quicPeers any", async () => {
    for (const [location, options, dials] of [
      [{ ...announced, vortexPeer: true }, {}, true],
      [announced, { tls: { fingerprints: ["00".repeat(32)] } }, true],
      [announced, { auto: { quicPeers: "any" } }, true],
      [announced, { tls: { verify: false } }, false],
    ] as const) {
      const { downloader, network, clock } = await peer(
        {},
        { ...restricted, ...options, protocol: "quic" },
        announcing(location),
      );
      const request = { taskId: piecesId, hostId: "me", parents: [{ apiAddr }], patience: 0 };
      const bytes = downloader.streamTask(request).bytes();
      await clock.advanceUntil(bytes, 60_000, 100);
      if (dials) {
        assert.deepEqual(await bytes, content);
      } else {
        const { message } = await assertRejects(bytes, "ProtocolNotSupported");
        assert.match(message, /quic at peer\.example:4006 is not used: .*quicPeers/);
      }
      assert.equal(network.dials.includes("quic"), dials, JSON.stringify([location, options]));
      await downloader.close();
    }
  });

  it("quic dials an address that the caller names", async () => {
    const { downloader, network } = await peer({}, { ...restricted, protocol: "quic" });
    const request = { addr: { quic: addr }, hostId: "me", taskId, number: 0 };
    await assertPiece(await downloader.downloadPiece(request));
    assert.deepEqual(network.dials, ["quic"]);
    await downloader.close();
  });

  it("the permission to use QUIC ends after the lifetime of a selection", async () => {
    const { downloader, network, clock } = await peer(
      { grpc: "RemoteUnimplemented" },
      { auto: { quicPeers: "known", expiry: 1000 } },
      announcing({ ...announced, vortexPeer: true }),
    );
    const request = { taskId: piecesId, hostId: "me", parents: [{ apiAddr }] };
    const bytes = downloader.streamTask(request).bytes();
    await clock.advanceUntil(bytes, 60_000, 100);
    await bytes;
    assert.deepEqual([...new Set(network.dials)], ["quic"]);
    await clock.advance(1001);
    const piece = { addr: announcedAddresses, hostId: "me", taskId, number: 0 };
    await assertPiece(await downloader.downloadPiece(piece));
    assert.deepEqual([...new Set(network.dials)], ["quic", "tcp"]);
    await downloader.close();
  });

  it("errors of piece requests name the dialled address, not that of the API", async () => {
    for (const protocol of ["tcp", "auto", "hybrid"] as const) {
      const { downloader, clock } = await peer(
        { tcp: "ConnectionRefused", grpc: "RemoteUnimplemented" },
        { ...restricted, protocol },
        announcing(announced),
      );
      const addrs = new Set<string | undefined>();
      const stream = downloader.streamTask({
        taskId: piecesId,
        hostId: "me",
        parents: [{ apiAddr: "api.example:4000" }],
        patience: 0,
        onEvent: (event) => {
          if (event.type === "piece-failed" && event.error.code === "ConnectionRefused")
            addrs.add(event.error.addr);
        },
      });
      const bytes = stream.bytes();
      bytes.catch(() => {});
      await clock.advanceUntil(bytes, 60_000, 100);
      await assert.rejects(bytes);
      assert.deepEqual([...addrs], ["peer.example:4005"], protocol);
      await downloader.close();
    }
  });

  it("rejects unknown values of quicPeers", async () => {
    const auto = { quicPeers: "all" as "any" };
    const { message } = await assertRejects(peer({}, { auto }), "InvalidArgument");
    assert.equal(message, 'auto.quicPeers: expected known or any, got "all"');
  });
});

describe("hybrid with a peer that announces its addresses", () => {
  it("fetches pieces over each announced protocol", async () => {
    const { downloader, network, clock } = await peer(
      { grpc: "RemoteUnimplemented" },
      { protocol: "hybrid" },
      directory,
    );
    // Only its address for the Dragonfly API is known.
    const parents = [{ apiAddr: "api.example:4000" }];
    const stream = downloader.streamTask({ taskId: piecesId, hostId: "me", parents });
    const bytes = stream.bytes();
    await clock.advanceUntil(bytes, 60_000, 100);
    assert.deepEqual(await bytes, content);
    const [parent] = (await stream.report).parents;
    const used = parent?.routes
      ?.filter((route) => route.pieces > 0)
      .map(({ protocol }) => protocol);
    assert.deepEqual(used, ["quic", "tcp"]);
    assert.deepEqual(network.hosts, ["api.example:4000", "peer.example:4005", "peer.example:4006"]);
    await downloader.close();
    await settle();
    assert.equal(network.open, 0);
  });
});

describe("hybrid and onProtocol", () => {
  /** Downloads the task in pieces from `from`, and ignores a failure. */
  async function download(
    { downloader, clock }: Pick<Awaited<ReturnType<typeof peer>>, "downloader" | "clock">,
    from: PeerAddress = addr,
  ): Promise<void> {
    const request = { taskId: piecesId, hostId: "me", parents: [{ addr: from }], ...plan };
    const stream = downloader.streamTask({ ...request, patience: 0 });
    const bytes = stream.bytes();
    await clock.advanceUntil(bytes, 60_000, 100);
    assert.deepEqual(await bytes, content);
  }

  it("reports each protocol of a parent once, at its first answer, in the form of auto", async () => {
    const tested = await peer({}, { protocol: "hybrid" });
    await download(tested);
    await download(tested);
    const sorted = tested.events.toSorted((one, other) => one.addr.localeCompare(other.addr));
    const reason = "hybrid uses every protocol that answers";
    assert.deepEqual(sorted, [
      { addr: "peer.example:4000", protocol: "grpc", reason },
      { addr: "peer.example:4005", protocol: "tcp", reason },
      { addr: "peer.example:4006", protocol: "quic", reason },
    ]);
    await tested.downloader.close();
  });

  it("reports no protocol that the peer does not speak", async () => {
    const tested = await peer(
      { quic: "ProtocolNotSupported", grpc: "RemoteUnimplemented" },
      { protocol: "hybrid" },
    );
    await download(tested);
    assert.deepEqual(
      tested.events.map(({ protocol }) => protocol),
      ["tcp"],
    );
    await tested.downloader.close();
  });

  it("names the protocols that may not be used, and why", async () => {
    const tested = await peer({}, { protocol: "hybrid", auto: { quicPeers: "known" } });
    await download(tested, { quic: "peer.example:4006", tcp: "peer.example:4005" });
    assert.equal(tested.events.length, 1);
    const [event] = tested.events;
    assert.equal(event?.protocol, "tcp");
    assert.match(event?.reason ?? "", /^hybrid uses .*; quic is excluded: the peer may be a stock/);
    await tested.downloader.close();
  });
});

describe("addresses of a peer", () => {
  it("a well-known port expands to all ports; any other port serves every protocol", () => {
    const all = { quic: "[::1]:4006", tcp: "[::1]:4005", grpc: "[::1]:4000" };
    for (const port of [4000, 4005, 4006])
      assert.deepEqual(addressesOf(`[::1]:${port}`, stockPorts), all);
    assert.deepEqual(addressesOf("h:7", stockPorts), { quic: "h:7", tcp: "h:7", grpc: "h:7" });
    assert.deepEqual(addressesOf({ tcp: "h:07" }, stockPorts), { tcp: "h:7" });
    assert.throws(() => addressesOf({}, stockPorts), { code: "InvalidArgument" });
  });
});

const announcedAddresses = { quic: "peer.example:4006", tcp: "peer.example:4005" };

/** Returns the directory of a peer that has all pieces, and announces them at other addresses. */
function announcing(at: Omit<PieceLocation, "number" | "offset" | "length">): TaskDirectory {
  return {
    stat: async () => ({ ...plan, pieceCount: plan.contentLength / pieceLength }),
    async *sync(_addr, _taskId, { numbers }) {
      for (const number of numbers)
        yield { number, offset: number * pieceLength, length: pieceLength, ...at };
    },
  };
}

const directory = announcing({ quicAddr: "peer.example:4006", tcpAddr: "peer.example:4005" });

/** Behaviour of a protocol. `mute`: dials succeed, but requests are never answered. */
type Condition = "works" | "silent" | "mute" | ErrorCode;

/** In-memory network with a state for each protocol that the test sets. */
class Network {
  readonly dials: Protocol[] = [];
  readonly #hosts = new Set<string>();
  /** Number of pending dials. */
  hanging = 0;
  /** Duration of each dial, in ms. */
  delay = 0;
  readonly #clock: Clock;
  readonly #conditions: Record<Protocol, Condition>;
  readonly #transports: Record<Protocol, MemoryTransport> = {
    quic: new MemoryTransport("quic"),
    tcp: new MemoryTransport("tcp"),
    grpc: new MemoryTransport("tcp"),
  };
  /** Open connections. */
  readonly #connections = new Set<{
    readonly protocol: Protocol;
    readonly connection: Connection;
  }>();

  constructor(conditions: Partial<Record<Protocol, Condition>>, clock: Clock) {
    this.#clock = clock;
    this.#conditions = { quic: "works", tcp: "works", grpc: "works", ...conditions };
  }

  set(protocol: Protocol, condition: Condition): void {
    this.#conditions[protocol] = condition;
  }

  /** Hosts of all dials, sorted. */
  get hosts(): readonly string[] {
    return [...this.#hosts].sort();
  }

  /** Number of open connections. */
  get open(): number {
    return this.#connections.size;
  }

  openOver(protocol: Protocol): number {
    return [...this.#connections].filter((one) => one.protocol === protocol).length;
  }

  /** Ends the connections of a protocol, like a dying peer. */
  drop(protocol: Protocol, error?: VortexError): void {
    for (const one of this.#connections) {
      if (one.protocol === protocol) one.connection.abort(undefined, undefined, error);
    }
  }

  transport(protocol: Protocol): Transport {
    const memory = this.#transports[protocol];
    return {
      protocol: memory.protocol,
      listen: (local, options) => memory.listen(local, options),
      dial: async (remote: Address, options: DialOptions = {}) => {
        this.dials.push(protocol);
        this.#hosts.add(formatAddress(remote));
        const condition = this.#conditions[protocol];
        if (condition === "silent") return this.#silence(options);
        if (this.delay > 0) await this.#wait();
        if (condition !== "works" && condition !== "mute")
          throw new VortexError(condition, `${formatAddress(remote)} is ${condition}`);
        const connection = await memory.dial(remote, options);
        const one = { protocol, connection };
        this.#connections.add(one);
        void connection.closed.then(() => this.#connections.delete(one));
        return condition === "mute" ? muted(connection) : connection;
      },
    };
  }

  #wait(): Promise<void> {
    return new Promise((resolve) => {
      this.#clock.setTimer(resolve, this.delay);
    });
  }

  #silence({ signal }: DialOptions): Promise<never> {
    this.hanging++;
    return new Promise((_, reject) => {
      signal?.addEventListener("abort", () => {
        this.hanging--;
        reject(signal.reason);
      });
    });
  }
}

/** Connection whose streams take requests and never answer. */
function muted(connection: Connection): Connection {
  const openStream: Connection["openStream"] = async (options) => {
    const stream = await connection.openStream(options);
    let give: (error: VortexError) => void = () => {};
    const given = new Promise<never>((_, reject) => {
      give = reject;
    });
    given.catch(() => {});
    return {
      writer: stream.writer,
      reader: {
        read: () => given,
        cancel(...args) {
          give(new VortexError("Aborted", "given up"));
          stream.reader.cancel(...args);
        },
      },
    };
  };
  return new Proxy(connection, {
    get(target, name) {
      if (name === "openStream") return openStream;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

async function peer(
  conditions: Partial<Record<Protocol, Condition>> = {},
  { auto, ...options }: Partial<DownloaderOptions> = {},
  asked?: TaskDirectory,
): Promise<{
  downloader: Downloader;
  network: Network;
  clock: FakeClock;
  events: ProtocolEvent[];
  /** TLS options passed to each gRPC downloader. */
  grpcTls: (TlsClientOptions | undefined)[];
  fetch(number?: number, signal?: AbortSignal): Promise<Piece>;
}> {
  const clock = new FakeClock();
  const runtime = fakeRuntime(clock);
  const network = new Network(conditions, clock);
  const store = new MemoryPieceStore();
  store.putTask(taskId, content);
  store.putTask(piecesId, content, { pieceLength });
  for (const protocol of ["quic", "tcp", "grpc"] as const) {
    const local = { host: "peer.example", port: stockPorts[protocol] };
    await VortexServer.listen(network.transport(protocol), local, store, fakeRuntime());
  }
  const events: ProtocolEvent[] = [];
  const grpcTls: (TlsClientOptions | undefined)[] = [];
  const create = downloaderFactory({
    runtime,
    quic: async () => network.transport("quic"),
    tcp: async () => network.transport("tcp"),
    ...(asked && {
      directory: () => ({ stat: asked.stat, sync: asked.sync, close: async () => {} }),
    }),
    grpc(settings, tls) {
      grpcTls.push(tls);
      return new VortexDownloader(async () => network.transport("grpc"), settings);
    },
  });
  const downloader = create({
    protocol: "auto",
    auto: { quicPeers: "any", ...auto },
    onProtocol: (event) => events.push(event),
    ...options,
  });
  return {
    downloader,
    network,
    clock,
    events,
    grpcTls,
    fetch: (number = 0, signal) =>
      downloader.downloadPiece({
        addr,
        hostId: "me",
        taskId,
        number,
        ...(signal === undefined ? {} : { signal }),
      }),
  };
}

async function assertPiece(piece: Piece): Promise<void> {
  assert.deepEqual(await piece.bytes(), content);
}
