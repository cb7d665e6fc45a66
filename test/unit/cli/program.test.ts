import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Writable } from "node:stream";
import { describe, it } from "node:test";
import { fileIdentityStore } from "../../../adapters/files/identity-store.ts";
import { type QuicBinding, withFallback } from "../../../adapters/shared/fallback.ts";
import { selfSigned, serverIdentity } from "../../../adapters/shared/tls.ts";
import { tcpTransport } from "../../../adapters/tcp/transport.ts";
import { defaultIdentityFile, identityTls } from "../../../cli/identity.ts";
import { runCli } from "../../../cli/program.ts";
import type { Sdk } from "../../../cli/sdk.ts";
import { parent, parseOptions, rate, size, taskRange } from "../../../cli/values.ts";
import { runtimeApi } from "../../../entry/runtime-api.ts";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { downloaderOptions } from "../../../src/client/configured.ts";
import { parseConfig } from "../../../src/config/config.ts";
import { errorCodes, VortexError } from "../../../src/errors.ts";
import { portableRuntime } from "../../../src/runtime.ts";
import { serverOptions } from "../../../src/server/configured.ts";
import type { PieceStore } from "../../../src/store/store.ts";
import { protocolChoices } from "../../../src/transport/protocol.ts";
import {
  brokenPipe,
  content,
  env,
  faceWith,
  failing,
  inTempDir,
  MemorySdk,
  peers,
  run,
  Sink,
  taskId,
  taskStore,
  withPeer,
} from "../../support/cli.ts";
import { assertRejects } from "../../support/failures.ts";

const sha256 = createHash("sha256").update(content).digest("hex");

const pieceOf = (addr: string, number: number, ...more: string[]): string[] => [
  ...["piece", "--peer", addr, "--task-id", taskId, "--number", String(number)],
  ...more,
];
const getFrom = (addr: string, ...more: string[]): string[] => [
  "get",
  "--peer",
  addr,
  "--task-id",
  taskId,
  ...more,
];

