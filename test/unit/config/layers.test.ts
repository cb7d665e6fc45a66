import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { downloaderOptions } from "../../../src/client/configured.ts";
import {
  type ConfigLayer,
  type ConfigProblem,
  configLayer,
  parseConfig,
  parseConfigLayer,
  resolveConfig,
} from "../../../src/config/config.ts";
import { type ConfigKey, configKeys, keys } from "../../../src/config/keys.ts";
import { mutualTlsFiles } from "../../../src/config/mutual-tls.ts";
import { VortexError } from "../../../src/errors.ts";
import { portableRuntime } from "../../../src/runtime.ts";
import { serverSettings } from "../../../src/server/admission/upload.ts";
import { serverOptions } from "../../../src/server/configured.ts";

describe("layers of a configuration", () => {
  it("each value comes from the first layer that has it, and names its source", () => {
    const file = parseConfigLayer(
      { download: { protocol: "quic", pieceTimeout: "9s" }, storage: { server: { quic_port: 1 } } },
      (path) => `file:${path.join("/")}`,
    );
    const flags = configLayer(
      { "download.protocol": "grpc", "upload.server.port": undefined },
      (key) => `flag ${key}`,
    );
    const { config, settings } = resolveConfig(flags, file);
    assert.deepEqual([config.download.protocol, config.download.pieceTimeout], ["grpc", 9_000]);
    const said = settings.filter(({ source }) => source !== "default");
    assert.deepEqual(said, [
      { key: "download.protocol", value: "grpc", text: "grpc", source: "flag download.protocol" },
      {
        key: "download.pieceTimeout",
        value: 9_000,
        text: "9s",
        source: "file:download/pieceTimeout",
      },
      {
        key: "storage.server.quicPort",
        value: 1,
        text: "1",
        source: "file:storage/server/quic_port",
      },
    ]);
    assert.deepEqual(
      settings.map(({ key }) => key),
      configKeys,
    );
  });

  it("precedence holds for each key, whatever the layers", () => {
    const layers = fc.array(layerOf(configKeys), { maxLength: 4 });
    fc.assert(
      fc.property(layers, (given) => {
        const { config, settings } = resolveConfig(...given);
        for (const { key, value, source } of settings) {
          const winner = given.find((layer) => layer.has(key))?.get(key);
          assert.deepEqual(
            [value, source],
            winner ? [winner.value, winner.source] : [keys[key].defaultValue, "default"],
          );
          assert.equal(valueIn(config, key), value);
        }
      }),
    );
  });

  it("the text of a setting parses back to its value", () => {
    const { settings } = resolveConfig();
    for (const { key, text, value } of settings) {
      if (text === undefined) continue;
      const read = parseConfigLayer(
        nested(key, JSON.parse(/^(true|false|\d+)$/.test(text) ? text : `"${text}"`)),
      );
      assert.equal(read.get(key)?.value, value, key);
    }
  });

  it("any input is either a configuration or InvalidArgument", () => {
    const leaf = fc.anything({
      withBigInt: true,
      withMap: true,
      withNullPrototype: true,
      withDate: true,
    });
    const names = [
      ...new Set(configKeys.flatMap((key) => keys[key].paths).flat()),
      "__proto__",
      "constructor",
      "x",
    ];
    const { section } = fc.letrec<{ section: unknown }>((tie) => ({
      section: fc.dictionary(
        fc.constantFrom(...names),
        fc.oneof({ maxDepth: 4 }, leaf, tie("section")),
      ),
    }));
    fc.assert(
      fc.property(fc.oneof(leaf, section), (input) => {
        try {
          const config = parseConfig(input);
          downloaderSettings(downloaderOptions(config), portableRuntime);
          serverSettings(serverOptions(config), portableRuntime);
        } catch (error) {
          assert.ok(
            error instanceof VortexError && error.code === "InvalidArgument",
            String(error),
          );
        }
      }),
      { numRuns: 200 },
    );
  });

  it("reports the location of each invalid value on a separate line", () => {
    const input = { download: { protocol: "udp", pieceTimeout: 5 }, upload: 3 };
    assert.throws(
      () => parseConfigLayer(input, (path) => `d.yaml:${path.length}`),
      (error) => {
        assert.ok(error instanceof VortexError);
        const lines = error.message.split("\n");
        assert.equal(lines.length, 3);
        assert.match(lines[0] ?? "", /^d\.yaml:2: download\.protocol: "udp": expected tcp, /);
        assert.match(lines[1] ?? "", /^d\.yaml:2: download\.pieceTimeout: 5: expected a duration /);
        assert.equal(lines[2], "d.yaml:1: upload: 3: expected keys with values");
        assert.ok(error.cause instanceof AggregateError);
        const problems = error.cause.errors.map(({ cause }) => cause as ConfigProblem);
        assert.deepEqual(
          problems.map(({ source, value }) => [source, value]),
          [
            ["d.yaml:2", "udp"],
            ["d.yaml:2", 5],
            ["d.yaml:1", 3],
          ],
        );
        return true;
      },
    );
  });
});

