import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type Config, parseConfig } from "../../../src/config/config.ts";
import { formatDuration, parseDuration } from "../../../src/config/duration.ts";
import { formatSize, parseSize } from "../../../src/config/size.ts";
import { VortexError } from "../../../src/errors.ts";
import { serverOptions } from "../../../src/server/configured.ts";
import { protocolChoices } from "../../../src/transport/protocol.ts";

/** Default of every value. */
const defaults: Config = {
  host: { ip: undefined, hostname: undefined },
  download: {
    protocol: "tcp",
    bandwidthLimit: undefined,
    pieceTimeout: 360_000,
    concurrentPieceCount: 8,
  },
  upload: {
    bandwidthLimit: undefined,
    server: { ip: undefined, port: 4000, caCert: undefined, cert: undefined, key: undefined },
    client: { caCert: undefined, cert: undefined, key: undefined },
  },
  storage: { server: { ip: undefined, tcpPort: 4005, quicPort: 4006 } },
  network: { enableIPv6: false },
  vortexPeer: {
    connectTimeout: 2_000,
    stallTimeout: 30_000,
    patience: 60_000,
    unverifiedPieces: "accept",
    requestTimeout: 10_000,
    parentConcurrency: 32,
    maxConnections: 1_024,
    maxStreams: 128,
    idVersion: "1.5.3",
    pool: {
      connectionsPerAddress: 1,
      capacity: 2_000,
      idleTimeout: 420_000,
      cleanupInterval: 60_000,
    },
    quic: {
      earlyData: true,
      caCert: undefined,
      fingerprints: undefined,
      verify: true,
      congestionControl: undefined,
      udpPayloadSize: undefined,
      streamWindow: undefined,
      connectionWindow: undefined,
      socketBuffer: undefined,
      ackThreshold: undefined,
    },
  },
};