describe("vortex-peer", () => {
  it("prints help with every exit code for each command, and the package's version", async () => {
    const sdk = failing("Internal");
    for (const args of [
      ["--help"],
      ["serve", "--help"],
      ["piece", "-h"],
      ["help", "get"],
      ["stat", "--help"],
      ["id", "--help"],
    ]) {
      const { code, out, err } = await run(sdk, args);
      assert.deepEqual([code, err], [0, ""], args.join(" "));
      for (const exit of [0, 1, 2, 3, 4, 5, 6, 7, 130, 141, 143]) {
        assert.match(out.text, new RegExp(`^ +${exit} {2}\\S`, "m"), `${args.join(" ")}: ${exit}`);
      }
    }
    const { version } = JSON.parse(
      await readFile(new URL("../../../package.json", import.meta.url), "utf8"),
    );
    assert.equal((await run(sdk, ["--version"])).out.text, `${version}\n`);
    const bare = await run(sdk, []);
    assert.equal(bare.code, 2);
    assert.match(bare.err, /^Usage: vortex-peer /);
  });

  it("says in the help of each trust option what applies without it", async () => {
    for (const command of ["get", "piece", "stat"]) {
      const { out } = await run(failing("Internal"), [command, "--help"]);
      const help = out.text.replaceAll(/\s+/g, " ");
      for (const fallback of [
        "in the clear, like dfdaemon",
        "those of the runtime",
        "trust by authority",
        "check it",
      ]) {
        assert.ok(help.includes(`(default: ${fallback})`), `${command}: ${fallback}`);
      }
    }
  });

  it("reports misuse in one line that names the option, and exits with 2", async () => {
    const peer = "10.0.0.7:4005";
    const cases: [args: string[], message: string][] = [
      [["fetch"], "unknown command 'fetch'"],
      [["piece"], "required option '--peer <address>' not specified"],
      [["serve"], "missing required argument 'file'"],
      [pieceOf(peer, 0, "--what"), "unknown option '--what'"],
      [
        pieceOf(peer, 0, "--protocol", "rdma"),
        `option '--protocol <name>' argument 'rdma' is invalid. Allowed choices are ${protocolChoices.join(", ")}.`,
      ],
      [
        pieceOf("10.0.0.7", 0),
        '--peer "10.0.0.7": expected host:port, such as 10.0.0.1:4006, or a comma-separated list of ' +
          "quic=, tcp= and grpc= with host:port each",
      ],
      [
        pieceOf("10.0.0.7:0", 0),
        '--peer "10.0.0.7:0": expected host:port, such as 10.0.0.1:4006, or a comma-separated list of ' +
          "quic=, tcp= and grpc= with host:port each",
      ],
      [pieceOf(peer, 4294967296), "--number 4294967296: expected an integer from 0 to 4294967295"],
      [pieceOf(peer, 0, "--range", "9-3"), '--range "9-3": expected A-B or A-, such as 0-1023'],
      [
        pieceOf(peer, 0, "--stall-timeout", "30"),
        '--stall-timeout "30": expected a duration from 1ms to 30d with its unit, such as 360s or 1m30s',
      ],
      [
        pieceOf(peer, 0, "--protocol", "quic", "--fingerprint", "AB:CD"),
        '--fingerprint "AB:CD": expected 64 hex digits, with colons or without',
      ],
      [
        ["get", "--peer", peer, "--task-id", "short"],
        '--task-id "short": expected 64 printable ASCII characters, such as hex digits',
      ],
      [getFrom(peer, "--concurrency", "0"), "--concurrency 0: expected an integer from 1 to 1024"],
      [
        getFrom(peer, "--piece-length", "4MiB"),
        "--piece-length: expected together with --content-length, got --piece-length alone",
      ],
      [
        getFrom(peer, "--content-length", "1GB", "--piece-length", "65MiB"),
        "--piece-length: expected 1 to 67108864 bytes, got 68157440",
      ],
      [
        getFrom("10.0.0.7:4005,10.0.0.8:4005"),
        '--peer "10.0.0.7:4005,10.0.0.8:4005": expected host:port, such as 10.0.0.1:4006, or a ' +
          "comma-separated list of api=, quic=, tcp= and grpc= with host:port each",
      ],
      [
        getFrom(peer, "--limit", "fast"),
        '--limit "fast": expected a rate with its unit, such as 50MB/s, 50MiB/s or 50B/s',
      ],
      [getFrom(peer, "--range", "5"), '--range "5": expected A-B, A- or -N, such as 0-1023'],
      [getFrom(peer, "--range", "-0"), '--range "-0": expected a range of at least one byte'],
      [
        getFrom(peer, "--range", "0-99999999999999999999"),
        '--range "0-99999999999999999999": expected positions of at most 15 digits; omit the end of a range to the end',
      ],
      [
        getFrom(peer, "--content-length", "10", "--range", "10-"),
        "--range: expected a range within 0-9 of the task, got 10-",
      ],
      [
        getFrom(peer, "--range", "-5"),
        "--range: expected A-B or A- without --content-length, got -5",
      ],
      [
        getFrom(peer, "--content-length", "10", "--range", "5-10"),
        "--range: expected a range within 0-9 of the task, got 5-10",
      ],
      [
        getFrom(peer, "--range", "0-5", "--digest", `sha256:${sha256}`),
        "--digest, --range: expected one of them, got both (--range 0-5); a range cannot be checked against " +
          "the digest of the whole task",
      ],
      [
        ["stat", "--peer", peer, "--task-id", taskId, "--insecure", "--ca", "x"],
        "--ca, --insecure: expected --insecure or certificate checks, got both",
      ],
      [
        ["stat", "--peer", "10.0.0.7", "--task-id", taskId],
        '--peer "10.0.0.7": expected host:port, such as 10.0.0.1:4006 or [::1]:4006',
      ],
      [["id", "url", "no-url"], 'task URL: expected an absolute URL, got "no-url"'],
      [["id", "host", "--ip", "here"], '--ip "here": expected an IPv4 or IPv6 address'],
      [
        getFrom(peer, "--digest", "md5:00"),
        '--digest "md5:00": expected crc32: and a decimal number, sha256: and 64 hex digits, or sha512: and 128 hex digits',
      ],
      [
        getFrom(peer, "--content-length", "big"),
        '--content-length "big": expected a size, such as 1048576, 4MiB or 50MB',
      ],
      [["serve", "x", "--tcp-port", "65536"], "--tcp-port 65536: expected a port from 0 to 65535"],
      [["serve", "x", "--quic-port", "any"], '--quic-port "any": expected a port from 0 to 65535'],
      [
        ["serve", "x", "--upload-rate", "fast"],
        '--upload-rate "fast": expected a rate with its unit, such as 50MB/s, 50MiB/s or 50B/s',
      ],
      [["serve", "x", "y", "--task-id", taskId], "--task-id: expected one file, got 2"],
      [
        ["serve", "x", "--no-quic", "--no-tcp", "--no-grpc"],
        "--no-quic, --no-tcp, --no-grpc: expected at most two of them, got all three",
      ],
      [
        ["serve", "x", "--cert", "a.pem"],
        "--cert, --key: expected both or neither, got only --cert",
      ],
      [
        ["serve", "x", "--cert", "a.pem", "--key", "b.pem", "--no-quic"],
        "--cert, --key: expected QUIC or --grpc-tls, got neither; other protocols have no TLS",
      ],
      [
        ["serve", "x", "--identity", "a.pem", "--no-quic"],
        "--identity: expected QUIC or --grpc-tls, got neither; other protocols have no TLS",
      ],
      [
        ["serve", "x", "--cert", "a.pem", "--key", "b.pem", "--identity", "c.pem", "--rotate"],
        "--identity, --rotate: expected a self-signed certificate, got --cert",
      ],
      [
        ["serve", "x", "--no-identity", "--rotate"],
        "--rotate: expected a kept certificate, got --no-identity, which creates one for each run",
      ],
      [
        ["serve", "x", "--no-grpc", "--grpc-tls"],
        "--grpc-tls: expected gRPC enabled, got --no-grpc",
      ],
      [
        ["serve", "x", "--piece-length", "65MiB"],
        "--piece-length: expected 1 to 67108864 bytes, got 68157440",
      ],
    ];
    for (const [args, message] of cases) {
      const { code, out, err } = await run(failing("Internal"), args);
      assert.equal(err, `vortex-peer: InvalidArgument: ${message}\n`);
      assert.deepEqual([code, out.text], [2, ""]);
    }
  });

  it("exits with the code of the failure's kind", async () => {
    const expected: Record<string, number> = {
      misuse: 2,
      remote: 3,
      transport: 4,
      timeout: 5,
      peer: 6,
      local: 7,
      aborted: 130,
    };
    for (const name of errorCodes) {
      const { code, err } = await run(failing(name), pieceOf(peers.tcp, 0));
      const { kind } = new VortexError(name, "");
      assert.equal(code, name === "Internal" ? 1 : expected[kind], name);
      assert.equal(err, `vortex-peer: ${name}: as the test wants it\n`);
    }
    const broken = faceWith(() => Promise.reject(new TypeError("a fault")));
    const { code, err } = await run(broken, pieceOf(peers.tcp, 0));
    assert.deepEqual([code, err], [1, "vortex-peer: Internal: a fault\n"]);
  });

  it("prints a peer's message on one line, without control characters", async () => {
    const { err } = await run(
      failing("NotFound", "no\r\nsuch\u001b[2J\u0085piece\u2028\u202e!"),
      pieceOf(peers.tcp, 0),
    );
    assert.equal(err, "vortex-peer: NotFound: no such [2J piece !\n");
  });

  it("prints a stack trace without control characters from a peer's message", async () => {
    const words = "no\u001b[2J\u009b2J\u202esuch\u0007 piece";
    const sdk = faceWith(() =>
      Promise.reject(new VortexError("NotFound", words, { cause: new Error(words) })),
    );
    const { err } = await run(sdk, pieceOf(peers.tcp, 0, "--debug"));
    assert.match(err, /\n(.*\n)* {4}at /);
    assert.match(err, /cause/);
    assert.doesNotMatch(err, /[^\P{Cc}\n]|\p{Bidi_Control}/u);
  });

  it("prints a stack trace only with --debug or VORTEX_PEER_DEBUG=1", async () => {
    const sdk = failing("NotFound");
    assert.ok(!(await run(sdk, pieceOf(peers.tcp, 0))).err.includes("    at "));
    assert.match(
      (await run(sdk, pieceOf(peers.tcp, 0, "--debug"))).err,
      /^vortex-peer: NotFound: .*\n(.*\n)* {4}at /,
    );
    assert.match(
      (await run(sdk, pieceOf(peers.tcp, 0), { env: { VORTEX_PEER_DEBUG: "1" } })).err,
      / {4}at /,
    );
  });
});

