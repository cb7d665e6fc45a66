import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import type { Sdk } from "../../../cli/sdk.ts";
import { configKeys } from "../../../src/config/keys.ts";
import type { StorageServerOptions } from "../../../src/server/storage-server.ts";
import {
  content,
  env,
  faceWith,
  inTempDir,
  lengths,
  MemorySdk,
  peers,
  type RunOptions,
  run,
  taskId,
  withPeer,
} from "../../support/cli.ts";

const noPeers: Sdk = faceWith(() => assert.fail("a peer was contacted"));

describe("vortex-peer config", () => {
  it("prints every effective value with its source, in aligned columns", () =>
    withConfig("download:\n  protocol: quic\n  pieceTimeout: 1m30s\n", async (path) => {
      const { code, out, err } = await run(noPeers, [
        "config",
        "--config",
        path,
        "--limit",
        "50MB/s",
        "--host",
        "::1",
      ]);
      assert.deepEqual([code, err], [0, ""]);
      const rows = out.text
        .trimEnd()
        .split("\n")
        .map((line) => line.split(/ {2,}/));
      assert.deepEqual(
        rows.map(([key]) => key),
        configKeys,
      );
      assert.deepEqual(
        rows.filter(([, , source]) => source !== "default"),
        [
          ["download.protocol", "quic", `${path}:2`],
          ["download.bandwidthLimit", "50MB", "--limit"],
          ["download.pieceTimeout", "90s", `${path}:3`],
          ["upload.server.ip", "::1", "--host"],
          ["storage.server.ip", "::1", "--host"],
        ],
      );
      const columns = new Set(
        out.text
          .trimEnd()
          .split("\n")
          .map((line) => line.search(/(default|--\S+|\S+:\d+)$/)),
      );
      assert.equal(columns.size, 1);
    }));

  it("prints one JSON object with --json", () =>
    withConfig("upload: { bandwidthLimit: 1MiB }\n", async (path) => {
      const { out } = await run(
        noPeers,
        ["config", "--json", "--concurrency", "3"],
        variable(path),
      );
      const settings = JSON.parse(out.text);
      assert.deepEqual(Object.keys(settings), configKeys);
      assert.deepEqual(settings["upload.bandwidthLimit"], {
        value: 1_048_576,
        source: `${path}:1`,
      });
      assert.deepEqual(settings["download.concurrentPieceCount"], {
        value: 3,
        source: "--concurrency",
      });
      assert.deepEqual(settings["storage.server.ip"], { value: null, source: "default" });
      assert.equal(out.text.trimEnd().includes("\n"), false);
    }));

  it("prefers options to the file of --config, then VORTEX_PEER_CONFIG, then the defaults", () =>
    withConfig("download: { protocol: grpc, pieceTimeout: 1s }\n", (fromEnvironment) =>
      withConfig("download: { protocol: quic }\n", async (path) => {
        const protocolIn = async (args: string[], options: RunOptions): Promise<unknown> => {
          const { out } = await run(noPeers, ["config", "--json", ...args], options);
          return JSON.parse(out.text)["download.protocol"];
        };
        const given = variable(fromEnvironment);
        assert.deepEqual(await protocolIn(["--protocol", "tcp", "--config", path], given), {
          value: "tcp",
          source: "--protocol",
        });
        assert.deepEqual(await protocolIn(["--config", path], given), {
          value: "quic",
          source: `${path}:1`,
        });
        assert.deepEqual(await protocolIn([], given), {
          value: "grpc",
          source: `${fromEnvironment}:1`,
        });
        assert.deepEqual(await protocolIn([], {}), { value: "tcp", source: "default" });
        assert.deepEqual(await protocolIn([], variable("")), { value: "tcp", source: "default" });
      }),
    ));

  it("reports each invalid value in one line, for every command that reads the file", () =>
    withConfig(
      "download:\n  protocol: udp\nstorage:\n  server: { quicPort: 70000 }\n",
      async (path) => {
        const commands = [
          ["config"],
          ["get", "--peer", peers.tcp, "--task-id", taskId],
          ["piece", "--peer", peers.tcp, "--task-id", taskId, "--number", "0"],
          ["stat", "--peer", peers.grpc, "--task-id", taskId],
          ["serve", path],
        ];
        for (const command of commands) {
          const { code, out, err } = await run(noPeers, [...command, "--config", path]);
          assert.deepEqual([code, out.text], [2, ""], command.join(" "));
          const lines = err.trimEnd().split("\n");
          assert.equal(lines.length, 2);
          assert.ok(
            lines[0]?.startsWith(`${path}:2: download.protocol: "udp": expected tcp, `),
            lines[0],
          );
          assert.equal(
            lines[1],
            `${path}:4: storage.server.quicPort: 70000: expected a port from 0 to 65535`,
          );
        }
      },
    ));

  it("reports invalid YAML with its line, and prints no control characters of the file", () =>
    withConfig("a: 1\na: 2\n", async (path) => {
      const { code, err } = await run(noPeers, ["config", "--config", path]);
      assert.equal(code, 2);
      assert.match(err, /^\S+:2: \S.* unique\n$/);
      await writeFile(path, 'download: { protocol: "\\e[2J\\u2028forged" }');
      const { err: shown } = await run(noPeers, ["config", "--config", path]);
      assert.equal(shown.trimEnd().split("\n").length, 1);
      assert.doesNotMatch(shown.trimEnd(), /[\p{Cc}\p{Zl}]/u);
    }));

  it("exits with 7 when the file is missing", async () => {
    const { code, err } = await run(noPeers, ["config", "--config", "/nowhere/d.yaml"]);
    assert.equal(code, 7);
    assert.match(err, /^vortex-peer: StorageFailed: cannot read \/nowhere\/d\.yaml: .*\n$/);
  });

  it("lists the environment variables in the help", async () => {
    for (const args of [["--help"], ["get", "--help"], ["config", "--help"]]) {
      assert.match((await run(noPeers, args)).out.text, /^ {2}VORTEX_PEER_CONFIG {2}\S/m);
    }
  });
});

