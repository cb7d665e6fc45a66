import assert from "node:assert/strict";
import { chmod, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { parseConfigText } from "../../../adapters/files/config-file.ts";
import { configVariable, loadConfig } from "../../../adapters/files/load-config.ts";
import { publishedFolders } from "../../../scripts/package/manifests.ts";
import { type ConfigLayer, parseConfig } from "../../../src/config/config.ts";
import { VortexError } from "../../../src/errors.ts";
import type { ProtocolChoice } from "../../../src/transport/protocol.ts";
import { inTempDir } from "../../support/cli.ts";

const stock = fileURLToPath(new URL("../../vectors/dfdaemon.yaml", import.meta.url));
const older = fileURLToPath(new URL("../../vectors/dfdaemon-2.2.yaml", import.meta.url));

describe("a configuration file", () => {
  it("of dfdaemon loads unchanged, and each value has its line", async () => {
    const { config, settings } = await loadConfig(stock);
    const said = settings.filter(({ source }) => source !== "default");
    assert.deepEqual(
      said.map(({ key, text, source }) => `${key} ${text} ${source.replace(`${stock}:`, "")}`),
      [
        "host.ip 10.20.0.7 6",
        "host.hostname peer-7 5",
        "download.protocol quic 24",
        "download.bandwidthLimit 20GB 25",
        "download.pieceTimeout 120s 27",
        "download.concurrentPieceCount 16 29",
        "upload.bandwidthLimit 512MiB 46",
        "upload.server.ip 127.0.0.1 34",
        "upload.server.port 14000 35",
        "upload.server.caCert /etc/ssl/certs/ca.crt 36",
        "upload.server.cert /etc/ssl/certs/server.crt 37",
        "upload.server.key /etc/ssl/private/server.pem 38",
        "upload.client.caCert /etc/ssl/certs/ca.crt 42",
        "upload.client.cert /etc/ssl/certs/client.crt 43",
        "upload.client.key /etc/ssl/private/client.pem 44",
        "storage.server.ip 0.0.0.0 66",
        "storage.server.tcpPort 14005 67",
        "storage.server.quicPort 14006 69",
        "network.enableIPv6 true 126",
      ],
    );
    assert.equal(config.download.bandwidthLimit, 20e9);
  });

  it("of Dragonfly 2.2 loads unchanged", async () => {
    const { config, settings } = await loadConfig(older);
    const usual = parseConfig({});
    assert.deepEqual(config, {
      ...usual,
      download: {
        ...usual.download,
        bandwidthLimit: 10 * 2 ** 30,
        pieceTimeout: 30_000,
        concurrentPieceCount: 10,
      },
      upload: { ...usual.upload, bandwidthLimit: 10 * 2 ** 30 },
    });
    assert.equal(
      settings.find(({ key }) => key === "download.bandwidthLimit")?.source,
      `${older}:11`,
    );
  });

  it("gives the options of a downloader and a server, with the content of its certificate files", () =>
    inTempDir(async (dir) => {
      const file = (name: string): string => join(dir, name);
      for (const name of ["ca", "cert", "key", "own"]) await writeFile(file(name), `the ${name}`);
      const pem = `caCert: ${file("ca")}, cert: ${file("cert")}, key: ${file("key")}`;
      await writeFile(
        file("d.yaml"),
        [
          "download: { protocol: quic, concurrentPieceCount: 3 }",
          `upload: { server: { port: 7, ${pem} }, client: { ${pem} } }`,
          `vortexPeer: { quic: { caCert: ${file("own")} } }`,
        ].join("\n"),
      );
      const config = await loadConfig(file("d.yaml"));
      const mutual = { ca: "the ca", cert: "the cert", key: "the key" };
      const downloader = await config.downloader();
      assert.deepEqual([downloader.protocol, downloader.concurrentPieceCount], ["quic", 3]);
      assert.deepEqual([downloader.tls, downloader.apiTls], [{ ...mutual, ca: "the own" }, mutual]);
      const server = await config.server();
      assert.deepEqual(server.grpc, { port: 7, tls: true });
      assert.deepEqual(server.tls, { cert: "the cert", key: "the key", clientCa: "the ca" });
      // Another protocol than the file's uses the certificates for that protocol.
      const tlsBy = async (protocol: ProtocolChoice): Promise<unknown> =>
        (await config.downloader(protocol)).tls;
      assert.deepEqual(await tlsBy("hybrid"), { ...mutual, ca: "the own" });
      assert.deepEqual(await tlsBy("grpc"), mutual);
      assert.equal(await tlsBy("tcp"), undefined);
    }));

  it("fails for an unreadable certificate file only when its content is needed", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "d.yaml");
      const gone = join(dir, "gone");
      await writeFile(
        path,
        `upload: { server: { caCert: ${gone}, cert: ${gone}, key: ${gone} } }\nvortexPeer: { quic: { caCert: ${gone} } }\n`,
      );
      const config = await loadConfig(path);
      assert.equal((await config.downloader()).protocol, "tcp");
      await assert.rejects(config.server(), {
        code: "StorageFailed",
        message: new RegExp(`^cannot read ${gone}: `),
      });
    }));

  it("defaults to the file of VORTEX_PEER_CONFIG, and to no file without the variable", async () => {
    const before = process.env[configVariable];
    try {
      process.env[configVariable] = stock;
      assert.equal((await loadConfig()).config.download.protocol, "quic");
      for (const nothing of [undefined, ""]) {
        if (nothing === undefined) delete process.env[configVariable];
        else process.env[configVariable] = nothing;
        assert.deepEqual((await loadConfig()).config, parseConfig({}));
      }
    } finally {
      if (before === undefined) delete process.env[configVariable];
      else process.env[configVariable] = before;
    }
  });

  it("may be empty, contain only comments, or begin with a byte order mark", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "d.yaml");
      for (const text of [
        "",
        "\n\n",
        "# nothing\n",
        "---\n",
        "---\n...\n",
        "download:\n",
        "\ufeff",
        "{}",
      ]) {
        await writeFile(path, text);
        assert.deepEqual((await loadConfig(path)).config, parseConfig({}), JSON.stringify(text));
      }
      await writeFile(path, "\ufeffdownload:\r\n  protocol: grpc\r\n");
      const { settings } = await loadConfig(path);
      const { text, source } = settings.find(({ key }) => key === "download.protocol") ?? {};
      assert.deepEqual([text, source], ["grpc", `${path}:2`]);
    }));

  it("that is unreadable fails with StorageFailed", () =>
    inTempDir(async (dir) => {
      const missing = join(dir, "missing.yaml");
      await assert.rejects(loadConfig(missing), {
        code: "StorageFailed",
        message: new RegExp(`^cannot read ${missing}: `),
      });
      await mkdir(join(dir, "folder"));
      await assert.rejects(loadConfig(join(dir, "folder")), { code: "StorageFailed" });
      const locked = join(dir, "locked.yaml");
      await writeFile(locked, "");
      await chmod(locked, 0);
      // Root can read it regardless of its mode.
      if (process.getuid?.() !== 0)
        await assert.rejects(loadConfig(locked), { code: "StorageFailed" });
    }));

  it("that is too large or not text is rejected before it is parsed", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "d.yaml");
      const binary = "expected a UTF-8 text file, got binary data";
      const cases: [content: string | Uint8Array, message: string][] = [
        [
          `# ${"x".repeat(128 * 1024)}`,
          "expected a configuration of at most 131072 bytes, got more",
        ],
        [Uint8Array.of(0x7f, 0x45, 0x4c, 0x46, 0, 0xff, 0xfe), binary],
        [Uint8Array.of(0x61, 0x3a, 0x20, 0), binary],
        [Buffer.from("\ufeffdownload:", "utf16le"), binary],
      ];
      for (const [content, message] of cases) {
        await writeFile(path, content);
        await assert.rejects(loadConfig(path), {
          code: "InvalidArgument",
          message: `${path}:1: ${message}`,
        });
      }
      await writeFile(path, `#${"x".repeat(128 * 1024 - 2)}\n`);
      assert.deepEqual((await loadConfig(path)).config, parseConfig({}));
    }));

  it("an endless device is read only up to the limit of a configuration", {
    skip: noZeros(),
  }, async () => {
    await assert.rejects(loadConfig("/dev/zero"), {
      code: "InvalidArgument",
      message: "/dev/zero:1: expected a configuration of at most 131072 bytes, got more",
    });
  });
});