describe("vortex-peer, failure reports", () => {
  it("prints a failure as one object on standard output with --json, for every command", async () => {
    const peer = peers.grpc;
    for (const [args, message] of [
      [["stat", "--peer", peer, "--json"], /required option '--task-id <id>' not specified/],
      [["serve", "--json"], /missing required argument 'file'/],
      [["serve", "/nowhere/file", "--json", "--no-quic"], /cannot open \/nowhere\/file/],
      [["id", "content", "/nowhere/file", "--json"], /cannot read \/nowhere\/file/],
      [["config", "--limit", "fast", "--json"], /^--limit "fast": expected a rate/],
      [["piece", "--json"], /unknown option '--json'|required option/],
    ] as const) {
      const { code, out, err } = await run(failing("NotFound"), args);
      const printed = args[0] === "piece" ? err : out.text;
      const { type, exitCode, message: reported, cause: _, ...rest } = JSON.parse(printed);
      assert.deepEqual([type, exitCode], ["failed", code]);
      assert.deepEqual(Object.keys(rest), ["name", "code", "kind"]);
      assert.match(reported, message);
      assert.equal(`${out.text}${err}`, printed);
      assert.ok(code === 2 || code === 7);
    }
    const words = await run(failing("NotFound"), ["config", "--limit", "fast"]);
    assert.equal(
      words.err,
      'vortex-peer: InvalidArgument: --limit "fast": expected a rate with its unit, such as 50MB/s, 50MiB/s or 50B/s\n',
    );
    const stack = await run(failing("NotFound"), [
      "config",
      "--limit",
      "fast",
      "--json",
      "--debug",
    ]);
    assert.match(stack.err, /^VortexError: --limit/);
    assert.equal(JSON.parse(stack.out.text).type, "failed");
  });

  it("reports a failed write of the help or version", async () => {
    for (const args of [["--help"], ["get", "--help"], ["--version"]]) {
      const stdout = new Writable({
        write: (_chunk, _encoding, done) =>
          done(Object.assign(new Error("write ENOSPC"), { code: "ENOSPC" })),
      });
      const { code, err } = await run(failing("NotFound"), args, { stdout });
      assert.deepEqual(
        [code, err],
        [7, "vortex-peer: StorageFailed: cannot write standard output: no space left on device\n"],
      );
    }
  });
});