describe("options from a configuration", () => {
  it("are the defaults of the library for an empty configuration", () => {
    const config = parseConfig({});
    assert.deepEqual(
      downloaderSettings(downloaderOptions(config), portableRuntime),
      downloaderSettings({}, portableRuntime),
    );
    const { onError: _, ...configured } = serverSettings(serverOptions(config), portableRuntime);
    const { onError: __, ...defaults } = serverSettings({}, portableRuntime);
    assert.deepEqual(configured, defaults);
    const { quic, tcp, grpc, host } = serverOptions(config);
    assert.deepEqual(
      [quic, tcp, grpc, host],
      [{ port: 4006 }, { port: 4005 }, { port: 4000 }, undefined],
    );
  });

  it("change with every key, so that no key is read without effect", () => {
    // Keys for files take effect where the files are read; here their contents are passed
    // separately.
    const files = configKeys.filter((key) => /\.(caCert|cert|key)$/.test(key));
    assert.equal(files.length, 7);
    const base = effect({});
    for (const key of configKeys.filter((candidate) => !files.includes(candidate))) {
      const changed = effect({ [key]: others[key] });
      assert.notDeepEqual(changed, base, key);
    }
  });

  it("have the TLS options that the protocol uses", () => {
    const mutual = { ca: "ca", cert: "cert", key: "key" };
    const pin = "ab".repeat(32);
    const tlsOf = (protocol: string, quic: object, files = {}) => {
      const { tls, apiTls } = downloaderOptions(
        parseConfig({ download: { protocol }, vortexPeer: { quic } }),
        files,
      );
      return [tls, apiTls];
    };
    assert.deepEqual(tlsOf("quic", {}), [undefined, undefined]);
    assert.deepEqual(tlsOf("quic", { fingerprints: [pin] }), [{ fingerprints: [pin] }, undefined]);
    assert.deepEqual(tlsOf("quic", {}, { ca: "own" }), [{ ca: "own" }, undefined]);
    assert.deepEqual(tlsOf("quic", {}, { ca: "own", mutual }), [{ ...mutual, ca: "own" }, mutual]);
    assert.deepEqual(tlsOf("quic", { verify: false }, { mutual }), [
      { verify: false, cert: "cert", key: "key" },
      mutual,
    ]);
    // TCP has no TLS. A file with trust options for QUIC still loads, and the downloader accepts
    // it.
    assert.deepEqual(tlsOf("tcp", { fingerprints: [pin] }, { ca: "own", mutual }), [
      undefined,
      mutual,
    ]);
    // Options for QUIC do not enable TLS for gRPC, so that changing the protocol takes one line.
    assert.deepEqual(tlsOf("grpc", { fingerprints: [pin] }), [undefined, undefined]);
    assert.deepEqual(tlsOf("grpc", { verify: false }, { mutual }), [mutual, mutual]);
    const { grpc, tls } = serverOptions(parseConfig({}), { mutual });
    assert.deepEqual(
      [grpc, tls],
      [
        { port: 4000, tls: true },
        { cert: "cert", key: "key", clientCa: "ca" },
      ],
    );
    const secured = parseConfig({ upload: { server: { caCert: "a", cert: "b", key: "c" } } });
    assert.throws(() => serverOptions(secured), { code: "InvalidArgument" });
  });

  it("have mutual TLS only with all three files, like stock Dragonfly", () => {
    const none = { caCert: undefined, cert: undefined, key: undefined };
    assert.equal(mutualTlsFiles(none), undefined);
    assert.equal(mutualTlsFiles({ ...none, caCert: "a", cert: "b" }), undefined);
    assert.deepEqual(mutualTlsFiles({ caCert: "a", cert: "b", key: "c" }), {
      ca: "a",
      cert: "b",
      key: "c",
    });
  });
});

