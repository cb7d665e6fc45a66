import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { parseConfig } from "../../src/config/config.ts";
import { parseDuration } from "../../src/config/duration.ts";
import { VortexError } from "../../src/errors.ts";
import { protocols } from "../../src/transport/protocol.ts";

const defaults = {
  download: { protocol: "tcp", pieceTimeout: 360_000, concurrentPieceCount: 8 },
  storage: { server: { ip: undefined, tcpPort: 4005, quicPort: 4006 } },
  upload: { server: { port: 4000 } },
};

describe("parseConfig", () => {
  it("fills in the defaults of stock Dragonfly, whatever is left out", () => {
    const inputs = [
      undefined,
      null,
      {},
      { download: null, storage: undefined },
      { storage: { server: null }, upload: { server: {} } },
      { download: { protocol: null, pieceTimeout: null }, storage: { server: { ip: null } } },
    ];
    for (const input of inputs) assert.deepEqual(parseConfig(input), defaults);
  });

  it("reads stock Dragonfly's spelling among the many other keys of a real file", () => {
    const config = parseConfig({
      host: { idc: "", location: "", schedulerClusterID: 1 },
      server: { pluginDir: "/plugins", cacheDir: "/cache" },
      download: {
        server: { socketPath: "/run/dfdaemon.sock", requestRateLimit: 4000 },
        protocol: "quic",
        bandwidthLimit: "50GB",
        pieceTimeout: "30s",
        collectedPieceTimeout: "10s",
        concurrentPieceCount: 10,
      },
      upload: { client: { ttl: "12h" }, server: { port: 14000, caCert: null }, disableShared: false },
      storage: {
        server: { ip: "10.0.0.7", tcpPort: 14005, tcpFastopen: false, quicPort: 14006 },
        dir: "/var/lib/dragonfly",
        keep: true,
      },
      gc: { interval: "900s", policy: { taskTTL: "720h", distHighThresholdPercent: 80 } },
      metrics: { server: { port: 4002 } },
    });
    assert.deepEqual(config, {
      download: { protocol: "quic", pieceTimeout: 30_000, concurrentPieceCount: 10 },
      storage: { server: { ip: "10.0.0.7", tcpPort: 14005, quicPort: 14006 } },
      upload: { server: { port: 14000 } },
    });
  });

  it("reads the design document's spelling, and stock's when both are there", () => {
    const snake = {
      download: { piece_timeout: "1m30s", concurrent_piece_count: 3 },
      storage: { server: { ip: "::1", tcp_port: 1, quic_port: 65535 } },
    };
    assert.deepEqual(parseConfig(snake), {
      download: { protocol: "tcp", pieceTimeout: 90_000, concurrentPieceCount: 3 },
      storage: { server: { ip: "::1", tcpPort: 1, quicPort: 65535 } },
      upload: { server: { port: 4000 } },
    });
    const both = {
      download: { ...snake.download, pieceTimeout: "5s", concurrentPieceCount: 4 },
      storage: { server: { ...snake.storage.server, tcpPort: 2, quicPort: 3 } },
    };
    assert.deepEqual(parseConfig(both).download, { protocol: "tcp", pieceTimeout: 5_000, concurrentPieceCount: 4 });
    assert.deepEqual(parseConfig(both).storage.server, { ip: "::1", tcpPort: 2, quicPort: 3 });
  });

  it("takes the protocol from download.protocol, else from storage.server.protocol", () => {
    for (const protocol of protocols) {
      assert.equal(parseConfig({ download: { protocol } }).download.protocol, protocol);
      assert.equal(parseConfig({ storage: { server: { protocol } } }).download.protocol, protocol);
    }
    const both = { download: { protocol: "grpc" }, storage: { server: { protocol: "quic" } } };
    assert.equal(parseConfig(both).download.protocol, "grpc");
  });

  it("names the key, the value and what is allowed", () => {
    const port = "expected a port from 0 to 65535";
    const duration = "expected a duration from 1ms to 30d with its unit, such as 360s or 1m30s";
    const count = "expected an integer from 1 to 4294967295";
    const address = "expected an IPv4 or IPv6 address";
    const cases: [input: unknown, message: string][] = [
      [{ download: { protocol: "rdma" } }, 'download.protocol "rdma": expected tcp, quic, grpc'],
      [{ download: { protocol: "QUIC" } }, 'download.protocol "QUIC": expected tcp, quic, grpc'],
      [{ storage: { server: { protocol: 4 } } }, "storage.server.protocol 4: expected tcp, quic, grpc"],
      [{ storage: { server: { quicPort: 65536 } } }, `storage.server.quicPort 65536: ${port}`],
      [{ storage: { server: { quic_port: -1 } } }, `storage.server.quic_port -1: ${port}`],
      [{ storage: { server: { tcpPort: 4005.5 } } }, `storage.server.tcpPort 4005.5: ${port}`],
      [{ storage: { server: { tcpPort: "4005" } } }, `storage.server.tcpPort "4005": ${port}`],
      [{ upload: { server: { port: Number.NaN } } }, `upload.server.port NaN: ${port}`],
      [{ storage: { server: { ip: "" } } }, `storage.server.ip "": ${address}`],
      [{ storage: { server: { ip: "peer.example" } } }, `storage.server.ip "peer.example": ${address}`],
      [{ storage: { server: { ip: "10.0.0.256" } } }, `storage.server.ip "10.0.0.256": ${address}`],
      [{ download: { pieceTimeout: 360 } }, `download.pieceTimeout 360: ${duration}`],
      [{ download: { pieceTimeout: "360" } }, `download.pieceTimeout "360": ${duration}`],
      [{ download: { piece_timeout: "0s" } }, `download.piece_timeout "0s": ${duration}`],
      [{ download: { pieceTimeout: "31d" } }, `download.pieceTimeout "31d": ${duration}`],
      [{ download: { concurrentPieceCount: 0 } }, `download.concurrentPieceCount 0: ${count}`],
      [{ download: { concurrentPieceCount: 2n } }, `download.concurrentPieceCount 2: ${count}`],
      [{ download: "quic" }, 'download "quic": expected keys with values'],
      [{ storage: { server: ["10.0.0.1"] } }, "storage.server […]: expected keys with values"],
      [{ upload: { server: { port: {} } } }, `upload.server.port {…}: ${port}`],
      ["tcp", 'configuration "tcp": expected keys with values'],
      [[], "configuration […]: expected keys with values"],
    ];
    for (const [input, message] of cases) {
      assert.throws(() => parseConfig(input), { name: "VortexError", code: "InvalidArgument", message });
    }
  });

  it("tells of every wrong key at once, and keeps them apart for programs", () => {
    const input = { download: { protocol: "udp" }, storage: { server: { ip: "10.0.0.1", quicPort: 70000 } } };
    assert.throws(
      () => parseConfig(input),
      (error) => {
        assert.ok(error instanceof VortexError);
        assert.equal(
          error.message,
          'download.protocol "udp": expected tcp, quic, grpc; storage.server.quicPort 70000: expected a port from 0 to 65535',
        );
        assert.deepEqual(error.cause, [
          { path: ["download", "protocol"], value: "udp", expected: "expected tcp, quic, grpc" },
          { path: ["storage", "server", "quicPort"], value: 70000, expected: "expected a port from 0 to 65535" },
        ]);
        return true;
      },
    );
  });

  it("keeps a long value short", () => {
    assert.throws(
      () => parseConfig({ download: { protocol: "x".repeat(100_000) } }),
      (error) => error instanceof VortexError && error.message.length < 200,
    );
  });
});

describe("parseDuration", () => {
  it("reads what stock Dragonfly reads", () => {
    const cases: [text: string, milliseconds: number][] = [
      ["360s", 360_000],
      ["1m30s", 90_000],
      ["500ms", 500],
      ["1h", 3_600_000],
      ["2h 37min", 9_420_000],
      ["1hour 12min 5s", 4_325_000],
      ["1.5s", 1_500],
      ["2d", 172_800_000],
      ["1w", 604_800_000],
      ["250us", 0.25],
      ["10 s", 10_000],
      ["0s", 0],
    ];
    for (const [text, milliseconds] of cases) assert.equal(parseDuration(text), milliseconds, text);
  });

  it("reads nothing else", () => {
    const wrong = ["", " ", "360", "s", "abc", "5x", "-5s", "1e3s", "3m5", "1m oops", "360s;", "1_000s", "1,5s", "1S"];
    for (const text of [...wrong, "1M", "1y", "toString", "1toString", "1constructor", ".5s", "5.s", "∞s"]) {
      assert.equal(parseDuration(text), undefined, text);
    }
  });
});