describe("vortex-peer piece", () => {
  it("writes a piece, or a range of it, to standard output, over each protocol", () =>
    withPeer(async (sdk) => {
      for (const protocol of ["quic", "tcp", "grpc"] as const) {
        const over = ["--protocol", protocol];
        const whole = await run(sdk, pieceOf(peers[protocol], 3, ...over));
        assert.deepEqual([whole.code, whole.err], [0, ""]);
        assert.deepEqual(whole.out.bytes, content.slice(3000, 4000));
        const ranges: [range: string, bytes: Uint8Array][] = [
          ["10-19", content.slice(3010, 3020)],
          ["0-0", content.slice(3000, 3001)],
          ["990-", content.slice(3990, 4000)],
        ];
        for (const [range, bytes] of ranges) {
          const part = await run(sdk, pieceOf(peers[protocol], 3, ...over, "--range", range));
          assert.deepEqual([part.code, part.out.bytes], [0, bytes], range);
        }
      }
      const outside = await run(sdk, pieceOf(peers.tcp, 3, "--range", "0-1000"));
      assert.deepEqual([outside.code, outside.out.bytes.length], [2, 0]);
      assert.equal(
        outside.err,
        "vortex-peer: InvalidArgument: --range: expected a range within 0-999 of the piece, got 0-1000\n",
      );
      const missing = await run(sdk, pieceOf(peers.tcp, 10));
      assert.equal(missing.code, 3);
      assert.match(missing.err, /^vortex-peer: NotFound: .*\n$/);
      assert.equal((await run(sdk, pieceOf(peers.tcp, 3, "--kind", "cache"))).code, 3);
    }));

  it("creates the file only when the content is verified, and leaves nothing when it is wrong", () =>
    inTempDir(async (dir) => {
      const target = join(dir, "piece");
      await withPeer(async (sdk) => {
        assert.equal((await run(sdk, pieceOf(peers.tcp, 9, "-o", target))).code, 0);
      });
      assert.deepEqual(new Uint8Array(await readFile(target)), content.slice(9000));

      const store = taskStore();
      const lying: PieceStore = {
        getTask: (id) => store.getTask(id),
        getPiece: async (request) => {
          const piece = await store.getPiece(request);
          return piece && { ...piece, metadata: { ...piece.metadata, digest: "crc32:1" } };
        },
      };
      await withPeer(async (sdk) => {
        const wrong = await run(sdk, pieceOf(peers.tcp, 0, "-o", target));
        assert.equal(wrong.code, 6);
        assert.match(wrong.err, /^vortex-peer: DigestMismatch: .*\n$/);
        const piped = await run(sdk, pieceOf(peers.tcp, 0));
        assert.equal(piped.code, 6);
        assert.ok(piped.out.bytes.length < 1000, "the end of a wrong piece is not written");
      }, lying);
      assert.deepEqual(
        new Uint8Array(await readFile(target)),
        content.slice(9000),
        "the old file is untouched",
      );
      assert.deepEqual(await readdir(dir), ["piece"]);
    }));

  it("writes through a symbolic link, and to a device", () =>
    inTempDir(async (dir) => {
      const [file, link] = [join(dir, "file"), join(dir, "link")];
      await writeFile(file, "old");
      await symlink(file, link);
      await withPeer(async (sdk) => {
        assert.equal((await run(sdk, pieceOf(peers.tcp, 1, "-o", link))).code, 0);
        await rm(file);
        assert.equal((await run(sdk, pieceOf(peers.tcp, 1, "-o", link))).code, 0);
        assert.equal((await run(sdk, pieceOf(peers.tcp, 1, "-o", "/dev/null"))).code, 0);
      });
      assert.equal(await readlink(link), file);
      assert.deepEqual(new Uint8Array(await readFile(file)), content.slice(1000, 2000));
      assert.deepEqual((await readdir(dir)).sort(), ["file", "link"]);
    }));

  it("rejects an unwritable target before it contacts a peer", () =>
    inTempDir(async (dir) => {
      await mkdir(join(dir, "sub"));
      const sdk = faceWith(() => assert.fail("a peer was asked"));
      const cases: [target: string, message: RegExp][] = [
        [join(dir, "sub"), /: expected a file, got a directory/],
        [join(dir, "new/"), /: expected a file, got a directory/],
        [join(dir, "nowhere", "file"), /cannot write \S+: no such file or directory/],
      ];
      for (const [target, message] of cases) {
        const { code, err } = await run(sdk, pieceOf(peers.tcp, 0, "-o", target));
        assert.equal(code, 7);
        assert.match(err, /^vortex-peer: StorageFailed: .*\n$/);
        assert.match(err, message);
      }
      const terminal = await run(sdk, pieceOf(peers.tcp, 0), { isTTY: true });
      assert.deepEqual([terminal.code, terminal.out.text], [2, ""]);
      assert.match(terminal.err, /got a terminal; give -o FILE or --force/);
      assert.deepEqual(await readdir(dir), ["sub"]);
    }));

  it("reports a full disk", { skip: existsSync("/dev/full") ? false : "needs /dev/full" }, () =>
    withPeer(async (sdk) => {
      const { code, err } = await run(sdk, pieceOf(peers.tcp, 0, "-o", "/dev/full"));
      assert.equal(code, 7);
      assert.match(
        err,
        /^vortex-peer: StorageFailed: cannot write \/dev\/full: no space left on device\n$/,
      );
    }),
  );

  it("writes to a terminal with --force", () =>
    withPeer(async (sdk) => {
      const { code, out } = await run(sdk, pieceOf(peers.tcp, 0, "--force"), { isTTY: true });
      assert.deepEqual([code, out.bytes], [0, content.slice(0, 1000)]);
    }));

  it("exits with 141 and prints nothing when the reader closes the pipe", () =>
    withPeer(async (sdk) => {
      const { code, err } = await run(sdk, pieceOf(peers.tcp, 0), { stdout: brokenPipe() });
      assert.deepEqual([code, err], [141, ""]);
    }));

  it("passes its options to the downloader", () =>
    inTempDir(async (dir) => {
      const ca = join(dir, "ca.pem");
      await writeFile(ca, "-----BEGIN CERTIFICATE-----");
      const pin = "0123456789abcdef".repeat(4);
      await withPeer(async (sdk) => {
        const quic = ["--protocol", "quic"];
        await run(
          sdk,
          pieceOf(peers.quic, 0, ...quic, "--ca", ca, "--fingerprint", pin, "--fingerprint", pin),
        );
        await run(sdk, pieceOf(peers.quic, 0, ...quic, "--insecure"));
        const grpc = ["--protocol", "grpc"];
        await run(sdk, pieceOf(peers.grpc, 0, ...grpc, "--fingerprint", pin));
        await run(sdk, pieceOf(peers.grpc, 0, ...grpc, "--tls"));
        await run(sdk, pieceOf(peers.grpc, 0, ...grpc));
        const timeouts = [
          "--connect-timeout",
          "1s",
          "--piece-timeout",
          "2m",
          "--stall-timeout",
          "300ms",
          "--unverified-pieces",
          "refuse",
        ];
        await run(sdk, pieceOf(peers.tcp, 0, ...timeouts));
        const usual = downloaderOptions(parseConfig({}));
        const pinned = { fingerprints: [pin] };
        assert.deepEqual(sdk.made, [
          {
            ...usual,
            protocol: "quic",
            tls: { ca: "-----BEGIN CERTIFICATE-----", fingerprints: [pin, pin] },
          },
          { ...usual, protocol: "quic", tls: { verify: false } },
          { ...usual, protocol: "grpc", tls: pinned, apiTls: pinned },
          { ...usual, protocol: "grpc", tls: {}, apiTls: {} },
          { ...usual, protocol: "grpc" },
          {
            ...usual,
            connectTimeout: 1_000,
            pieceTimeout: 120_000,
            stallTimeout: 300,
            unverifiedPieces: "refuse",
          },
        ]);
        // The defaults in the help are those of the library.
        const { connectTimeout, pieceTimeout, stallTimeout, concurrentPieceCount } =
          downloaderSettings({}, portableRuntime);
        assert.deepEqual(
          { connectTimeout, stallTimeout },
          { connectTimeout: 2_000, stallTimeout: 30_000 },
        );
        assert.deepEqual(
          { pieceTimeout, concurrentPieceCount },
          { pieceTimeout: 360_000, concurrentPieceCount: 8 },
        );
      });
    }));

  it("rejects certificate options that would have no effect", async () => {
    const sdk = faceWith(() => assert.fail("a peer was asked"));
    const pin = "0123456789abcdef".repeat(4);
    const cases: [args: string[], message: string][] = [
      [
        ["--fingerprint", pin],
        "--fingerprint: expected a protocol with TLS, such as quic or grpc, got tcp; set --protocol",
      ],
      [
        ["--tls", "--insecure"],
        "--tls, --insecure: expected a protocol with TLS, such as quic or grpc, got tcp; set --protocol",
      ],
      [
        ["--insecure", "--fingerprint", pin, "--protocol", "quic"],
        "--fingerprint, --insecure: expected --insecure or certificate checks, got both",
      ],
    ];
    for (const [args, message] of cases) {
      const { code, err } = await run(sdk, pieceOf(peers.tcp, 0, ...args));
      assert.deepEqual([code, err], [2, `vortex-peer: InvalidArgument: ${message}\n`]);
    }
    const missing = await run(
      sdk,
      pieceOf(peers.quic, 0, "--protocol", "quic", "--ca", "/nowhere/ca.pem"),
    );
    assert.equal(missing.code, 7);
  });
});