describe("parseConfig", () => {
  it("applies the defaults of stock Dragonfly to missing keys", () => {
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

  it("reads the spelling of stock Dragonfly among the many other keys of a real file", () => {
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
      upload: {
        client: { ttl: "12h" },
        server: { port: 14000, caCert: null },
        disableShared: false,
      },
      storage: {
        server: { ip: "10.0.0.7", tcpPort: 14005, tcpFastopen: false, quicPort: 14006 },
        dir: "/var/lib/dragonfly",
        keep: true,
      },
      gc: { interval: "900s", policy: { taskTTL: "720h", distHighThresholdPercent: 80 } },
      metrics: { server: { port: 4002 } },
    });
    assert.deepEqual(config, {
      ...defaults,
      download: {
        protocol: "quic",
        bandwidthLimit: 50e9,
        pieceTimeout: 30_000,
        concurrentPieceCount: 10,
      },
      storage: { server: { ip: "10.0.0.7", tcpPort: 14005, quicPort: 14006 } },
      upload: { ...defaults.upload, server: { ...defaults.upload.server, port: 14000 } },
    });
  });

  it("reads the spelling of the design document, and prefers that of stock Dragonfly", () => {
    const snake = {
      download: { piece_timeout: "1m30s", concurrent_piece_count: 3 },
      storage: { server: { ip: "::1", tcp_port: 1, quic_port: 65535 } },
    };
    assert.deepEqual(parseConfig(snake), {
      ...defaults,
      download: { ...defaults.download, pieceTimeout: 90_000, concurrentPieceCount: 3 },
      storage: { server: { ip: "::1", tcpPort: 1, quicPort: 65535 } },
    });
    const both = {
      download: { ...snake.download, pieceTimeout: "5s", concurrentPieceCount: 4 },
      storage: { server: { ...snake.storage.server, tcpPort: 2, quicPort: 3 } },
    };
    assert.deepEqual(parseConfig(both).download, {
      ...defaults.download,
      pieceTimeout: 5_000,
      concurrentPieceCount: 4,
    });
    assert.deepEqual(parseConfig(both).storage.server, { ip: "::1", tcpPort: 2, quicPort: 3 });
  });

  it("listens at :: with network.enableIPv6, unless an address is configured", () => {
    const hostOf = (input: unknown) => serverOptions(parseConfig(input)).host;
    assert.equal(hostOf({}), undefined);
    assert.equal(hostOf({ network: { enableIPv6: true } }), "::");
    assert.equal(hostOf({ network: { enable_ipv6: true } }), "::");
    const both = { network: { enableIPv6: true }, storage: { server: { ip: "10.0.0.1" } } };
    assert.equal(hostOf(both), "10.0.0.1");
  });

  it("takes the protocol from download.protocol, else from storage.server.protocol", () => {
    for (const protocol of protocolChoices) {
      assert.equal(parseConfig({ download: { protocol } }).download.protocol, protocol);
      assert.equal(parseConfig({ storage: { server: { protocol } } }).download.protocol, protocol);
    }
    const both = { download: { protocol: "grpc" }, storage: { server: { protocol: "quic" } } };
    assert.equal(parseConfig(both).download.protocol, "grpc");
  });

  it("reads rate limits in bytes/s like stock Dragonfly, also under their old name", () => {
    const cases: [limit: unknown, bytes: number][] = [
      ["50GB", 50e9],
      ["50GiB", 50 * 2 ** 30],
      ["1.5 mib", 1.5 * 2 ** 20],
      ["10k", 10_000],
      [20, 20],
      ["1048576", 1_048_576],
      ["5  GB", 5e9],
      [".5MB", 500_000],
      ["5.kB", 5_000],
      ["1.0009kB", 1_000],
      ["10Ki", 10_240],
      ["1000000B", 1e6],
      ["1b", 1],
    ];
    for (const [limit, bytes] of cases) {
      const config = parseConfig({
        download: { bandwidthLimit: limit },
        upload: { rateLimit: limit },
      });
      assert.deepEqual(
        [config.download.bandwidthLimit, config.upload.bandwidthLimit],
        [bytes, bytes],
      );
    }
    const both = parseConfig({ download: { rateLimit: "1GiB", bandwidthLimit: "2GB" } });
    assert.equal(both.download.bandwidthLimit, 2e9);
  });

  it("reads options without a stock key from the section vortexPeer", () => {
    const pin = "0123456789abcdef".repeat(4);
    const { vortexPeer } = parseConfig({
      vortexPeer: {
        connectTimeout: "1s",
        stall_timeout: "5s",
        pool: { idleTimeout: "1m" },
        quic: {
          earlyData: false,
          fingerprints: [pin],
          caCert: "/ca.pem",
          verify: null,
          udp_payload_size: 1452,
        },
      },
    });
    assert.deepEqual(vortexPeer, {
      ...defaults.vortexPeer,
      connectTimeout: 1_000,
      stallTimeout: 5_000,
      pool: { ...defaults.vortexPeer.pool, idleTimeout: 60_000 },
      quic: {
        ...defaults.vortexPeer.quic,
        earlyData: false,
        fingerprints: [pin],
        caCert: "/ca.pem",
        udpPayloadSize: 1452,
      },
    });
  });

  it("rejects unknown keys in the section vortexPeer, because they are misspelt", () => {
    const cases: [section: unknown, message: string][] = [
      [
        { quic: { earlydata: true } },
        "vortexPeer.quic.earlydata true: expected no other keys than earlyData, caCert, fingerprints, verify, congestionControl, udpPayloadSize, streamWindow, connectionWindow, socketBuffer, ackThreshold",
      ],
      [
        { pool: { size: 3 } },
        "vortexPeer.pool.size 3: expected no other keys than connectionsPerAddress, capacity, idleTimeout, cleanupInterval",
      ],
      [
        { conectTimeout: "1s" },
        'vortexPeer.conectTimeout "1s": expected no other keys than connectTimeout, stallTimeout, patience, unverifiedPieces, requestTimeout, ' +
          "parentConcurrency, maxConnections, maxStreams, idVersion, pool, quic",
      ],
      [{ quic: [] }, "vortexPeer.quic […]: expected keys with values"],
      [3, "vortexPeer 3: expected keys with values"],
    ];
    for (const [vortexPeer, message] of cases) {
      assert.throws(() => parseConfig({ vortexPeer }), { code: "InvalidArgument", message });
    }
  });

  it("the message has the key, the value and what is allowed", () => {
    const protocol = `expected ${protocolChoices.join(", ")}`;
    const port = "expected a port from 0 to 65535";
    const duration = "expected a duration from 1ms to 30d with its unit, such as 360s or 1m30s";
    const count = "expected an integer from 1 to 1024";
    const limit = "expected a rate from 1B in bytes/s, such as 50MB, 50MiB or 50000000";
    const prints = "expected a list of SHA-256 fingerprints";
    const address = "expected an IPv4 or IPv6 address";
    const cases: [input: unknown, message: string][] = [
      [{ download: { protocol: "rdma" } }, `download.protocol "rdma": ${protocol}`],
      [{ download: { protocol: "QUIC" } }, `download.protocol "QUIC": ${protocol}`],
      [{ storage: { server: { protocol: 4 } } }, `storage.server.protocol 4: ${protocol}`],
      [{ storage: { server: { quicPort: 65536 } } }, `storage.server.quicPort 65536: ${port}`],
      [{ storage: { server: { quic_port: -1 } } }, `storage.server.quic_port -1: ${port}`],
      [{ storage: { server: { tcpPort: 4005.5 } } }, `storage.server.tcpPort 4005.5: ${port}`],
      [{ storage: { server: { tcpPort: "4005" } } }, `storage.server.tcpPort "4005": ${port}`],
      [{ upload: { server: { port: Number.NaN } } }, `upload.server.port NaN: ${port}`],
      [{ storage: { server: { ip: "" } } }, `storage.server.ip "": ${address}`],
      [
        { storage: { server: { ip: "peer.example" } } },
        `storage.server.ip "peer.example": ${address}`,
      ],
      [{ storage: { server: { ip: "10.0.0.256" } } }, `storage.server.ip "10.0.0.256": ${address}`],
      [{ download: { pieceTimeout: 360 } }, `download.pieceTimeout 360: ${duration}`],
      [{ download: { pieceTimeout: "360" } }, `download.pieceTimeout "360": ${duration}`],
      [{ download: { piece_timeout: "0s" } }, `download.piece_timeout "0s": ${duration}`],
      [{ download: { pieceTimeout: "31d" } }, `download.pieceTimeout "31d": ${duration}`],
      [{ download: { concurrentPieceCount: 0 } }, `download.concurrentPieceCount 0: ${count}`],
      [{ download: { concurrentPieceCount: 2n } }, `download.concurrentPieceCount 2n: ${count}`],
      [{ download: { bandwidthLimit: "50GB/s" } }, `download.bandwidthLimit "50GB/s": ${limit}`],
      [{ download: { bandwidthLimit: 0 } }, `download.bandwidthLimit 0: ${limit}`],
      [{ upload: { rateLimit: 1.5 } }, `upload.rateLimit 1.5: ${limit}`],
      [{ upload: { bandwidthLimit: true } }, `upload.bandwidthLimit true: ${limit}`],
      [
        { upload: { server: { caCert: "" } } },
        'upload.server.caCert "": expected the name of a file',
      ],
      [{ host: { ip: "" } }, `host.ip "": ${address}`],
      [
        { vortexPeer: { quic: { verify: "no" } } },
        'vortexPeer.quic.verify "no": expected true, false',
      ],
      [
        { vortexPeer: { quic: { fingerprints: [] } } },
        `vortexPeer.quic.fingerprints […]: ${prints}`,
      ],
      [
        { vortexPeer: { quic: { fingerprints: ["ab"] } } },
        'vortexPeer.quic.fingerprints.0 "ab": expected 64 hex digits, with colons or without',
      ],
      [
        { vortexPeer: { stallTimeout: "2d" } },
        'vortexPeer.stallTimeout "2d": expected a duration from 1ms to 1d with its unit, such as 360s or 1m30s',
      ],
      [
        { vortexPeer: { patience: 5 } },
        "vortexPeer.patience 5: expected 0 for none, or a duration from 1ms to 1d with its unit, such as 60s or 5m",
      ],
      [{ download: "quic" }, 'download "quic": expected keys with values'],
      [{ storage: { server: ["10.0.0.1"] } }, "storage.server […]: expected keys with values"],
      [{ upload: { server: { port: {} } } }, `upload.server.port {…}: ${port}`],
      ["tcp", 'configuration "tcp": expected keys with values'],
      [[], "configuration […]: expected keys with values"],
    ];
    for (const [input, message] of cases) {
      assert.throws(() => parseConfig(input), {
        name: "VortexError",
        code: "InvalidArgument",
        message,
      });
    }
  });

  it("reports all invalid keys at once, and lists them in the cause", () => {
    const expected = `expected ${protocolChoices.join(", ")}`;
    const input = {
      download: { protocol: "udp" },
      storage: { server: { ip: "10.0.0.1", quicPort: 70000 } },
    };
    assert.throws(
      () => parseConfig(input),
      (error) => {
        assert.ok(error instanceof VortexError);
        assert.equal(
          error.message,
          `download.protocol "udp": ${expected}; storage.server.quicPort 70000: expected a port from 0 to 65535`,
        );
        assert.ok(error.cause instanceof AggregateError);
        const { errors } = error.cause;
        assert.ok(errors.every((each) => each instanceof VortexError));
        assert.deepEqual(errors.map(({ message }) => message).join("; "), error.message);
        assert.deepEqual(
          errors.map(({ cause }) => cause),
          [
            { path: ["download", "protocol"], value: "udp", expected },
            {
              path: ["storage", "server", "quicPort"],
              value: 70000,
              expected: "expected a port from 0 to 65535",
            },
          ],
        );
        return true;
      },
    );
  });

  it("shortens a long value in the message", () => {
    assert.throws(
      () => parseConfig({ download: { protocol: "x".repeat(100_000) } }),
      (error) => error instanceof VortexError && error.message.length < 200,
    );
  });
});