describe("the commands with a configuration file", () => {
  it("fetch over its protocol, with the same command line", () =>
    withPeer(async (sdk) => {
      for (const protocol of ["tcp", "quic", "grpc"] as const) {
        await withConfig(`download:\n  protocol: ${protocol}\n`, async (path) => {
          const task = ["--task-id", taskId, "--config", path];
          const whole = await run(sdk, ["get", "--peer", peers[protocol], ...lengths, ...task]);
          assert.deepEqual([whole.code, whole.out.bytes], [0, content]);
          const piece = await run(sdk, [
            "piece",
            "--peer",
            peers[protocol],
            "--number",
            "1",
            ...task,
          ]);
          assert.deepEqual([piece.code, piece.out.bytes], [0, content.subarray(1_000, 2_000)]);
        });
      }
      assert.deepEqual(
        sdk.made.map(({ protocol }) => protocol),
        ["tcp", "tcp", "quic", "quic", "grpc", "grpc"],
      );
    }));

  it("use its certificates, unless an option overrides them", () =>
    inTempDir(async (dir) => {
      const pem = ["caCert", "cert", "key"].map((name) => `${name}: ${join(dir, name)}`).join(", ");
      for (const name of ["caCert", "cert", "key"]) await writeFile(join(dir, name), name);
      const path = join(dir, "d.yaml");
      await writeFile(
        path,
        `upload: { client: { ${pem} } }\nvortexPeer: { quic: { verify: false } }\n`,
      );
      const mutual = { ca: "caCert", cert: "cert", key: "key" };
      const pin = "ab".repeat(32);
      await withPeer(async (sdk) => {
        const get = (protocol: "tcp" | "quic" | "grpc", ...more: string[]) => {
          const args = [
            "get",
            "--peer",
            peers[protocol],
            "--task-id",
            taskId,
            ...lengths,
            "--config",
            path,
          ];
          return run(sdk, [...args, "--protocol", protocol, ...more]);
        };
        await get("quic");
        await get("grpc");
        await get("grpc", "--tls");
        await get("quic", "--fingerprint", pin);
        assert.deepEqual(
          sdk.made.map(({ tls, apiTls }) => [tls, apiTls]),
          [
            [{ verify: false, cert: "cert", key: "key" }, mutual],
            [mutual, mutual],
            [mutual, mutual],
            [{ fingerprints: [pin] }, mutual],
          ],
        );
        await run(sdk, ["stat", "--peer", peers.grpc, "--task-id", taskId, "--config", path]);
        assert.deepEqual(sdk.directories.at(-1)?.tls, mutual);
      });
    }));

  it("serve with its addresses, certificate and limits, unless options override them", () =>
    inTempDir(async (dir) => {
      const pem = ["caCert", "cert", "key"].map((name) => `${name}: ${join(dir, name)}`).join(", ");
      for (const name of ["file", "caCert", "cert", "key"]) await writeFile(join(dir, name), name);
      const path = join(dir, "d.yaml");
      await writeFile(
        path,
        [
          "host: { ip: 10.0.0.9, hostname: peer-9 }",
          `upload: { bandwidthLimit: 1MB, server: { ip: 127.0.0.1, port: 3, ${pem} } }`,
          "storage: { server: { ip: 127.0.0.2, tcpPort: 1, quicPort: 2 } }",
          "vortexPeer: { maxConnections: 5 }",
        ].join("\n"),
      );
      const serve = async (
        ...more: string[]
      ): Promise<Omit<StorageServerOptions, "store" | "onError">> => {
        const ending = new AbortController();
        const sdk = new MemorySdk();
        let started: StorageServerOptions | undefined;
        const recording: Sdk = {
          createDownloader: (options) => sdk.createDownloader(options),
          createDirectory: (options) => sdk.createDirectory(options),
          async startServer(options) {
            started = options;
            ending.abort();
            return sdk.startServer(options);
          },
        };
        const args = ["serve", join(dir, "file"), "--config", path, ...more];
        assert.equal((await run(recording, args, { signal: ending.signal })).err, "");
        assert.ok(started !== undefined);
        const { store: _store, onError: _onError, ...rest } = started;
        return rest;
      };
      const said = await serve();
      assert.deepEqual(
        [said.host, said.tcp, said.quic, said.grpc],
        ["127.0.0.2", { port: 1 }, { port: 2 }, { port: 3, host: "127.0.0.1", tls: true }],
      );
      assert.deepEqual(said.tls, { cert: "cert", key: "key", clientCa: "caCert" });
      assert.deepEqual(
        [said.advertisedIp, said.hostname, said.uploadRateLimit, said.maxConnections],
        ["10.0.0.9", "peer-9", 1e6, 5],
      );
      const flags = [
        "--host",
        "::1",
        "--quic-port",
        "9",
        "--upload-rate",
        "7kB/s",
        "--no-tcp",
        "--no-identity",
      ];
      const { host, tcp, quic, grpc, tls, uploadRateLimit } = await serve(...flags);
      assert.deepEqual(
        [host, tcp, quic, grpc, tls, uploadRateLimit],
        [
          "::1",
          undefined,
          { port: 9 },
          { port: 3, host: "::1", tls: true },
          { clientCa: "caCert" },
          7_000,
        ],
      );
      const clear = await serve("--no-quic", "--no-grpc");
      assert.deepEqual(
        [clear.tls, clear.quic, clear.grpc, clear.tcp],
        [undefined, undefined, undefined, { port: 1 }],
      );
    }));
});

/** Options of `run` with the configuration file in VORTEX_PEER_CONFIG. */
function variable(path: string): RunOptions {
  return { env: { ...env, VORTEX_PEER_CONFIG: path } };
}

function withConfig<T>(text: string, use: (path: string) => Promise<T>): Promise<void> {
  return inTempDir(async (dir) => {
    const path = join(dir, "dfdaemon.yaml");
    await writeFile(path, text);
    await use(path);
  });
}