describe("vortex-peer serve", () => {
  it("prints one line of JSON when ready, serves, and exits with 0 when interrupted", () =>
    inTempDir(async (dir) => {
      const [one, two] = [join(dir, "one"), join(dir, "two")];
      await writeFile(one, content);
      await writeFile(two, "");
      const sdk = new MemorySdk();
      const ports = ["--quic-port", "1", "--grpc-port", "3", "--no-tcp", "--host", "10.0.0.9"];
      const serving = await serve(sdk, [one, two, "--piece-length", "3000", "--json", ...ports]);
      const [line = "", ...rest] = serving.out.text.split("\n");
      assert.deepEqual(rest, [""]);
      const empty = createHash("sha256").digest("hex");
      assert.deepEqual(JSON.parse(line), {
        addresses: { quic: "10.0.0.9:1", grpc: "10.0.0.9:3" },
        fingerprint: "AB:".repeat(31).concat("AB"),
        tasks: [
          {
            paths: [one],
            taskId: sha256,
            contentLength: 10_000,
            pieceLength: 3000,
            pieceCount: 4,
            digest: `sha256:${sha256}`,
          },
          {
            paths: [two],
            taskId: empty,
            contentLength: 0,
            pieceLength: 3000,
            pieceCount: 0,
            digest: `sha256:${empty}`,
          },
        ],
      });
      const args = ["get", "--peer", "10.0.0.9:3", "--protocol", "grpc", "--task-id", sha256];
      assert.deepEqual((await run(sdk, args)).out.bytes, content);
      assert.deepEqual(await serving.end(), { code: 0, err: "" });
      const late = [...args, "--content-length", "10000", "--patience", "0"];
      assert.equal((await run(sdk, late)).code, 4);
    }));

  it("serves files of the same content as one task, and lists all of them", () =>
    inTempDir(async (dir) => {
      const [one, two, other] = [join(dir, "one"), join(dir, "two"), join(dir, "other")];
      for (const path of [one, two]) await writeFile(path, content);
      await writeFile(other, "other");
      const json = await serve(new MemorySdk(), [one, other, two, one, "--json"]);
      const { tasks } = JSON.parse(json.out.text);
      assert.deepEqual(
        tasks.map(({ paths }: { paths: string[] }) => paths),
        [[one, two], [other]],
      );
      assert.equal(tasks[0].taskId, sha256);
      assert.deepEqual(await json.end(), { code: 0, err: "" });
      const text = await serve(new MemorySdk(), [one, two]);
      const lines = text.out.text.split("\n");
      assert.equal(lines[0], `task ${sha256}  ${one}, ${two}`);
      assert.equal(lines.filter((line) => line.startsWith("  vortex-peer get ")).length, 1);
      assert.deepEqual(await text.end(), { code: 0, err: "" });
    }));

  it("prints a command that fetches the served file", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "what's in it.bin");
      await writeFile(path, content);
      const sdk = new MemorySdk();
      const serving = await serve(sdk, [path, "--task-id", taskId, "--piece-length", "2kB"]);
      const text = serving.out.text;
      for (const line of [
        `task ${taskId}  ${path}`,
        `  10000 bytes, 5 pieces, sha256:${sha256}`,
        "quic 0.0.0.0:4006",
        "tcp  0.0.0.0:4005",
        "grpc 0.0.0.0:4000",
        `certificate ${"AB:".repeat(31)}AB`,
      ]) {
        assert.ok(text.includes(`${line}\n`), line);
      }
      const command = text.split("\n").find((line) => line.startsWith("  vortex-peer get "));
      assert.ok(command !== undefined);
      assert.ok(command.endsWith(` -o 'what'\\''s in it.bin'`), command);
      const [, ...args] = command.slice(2, command.indexOf(" -o ")).split(" ");
      const fetched = await run(sdk, args);
      assert.deepEqual([fetched.code, fetched.out.bytes], [0, content]);
      assert.deepEqual(sdk.made.at(-1)?.tls, { fingerprints: [`${"AB:".repeat(31)}AB`] });
      assert.equal((await serving.end()).code, 0);
    }));

  it("passes its limits and certificate to the server, and reports errors while it serves", () =>
    inTempDir(async (dir) => {
      for (const name of ["file", "cert", "key"]) await writeFile(join(dir, name), name);
      const sdk = new MemorySdk();
      const started: Parameters<Sdk["startServer"]>[0][] = [];
      const recording: Sdk = {
        createDownloader: (options) => sdk.createDownloader(options),
        createDirectory: (options) => sdk.createDirectory(options),
        startServer: (options) => {
          started.push(options);
          return sdk.startServer(options);
        },
      };
      const files = ["--cert", join(dir, "cert"), "--key", join(dir, "key")];
      const limits = ["--upload-rate", "50MB/s", "--max-connections", "12"];
      const serving = await serve(recording, [join(dir, "file"), ...limits, ...files, "--no-grpc"]);
      const [options] = started;
      assert.ok(options !== undefined);
      const { store: _store, onError, ...rest } = options;
      const { grpc: _grpc, ...usual } = serverOptions(parseConfig({}));
      assert.deepEqual(rest, {
        ...usual,
        quic: { port: 4006 },
        tcp: { port: 4005 },
        tls: { cert: "cert", key: "key" },
        uploadRateLimit: 50_000_000,
        maxConnections: 12,
      });
      onError?.(new VortexError("StorageFailed", "the disk\nis gone"));
      assert.deepEqual(await serving.end(), {
        code: 0,
        err: "vortex-peer: StorageFailed: the disk is gone\n",
      });
    }));

  it("changes its certificate at SIGHUP and with --rotate, and prints the new fingerprint", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "file");
      await writeFile(path, content);
      const print = (first: string): string => `${first}${":AB".repeat(31)}`;
      const serving = await serve(new MemorySdk(), [path, "--rotate", "--json"]);
      assert.equal(JSON.parse(serving.out.text).fingerprint, print("AC"));
      await serving.hangUp();
      assert.deepEqual(JSON.parse(serving.out.text.split("\n")[1] ?? ""), {
        fingerprint: print("AD"),
      });
      assert.deepEqual(await serving.end(), { code: 0, err: "" });
      assert.equal(serving.hangups.size, 0);

      const text = await serve(new MemorySdk(), [path]);
      await text.hangUp();
      assert.ok(text.out.text.endsWith(`\ncertificate ${print("AC")}\n`));
      await text.end();
    }));

  it("reloads --cert and --key at SIGHUP, and keeps the old certificate when they are invalid", () =>
    inTempDir(async (dir) => {
      for (const name of ["file", "cert", "key"]) await writeFile(join(dir, name), name);
      const certificate = ["--cert", join(dir, "cert"), "--key", join(dir, "key")];
      const serving = await serve(new MemorySdk(), [join(dir, "file"), "--json", ...certificate]);
      await serving.hangUp();
      assert.match(serving.out.text, /"AC:/);
      await writeFile(join(dir, "cert"), "none");
      await serving.hangUp();
      await rm(join(dir, "key"));
      await serving.hangUp();
      const { code, err } = await serving.end();
      assert.equal(code, 0);
      assert.match(
        err,
        /^vortex-peer: InvalidArgument: no certificate\nvortex-peer: StorageFailed: cannot read \S*key: .*\n$/,
      );
    }));

  it("does not listen for SIGHUP without a certificate", () =>
    inTempDir(async (dir) => {
      await writeFile(join(dir, "file"), content);
      const serving = await serve(new MemorySdk(), [join(dir, "file"), "--no-quic"]);
      assert.equal(serving.hangups.size, 0);
      await serving.end();
    }));

  it("serves gRPC over TLS with --grpc-tls, and prints a command that pins the certificate", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "file");
      await writeFile(path, content);
      const sdk = new MemorySdk();
      const args = [path, "--grpc-tls", "--no-quic", "--no-tcp", "--piece-length", "1kB"];
      const serving = await serve(sdk, args);
      const command =
        serving.out.text.split("\n").find((line) => line.startsWith("  vortex-peer get ")) ?? "";
      const [, ...words] = command.trim().slice(0, command.trim().indexOf(" -o ")).split(" ");
      assert.deepEqual((await run(sdk, words)).out.bytes, content);
      assert.deepEqual(sdk.made.at(-1)?.tls, { fingerprints: [`${"AB:".repeat(31)}AB`] });
      await serving.end();
    }));

  it("serves without QUIC where it is unavailable, says why once, and lists only true addresses", () =>
    inTempDir(async (dir) => {
      const path = join(dir, "file");
      await writeFile(path, content);
      const missing: QuicBinding = () =>
        Promise.reject(new VortexError("Unavailable", "no QUIC here"));
      const { startServer } = runtimeApi(
        withFallback([["its own", missing]], tcpTransport, assert.fail),
        assert.fail,
      );
      const memory = new MemorySdk();
      const sdk: Sdk = {
        createDownloader: (options) => memory.createDownloader(options),
        createDirectory: (options) => memory.createDirectory(options),
        startServer,
      };
      const warning = "vortex-peer: serving without QUIC: no QUIC here\n";
      const local = ["--no-identity", "--host", "127.0.0.1"];
      const ports = [...local, "--tcp-port", "0", "--grpc-port", "0"];
      const serving = await serve(sdk, [path, "--json", ...ports], warning);
      const { addresses, fingerprint } = JSON.parse(serving.out.text);
      assert.deepEqual([Object.keys(addresses), fingerprint], [["tcp", "grpc"], undefined]);
      assert.deepEqual(await serving.end(), { code: 0, err: warning });
      const text = await serve(sdk, [path, ...ports], warning);
      assert.match(text.out.text, /^tcp {2}127\.0\.0\.1:\d+\ngrpc 127/m);
      assert.doesNotMatch(text.out.text, /quic/);
      assert.deepEqual(await text.end(), { code: 0, err: warning });
      const { cert, key } = await selfSigned();
      const [certFile, keyFile] = [join(dir, "cert.pem"), join(dir, "key.pem")];
      await writeFile(certFile, cert);
      await writeFile(keyFile, key);
      for (const asked of [
        ["--quic-port", "0", ...ports],
        ["--no-tcp", "--no-grpc", ...local],
        ["--cert", certFile, "--key", keyFile, "--tcp-port", "0", "--no-grpc"],
      ]) {
        const { code, err, out } = await run(sdk, ["serve", path, ...asked]);
        const failed = "vortex-peer: Unavailable: no QUIC here\n";
        assert.deepEqual([code, err, out.text], [2, failed, ""]);
      }
    }));

  it("reports a missing file and an address in use", () =>
    inTempDir(async (dir) => {
      const missing = await run(new MemorySdk(), ["serve", join(dir, "missing")]);
      assert.equal(missing.code, 7);
      assert.match(missing.err, /^vortex-peer: StorageFailed: .*: no such file or directory\n$/);
      await writeFile(join(dir, "file"), "");
      const sdk = new MemorySdk();
      const serving = await serve(sdk, [join(dir, "file")]);
      const second = await run(sdk, ["serve", join(dir, "file")]);
      assert.equal(second.code, 4);
      assert.match(second.err, /^vortex-peer: AddressInUse: .*\n$/);
      await serving.end();
    }));

  /** Starts `serve`. Resolves when its startup output is complete and equals `stderr` on stderr. */
  async function serve(sdk: Sdk, args: string[], stderr = "") {
    const controller = new AbortController();
    const [out, err] = [new Sink(), new Sink()];
    const hangups = new Set<() => void>();
    let ended = false;
    const done = runCli(["serve", ...args], {
      stdout: out,
      stderr: err,
      env,
      signal: controller.signal,
      onHangup: (listener) => {
        hangups.add(listener);
        return () => hangups.delete(listener);
      },
      loadSdk: async () => sdk,
    }).finally(() => {
      ended = true;
    });
    const ready = args.includes("--json") ? "}\n" : " -o ";
    while (!out.text.includes(ready) && !ended)
      await new Promise((resolve) => setTimeout(resolve, 1));
    assert.equal(err.text, stderr);
    const end = async () => {
      controller.abort(new VortexError("Aborted", "interrupted"));
      return { code: await done, err: err.text };
    };
    /** Sends SIGHUP, and waits for new output on stdout or stderr. */
    const hangUp = async (): Promise<void> => {
      const before = out.text.length + err.text.length;
      assert.equal(hangups.size, 1);
      for (const listener of hangups) listener();
      while (out.text.length + err.text.length === before)
        await new Promise((resolve) => setTimeout(resolve, 1));
    };
    return { out, err, hangups, hangUp, end };
  }
});