describe("the YAML parser", () => {
  it("is loaded only when a file is read", async () => {
    const importers: string[] = [];
    for (const part of publishedFolders) {
      const folder = fileURLToPath(new URL(`../../../${part}`, import.meta.url));
      for (const name of await readdir(folder, { recursive: true })) {
        if (!name.endsWith(".ts")) continue;
        const code = await readFile(join(folder, name), "utf8");
        for (const [line] of code.matchAll(/.*["']yaml["'].*/g)) {
          if (!line.startsWith("import type ")) importers.push(`${part}/${name}: ${line.trim()}`);
        }
      }
    }
    assert.deepEqual(importers, [
      'adapters/files/config-file.ts: const yaml = await import("yaml");',
    ]);
  });
});

describe("the text of a configuration", () => {
  it("that is not YAML is rejected with its line", async () => {
    const cases: [text: string, line: number, message: RegExp][] = [
      ["download:\n  protocol: tcp\n  protocol: quic\n", 3, /unique/],
      ["download:\n\tprotocol: tcp\n", 2, /[Tt]abs/],
      ["download: {\n  protocol: tcp\n", 3, /./],
      ["download: [\n", 2, /./],
      ['download: "tcp\n', 2, /quote/],
      ["download: *nowhere\n", 1, /alias/i],
      ["a: 1\n---\nb: 2\n", 2, /expected one document/],
      ["- a\nb: c\n", 2, /./],
    ];
    for (const [text, line, message] of cases) {
      const error = await refused(text);
      assert.ok(
        error.message.startsWith(`d.yaml:${line}: `),
        `${JSON.stringify(text)}: ${error.message}`,
      );
      assert.match(error.message, message);
    }
  });

  it("with an invalid value is rejected with its line, in every YAML style", async () => {
    const cases: [text: string, line: number][] = [
      ["download:\n  # a comment\n  protocol: udp\n", 3],
      ["download: { pieceTimeout: 1s,\n  protocol: udp }\n", 2],
      ["x: &x\n  protocol: udp\ndownload: *x\n", 2],
      ['"download":\n  ? "protocol"\n  : udp\n', 2],
      ["x: 1\ndownload: tcp\n", 2],
      ["\n\n- download\n", 3],
      ["vortexPeer:\n  quic:\n    verify: true\n    verfy: true\n", 4],
    ];
    for (const [text, line] of cases) {
      const error = await refused(text);
      assert.ok(
        error.message.startsWith(`d.yaml:${line}: `),
        `${JSON.stringify(text)}: ${error.message}`,
      );
    }
    const several = await refused(
      "download:\n  protocol: udp\nupload:\n  server:\n    port: 70000\n",
    );
    assert.deepEqual(
      several.message.split("\n").map((line) => line.replace(/: expected.*/, "")),
      ['d.yaml:2: download.protocol: "udp"', "d.yaml:5: upload.server.port: 70000"],
    );
  });

  it("may have anchors and aliases, but not aliases that expand excessively", async () => {
    const shared = "x: &timeout 9s\ndownload: { pieceTimeout: *timeout }\n";
    const layer = await parseConfigText(shared, "d.yaml");
    assert.deepEqual(layer.get("download.pieceTimeout"), { value: 9_000, source: "d.yaml:2" });
    const bomb = ["a0: &a0 [x, x]"];
    for (let level = 1; level < 40; level++)
      bomb.push(`a${level}: &a${level} [*a${level - 1}, *a${level - 1}]`);
    assert.match(
      (await refused(bomb.join("\n"))).message,
      /^d\.yaml:1: expected YAML, got text that the parser rejects: .*alias/,
    );
    const circle = await parseConfigText(
      "a: &a { b: *a }\ndownload: { protocol: quic }\n",
      "d.yaml",
    );
    assert.equal(circle.get("download.protocol")?.value, "quic");
  });

  it("may merge sections (<<), where own keys take precedence, then the sources in order", async () => {
    const text = [
      "a: &a { protocol: quic, pieceTimeout: 9s }",
      "b: &b",
      "  pieceTimeout: 8s",
      "  concurrentPieceCount: 3",
      "download:",
      "  protocol: grpc",
      "  <<: [*a, *b]",
      "upload: { <<: { bandwidthLimit: 5B } }",
      "storage: { server: { tcpPort: 1 } }",
      "vortexPeer: { pool: { <<: { capacity: 7 } } }",
    ].join("\n");
    const layer = await parseConfigText(text, "d.yaml");
    assert.deepEqual(
      [...layer].map(([key, { value, source }]) => `${key} ${value} ${source}`),
      [
        "download.protocol grpc d.yaml:6",
        "download.pieceTimeout 9000 d.yaml:1",
        "download.concurrentPieceCount 3 d.yaml:4",
        "upload.bandwidthLimit 5 d.yaml:8",
        "storage.server.tcpPort 1 d.yaml:9",
        "vortexPeer.pool.capacity 7 d.yaml:10",
      ],
    );
    assert.equal(
      (await refused("x: &x\n  protocol: udp\ndownload: { <<: *x }\n")).message.split(": ", 1)[0],
      "d.yaml:2",
    );
    assert.match((await refused("download: { <<: 5 }\n")).message, /^d\.yaml:1: .*[Mm]erge/);
    assert.match((await refused("download: &d { <<: *d }\n")).message, /^d\.yaml:1: .*alias/);
    const bomb = ["a0: &a0 { protocol: quic }"];
    for (let level = 1; level < 40; level++)
      bomb.push(`a${level}: &a${level} { <<: [*a${level - 1}, *a${level - 1}] }`);
    assert.match((await refused(bomb.join("\n"))).message, /^d\.yaml:1: .*alias/);
    // A quoted key of that name is not a merge key.
    assert.equal(
      (await parseConfigText('download: { "<<": { protocol: quic } }\n', "d.yaml")).size,
      0,
    );
  });

  it("causes a warning for each value that seems meant for this library and has no effect", async () => {
    const warned: string[] = [];
    const text = [
      "downloads: { protocol: quic }",
      "download:",
      "  piecetimeout: 1s",
      "  collectedPieceTimeout: 1s",
      "  concurrentPieceCout: 3",
      "  bandwidht_limit: 5",
      "  nothing:",
      "  protocol: tcp",
      "storage:",
      "  server:",
      "    protocol: quic",
      "    tcpPort: 1",
      "    tcp_port: 2",
      "    quicPort: 3",
      "    quic_port: 3",
      "    tcpPort2: 4",
      "    tcpPrt:",
      "upload: { server: { caCert: /ca, key: /key }, client: { ca_cert: /ca, cert: /cert, key: /key } }",
      "vortex_peer: { stallTimeout: 1s }",
      "other: { protocol: 5, tcpport: 1 }",
    ].join("\n");
    await parseConfigText(text, "d.yaml", (line) => warned.push(line));
    assert.deepEqual(warned, [
      "vortex-peer: d.yaml:1: downloads: {…}: has no effect: expected download",
      'vortex-peer: d.yaml:3: download.piecetimeout: "1s": has no effect: expected pieceTimeout',
      "vortex-peer: d.yaml:5: download.concurrentPieceCout: 3: has no effect: expected concurrentPieceCount",
      "vortex-peer: d.yaml:6: download.bandwidht_limit: 5: has no effect: expected bandwidthLimit",
      "vortex-peer: d.yaml:16: storage.server.tcpPort2: 4: has no effect: expected tcpPort",
      "vortex-peer: d.yaml:19: vortex_peer: {…}: has no effect: expected vortexPeer",
      'vortex-peer: d.yaml:11: storage.server.protocol: "quic": has no effect: download.protocol counts',
      "vortex-peer: d.yaml:13: storage.server.tcp_port: 2: has no effect: storage.server.tcpPort counts",
      'vortex-peer: d.yaml:18: upload.server.caCert: "/ca": has no effect without cert beside it',
      'vortex-peer: d.yaml:18: upload.server.key: "/key": has no effect without cert beside it',
    ]);
  });

  it("of dfdaemon causes no warning", async () => {
    const warned: string[] = [];
    for (const path of [stock, older]) {
      await parseConfigText(await readFile(path, "utf8"), path, (line) => warned.push(line));
    }
    assert.deepEqual(warned, []);
  });

  it("causes a warning once per process, even if it is read repeatedly", (t) =>
    inTempDir(async (dir) => {
      const path = join(dir, "d.yaml");
      await writeFile(path, "download: { pieceTimeOut: 1s }\n");
      const lines: string[] = [];
      t.mock.method(console, "warn", (line: string) => lines.push(line));
      for (let time = 0; time < 2; time++) await loadConfig(path);
      assert.deepEqual(lines, [
        `vortex-peer: ${path}:1: download.pieceTimeOut: "1s": has no effect: expected pieceTimeout`,
      ]);
    }));

  it("with extremely deep nesting is rejected without a crash", async () => {
    for (const text of ["[".repeat(100_000), "{a: ".repeat(30_000), "- ".repeat(60_000)]) {
      assert.match((await refused(text)).message, /^d\.yaml:\d+: /);
    }
  });

  it("always gives a layer or InvalidArgument, for random input", async () => {
    const words = fc.constantFrom(
      "download",
      "protocol",
      "quic",
      ":",
      " ",
      "\n",
      "  ",
      "- ",
      "{",
      "}",
      "&a ",
      "*a",
      "?",
      "|",
    );
    const text = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.array(words, { maxLength: 40 }).map((all) => all.join("")),
    );
    await fc.assert(
      fc.asyncProperty(text, async (input) => {
        const result = await parseConfigText(input, "d.yaml").catch((error: unknown) => error);
        if (result instanceof Map) return;
        assert.ok(
          result instanceof VortexError && result.code === "InvalidArgument",
          String(result),
        );
        for (const line of result.message.split("\n")) assert.match(line, /^d\.yaml:\d+: /);
      }),
      { numRuns: 300 },
    );
  });
});

async function refused(text: string): Promise<VortexError> {
  const result: ConfigLayer | VortexError = await parseConfigText(text, "d.yaml").catch(
    (error) => error,
  );
  assert.ok(result instanceof VortexError, `was taken: ${JSON.stringify(text).slice(0, 100)}`);
  assert.equal(result.code, "InvalidArgument");
  return result;
}

/** Reason to skip tests that read `/dev/zero`; false where it exists. */
function noZeros(): string | false {
  return process.platform === "win32" ? "Windows has no /dev/zero" : false;
}