/** Value other than the default, for each key that has an effect by itself. */
const others: { readonly [Key in ConfigKey]?: unknown } = {
  "host.ip": "10.0.0.1",
  "host.hostname": "peer",
  "download.protocol": "quic",
  "download.bandwidthLimit": 1,
  "download.pieceTimeout": 1,
  "download.concurrentPieceCount": 1,
  "upload.bandwidthLimit": 1,
  "upload.server.ip": "10.0.0.1",
  "upload.server.port": 1,
  "storage.server.ip": "10.0.0.1",
  "storage.server.tcpPort": 1,
  "storage.server.quicPort": 1,
  "network.enableIPv6": true,
  "vortexPeer.connectTimeout": 1,
  "vortexPeer.stallTimeout": 1,
  "vortexPeer.patience": 0,
  "vortexPeer.unverifiedPieces": "refuse",
  "vortexPeer.requestTimeout": 1,
  "vortexPeer.parentConcurrency": 1,
  "vortexPeer.maxConnections": 1,
  "vortexPeer.maxStreams": 1,
  "vortexPeer.idVersion": "1.5.2",
  "vortexPeer.pool.connectionsPerAddress": 2,
  "vortexPeer.pool.capacity": 1,
  "vortexPeer.pool.idleTimeout": 1,
  "vortexPeer.pool.cleanupInterval": 1,
  "vortexPeer.quic.earlyData": false,
  "vortexPeer.quic.fingerprints": ["ab".repeat(32)],
  "vortexPeer.quic.verify": false,
  "vortexPeer.quic.congestionControl": "cubic",
  "vortexPeer.quic.udpPayloadSize": 1200,
  "vortexPeer.quic.streamWindow": 65_536,
  "vortexPeer.quic.connectionWindow": 65_536,
  "vortexPeer.quic.socketBuffer": 4096,
  "vortexPeer.quic.ackThreshold": 2,
};

/**
 * Returns the options from a layer. Uses QUIC, so that its keys take effect, unless the layer sets
 * the protocol.
 */
function effect(values: { readonly [Key in ConfigKey]?: unknown }): unknown {
  const layer = configLayer({ "download.protocol": "quic", ...(values as object) }, () => "test");
  const { config } = resolveConfig(
    "download.protocol" in values ? configLayer({}, () => "test") : layer,
  );
  return [downloaderOptions(config), serverOptions(config)];
}

/** Generates a layer with random values for some of `names`. */
function layerOf(names: readonly ConfigKey[]): fc.Arbitrary<ConfigLayer> {
  const plain = fc.oneof(fc.string(), fc.integer());
  const entry = fc.constantFrom(...names).chain((key) => {
    const value = key === "vortexPeer.quic.fingerprints" ? fc.array(plain) : plain;
    return fc.tuple(fc.constant(key), fc.record({ value, source: fc.string() }));
  });
  return fc.array(entry, { maxLength: 12 }).map((entries) => new Map(entries));
}

function valueIn(config: unknown, key: string): unknown {
  return key
    .split(".")
    .reduce<unknown>((section, name) => (section as Record<string, unknown>)[name], config);
}

function nested(key: string, value: unknown): unknown {
  return key.split(".").reduceRight<unknown>((inner, name) => ({ [name]: inner }), value);
}