describe("the certificate of vortex-peer serve", () => {
  it("is kept in the user's state folder by default", () => {
    const cases: [env: Record<string, string>, platform: string, path: string | undefined][] = [
      [{ XDG_STATE_HOME: "/state", HOME: "/home/me" }, "linux", "/state/vortex-peer/identity.pem"],
      [
        { XDG_STATE_HOME: "relative", HOME: "/home/me" },
        "linux",
        "/home/me/.local/state/vortex-peer/identity.pem",
      ],
      [
        { XDG_STATE_HOME: "", HOME: "/home/me" },
        "linux",
        "/home/me/.local/state/vortex-peer/identity.pem",
      ],
      [
        { HOME: "/Users/me" },
        "darwin",
        "/Users/me/Library/Application Support/vortex-peer/identity.pem",
      ],
      [
        { XDG_STATE_HOME: "/state", LOCALAPPDATA: "/local" },
        "win32",
        "/local/vortex-peer/identity.pem",
      ],
      [{}, "linux", undefined],
      [{ HOME: "" }, "darwin", undefined],
      [{ HOME: "/home/me" }, "win32", undefined],
    ];
    for (const [vars, platform, path] of cases)
      assert.equal(defaultIdentityFile(vars, platform), path);
  });

  it("is kept in the default file, in the file of --identity, or not at all", () =>
    inTempDir(async (dir) => {
      const options = { rotate: false };
      const onError = (error: VortexError): void => assert.fail(error);
      const kept = await identityTls(options, { XDG_STATE_HOME: dir }, onError);
      const identity = await serverIdentity(kept);
      assert.deepEqual(
        await fileIdentityStore(join(dir, "vortex-peer", "identity.pem")).load(),
        identity,
      );
      const file = join(dir, "mine.pem");
      const mine = await serverIdentity(
        await identityTls({ ...options, identity: file }, {}, onError),
      );
      assert.deepEqual(await fileIdentityStore(file).load(), mine);
      assert.deepEqual(
        await identityTls({ ...options, identity: false }, { XDG_STATE_HOME: dir }, onError),
        {},
      );
    }));

  it("is used for one run only, with a warning, when the default file is unset or unwritable", () =>
    inTempDir(async (dir) => {
      const errors: VortexError[] = [];
      const onError = (error: VortexError): unknown => errors.push(error);
      assert.deepEqual(await identityTls({ rotate: false }, {}, onError), {});
      await writeFile(join(dir, "file"), "");
      const env = { XDG_STATE_HOME: join(dir, "file") };
      const store = (await identityTls({ rotate: false }, env, onError)).identityStore;
      const made = await selfSigned();
      await store?.save(made);
      assert.deepEqual(await store?.saveFirst?.(made), made);
      assert.deepEqual(
        errors.map(({ code }) => code),
        ["StorageFailed", "StorageFailed", "StorageFailed"],
      );
      for (const { message } of errors) assert.match(message, /used for this run only/);
      const named = await identityTls(
        { rotate: false, identity: join(dir, "file", "x.pem") },
        {},
        onError,
      );
      await assertRejects(
        named.identityStore?.save(await selfSigned()) ?? Promise.resolve(),
        "StorageFailed",
      );
    }));
});