describe("parseDuration", () => {
  it("reads the durations of stock Dragonfly", () => {
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
      ["2mins 3secs 4millis 5000000nanos", 123_009],
      ["0s", 0],
    ];
    for (const [text, milliseconds] of cases) assert.equal(parseDuration(text), milliseconds, text);
  });

  it("rejects any other text", () => {
    const wrong = [
      "",
      " ",
      "360",
      "s",
      "abc",
      "5x",
      "-5s",
      "1e3s",
      "3m5",
      "1m oops",
      "360s;",
      "1_000s",
      "1,5s",
      "1S",
    ];
    for (const text of [
      ...wrong,
      "1M",
      "1y",
      "toString",
      "1toString",
      "1constructor",
      ".5s",
      "5.s",
      "∞s",
    ]) {
      assert.equal(parseDuration(text), undefined, text);
    }
  });
});

describe("formatDuration and formatSize", () => {
  it("are the inverse of parseDuration and parseSize", () => {
    for (const milliseconds of [1, 500, 1_000, 1_500, 90_000, 360_000, 30 * 86_400_000]) {
      assert.equal(parseDuration(formatDuration(milliseconds)), milliseconds);
    }
    assert.deepEqual([formatDuration(360_000), formatDuration(1_500)], ["360s", "1500ms"]);
    for (const bytes of [
      1,
      1_000,
      1_024,
      12_345,
      50e6,
      50e9,
      50 * 2 ** 30,
      3e15,
      2 ** 50,
      Number.MAX_SAFE_INTEGER,
    ]) {
      assert.equal(parseSize(formatSize(bytes)), bytes);
    }
    assert.deepEqual([50e9, 50 * 2 ** 30, 999].map(formatSize), ["50GB", "50GiB", "999B"]);
  });

  it("parseSize rejects anything but a number with a unit of bytes", () => {
    for (const text of [
      "",
      "GB",
      "5XB",
      "-1",
      "1e3",
      "1,5GB",
      "0x10",
      "5 GB ",
      " 5GB",
      "1.5",
      ".GB",
      "9PB9",
      "99PiB",
    ]) {
      assert.equal(parseSize(text), undefined, text);
    }
  });
});