describe("addresses and ranges of a task", () => {
  it("an address is a peer, its Dragonfly API, or both", () => {
    const cases: [text: string, parsed: object][] = [
      ["10.0.0.7:4005", { addr: "10.0.0.7:4005" }],
      ["api=10.0.0.7:4000", { apiAddr: "10.0.0.7:4000" }],
      ["10.0.0.7:4005,api=10.0.0.7:4000", { addr: "10.0.0.7:4005", apiAddr: "10.0.0.7:4000" }],
      ["api=[::1]:1,[::1]:2", { addr: "[::1]:2", apiAddr: "[::1]:1" }],
      ["quic=a:1,tcp=a:2,grpc=a:3", { addr: { quic: "a:1", tcp: "a:2", grpc: "a:3" } }],
      ["tcp=a:2,api=a:3", { addr: { tcp: "a:2" }, apiAddr: "a:3" }],
    ];
    for (const [text, parsed] of cases) assert.deepEqual(parseOptions(parent, text), parsed, text);
    for (const text of [
      "",
      "a",
      "a:0",
      "a:1,",
      ",a:1",
      "a:1,b:1",
      "api=a:1,api=b:1",
      "api=",
      "udp=a:1",
      "a:1,api=b:1,c:1",
      "a:1,tcp=b:1",
      "tcp=a:1,tcp=b:1",
    ]) {
      assert.throws(() => parseOptions(parent, text), { code: "InvalidArgument" }, text);
    }
  });

  it("a range is inclusive, open-ended, or counted from the end", () => {
    assert.deepEqual(parseOptions(taskRange, "0-0"), { start: 0, end: 1 });
    assert.deepEqual(parseOptions(taskRange, "5-"), { start: 5 });
    assert.deepEqual(parseOptions(taskRange, "-5"), { fromEnd: 5 });
    for (const text of ["", "-", "5", "6-5", "a-b", "-5-", "1-2-3", " 1-2", "+1-2", "1-2,4-5"]) {
      assert.throws(() => parseOptions(taskRange, text), { code: "InvalidArgument" }, text);
    }
  });
});

describe("sizes and rates", () => {
  it("accept numbers with units of powers of 1000 or 1024", () => {
    const cases: [text: string, bytes: number][] = [
      ["0", 0],
      ["1048576", 1048576],
      ["50MB", 50_000_000],
      ["4MiB", 4_194_304],
      ["1.5 GB", 1_500_000_000],
      ["64kib", 65_536],
      ["7B", 7],
    ];
    for (const [text, bytes] of cases) assert.equal(parseOptions(size, text), bytes, text);
    assert.equal(parseOptions(rate, "50MB/s"), 50_000_000);
    assert.equal(parseOptions(rate, "50MB"), 50_000_000);
  });

  it("reject everything else", () => {
    for (const text of [
      "",
      "MB",
      "-1",
      "1e3",
      "4 M iB",
      "50MB/s",
      "1X",
      "99999999TB",
      "1constructor",
      "0x10",
      "1,5MB",
    ]) {
      assert.throws(() => parseOptions(size, text), { code: "InvalidArgument" }, text);
    }
    for (const text of ["0", "0MB/s", "50MB/h", "/s"])
      assert.throws(() => parseOptions(rate, text), { code: "InvalidArgument" });
  });

  it("refuse a rate without a unit in every option, and offer its number with a unit", async () => {
    const message = (given: string): string =>
      `"${given}": expected a rate with its unit, such as 20MB/s, 20MiB/s or 20B/s`;
    const cases: [option: string, args: string[]][] = [
      ["--limit", getFrom(peers.tcp)],
      ["--limit", ["config"]],
      ["--upload-rate", ["serve", "x"]],
      ["--upload-rate", ["config"]],
    ];
    for (const [option, args] of cases) {
      for (const given of ["20", "20/s"]) {
        const { code, err } = await run(failing("NotFound"), [...args, option, given]);
        const failed = `vortex-peer: InvalidArgument: ${option} ${message(given)}\n`;
        assert.deepEqual([code, err], [2, failed]);
      }
    }
    assert.equal(parseOptions(rate, "20B/s"), 20);
    assert.equal(parseOptions(rate, "20MiB"), 20 * 2 ** 20);
  });
});
