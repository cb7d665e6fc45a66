import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, readlink, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Writable } from "node:stream";
import { describe, it } from "node:test";
import { interruption } from "../../../cli/exit-codes.ts";
import type { Sdk } from "../../../cli/sdk.ts";
import { downloaderOptions } from "../../../src/client/configured.ts";
import type { PieceRequest } from "../../../src/client/downloader.ts";
import { parseConfig } from "../../../src/config/config.ts";
import { type ErrorCode, VortexError } from "../../../src/errors.ts";
import type { TaskDownload } from "../../../src/task/task.ts";
import {
  brokenPipe,
  content,
  downloaderWithServer,
  faceWith,
  failing,
  inTempDir,
  lengths,
  neverAnswered,
  peers,
  run,
  Sink,
  taskId,
  withPeer,
} from "../../support/cli.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const sha256 = createHash("sha256").update(content).digest("hex");
const getFrom = (peer: string, ...more: string[]): string[] => [
  "get",
  "--peer",
  peer,
  "--task-id",
  taskId,
  ...more,
];
/** Summary of a download without failures. */
const summary =
  /^fetched 10\.0 kB in [0-9.]+ s, [0-9.]+ [kM]?B\/s, from 1 parent, verified by --digest\n$/;

describe("vortex-peer get", () => {
  it("fetches a task to a file and to standard output, and verifies its digest", () =>
    inTempDir(async (dir) => {
      await withPeer(async (sdk) => {
        for (const protocol of ["quic", "tcp", "grpc"] as const) {
          const target = join(dir, protocol);
          const args = [...lengths, "--protocol", protocol, "--digest", `sha256:${sha256}`];
          const file = await run(sdk, getFrom(peers[protocol], ...args, "-o", target));
          assert.deepEqual([file.code, file.out.text], [0, ""]);
          assert.match(file.err, summary);
          assert.deepEqual(new Uint8Array(await readFile(target)), content);
          const piped = await run(sdk, getFrom(peers[protocol], ...args));
          assert.equal(piped.code, 0);
          assert.match(piped.err, summary);
          assert.deepEqual(piped.out.bytes, content);
        }
        assert.deepEqual(sdk.stats, [], "no peer is queried for a given length");
      });
      assert.deepEqual((await readdir(dir)).sort(), ["grpc", "quic", "tcp"]);
    }));

  it("names its flags in messages in which the library names options", async () => {
    const message =
      "unknown authority: name it (tls.ca), or pin the fingerprint (tls.fingerprints)";
    const inFlags = "unknown authority: name it (--ca), or pin the fingerprint (--fingerprint)";
    const args = getFrom(
      peers.grpc,
      ...lengths,
      "--protocol",
      "grpc",
      "--fingerprint",
      "00".repeat(32),
    );
    const text = await run(failing("HandshakeFailed", message), [...args, "--verbose"]);
    assert.equal(text.code, 4);
    const [last = ""] = text.err.trimEnd().split("\n").slice(-1);
    assert.ok(last.startsWith("vortex-peer: HandshakeFailed: "), last);
    assert.ok(last.includes(inFlags), last);
    const json = await run(failing("HandshakeFailed", message), [...args, "--json"]);
    const objects = parse(json.err);
    assert.deepEqual([...new Set(objects.map(({ type }) => type))].includes("failed"), true);
    for (const { err } of [text, json]) assert.doesNotMatch(err, /tls\.(ca|fingerprints)/);
    assert.ok(json.err.includes(inFlags), json.err);
  });

  it("queries an unknown length: at the peer's port with grpc, else at port 4000 or the address of api=", () =>
    withPeer(async (sdk) => {
      const runs: string[][] = [
        getFrom(peers.tcp),
        getFrom(peers.grpc, "--protocol", "grpc"),
        getFrom(`${peers.tcp},api=10.0.0.8:1`),
        getFrom("api=10.0.0.9:2"),
      ];
      for (const args of runs) assert.deepEqual((await run(sdk, args)).out.bytes, content);
      assert.deepEqual(sdk.stats, ["10.0.0.7:4000", "10.0.0.7:4000", "10.0.0.8:1", "10.0.0.9:2"]);
      const unknown = await run(sdk, ["get", "--peer", peers.tcp, "--task-id", "c".repeat(64)]);
      assert.deepEqual([unknown.code, unknown.out.bytes.length], [3, 0]);
      assert.match(unknown.err, /^vortex-peer: NotFound: .*10\.0\.0\.7:4005: no such task\n$/);
    }));

  it("queries the Dragonfly API over TLS with --tls, and with trust options and --protocol grpc", () =>
    withPeer(async (sdk) => {
      const pin = "0123456789abcdef".repeat(4);
      const pinned = ["--fingerprint", pin];
      const runs: string[][] = [
        getFrom(peers.grpc, "--protocol", "grpc", ...pinned),
        getFrom(peers.grpc, "--protocol", "grpc", "--tls"),
        getFrom(peers.quic, "--protocol", "quic", "--tls", ...pinned),
        getFrom(peers.quic, "--protocol", "quic", ...pinned),
        getFrom(peers.tcp),
      ];
      for (const args of runs) assert.deepEqual((await run(sdk, args)).out.bytes, content);
      const trust = { fingerprints: [pin] };
      assert.deepEqual(
        sdk.made.map(({ tls, apiTls }) => [tls, apiTls]),
        [
          [trust, trust],
          [{}, {}],
          [trust, trust],
          [trust, undefined],
          [undefined, undefined],
        ],
      );
    }));

  it("passes the limits to the downloader", () =>
    withPeer(async (sdk) => {
      const limits = ["--limit", "50MB/s", "--concurrency", "3", "--connect-timeout", "1s"];
      assert.equal((await run(sdk, getFrom(peers.tcp, ...lengths, ...limits))).code, 0);
      assert.deepEqual(sdk.made, [
        {
          ...downloaderOptions(parseConfig({})),
          concurrentPieceCount: 3,
          connectTimeout: 1000,
          rateLimit: 50_000_000,
        },
      ]);
      assert.equal((await run(sdk, getFrom(peers.tcp, ...lengths, "--limit", "2MiB/s"))).code, 0);
      assert.equal(sdk.made[1]?.rateLimit, 2 * 1024 * 1024);
    }));

  it("requests at most --concurrency pieces at a time", async () => {
    await using real = await downloaderWithServer();
    for (const concurrency of [1, 4]) {
      let [active, max] = [0, 0];
      const counting = faceWith(async (request) => {
        max = Math.max(max, ++active);
        await new Promise((resolve) => setTimeout(resolve, 2));
        const piece = await real.downloadPiece(request);
        active--;
        return piece;
      });
      const args = getFrom(peers.tcp, ...lengths, "--concurrency", String(concurrency));
      assert.equal((await run(counting, args)).code, 0);
      assert.ok(max <= concurrency, `${max} at a time`);
    }
  });

  it("fetches an empty task", () =>
    inTempDir(async (dir) => {
      const sdk = faceWith(() => assert.fail("a piece of an empty task was requested"));
      const empty = `sha256:${createHash("sha256").digest("hex")}`;
      const target = join(dir, "empty");
      const args = getFrom(peers.tcp, "--content-length", "0", "--digest", empty, "-o", target);
      assert.equal((await run(sdk, args)).code, 0);
      assert.equal((await readFile(target)).length, 0);
    }));

  it("fetches a byte range, inclusive at both ends", () =>
    inTempDir(async (dir) => {
      await using real = await downloaderWithServer();
      const asked: number[] = [];
      const sdk = faceWith((request) => {
        asked.push(request.number);
        return real.downloadPiece(request);
      });
      const cases: [range: string, bytes: Uint8Array, pieces: number[]][] = [
        ["0-0", content.slice(0, 1), [0]],
        ["2999-3000", content.slice(2999, 3001), [2, 3]],
        ["8500-", content.slice(8500), [8, 9]],
        ["-1", content.slice(9999), [9]],
        ["-20000", content, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]],
      ];
      for (const [range, bytes, pieces] of cases) {
        asked.length = 0;
        const args = getFrom(peers.tcp, ...lengths, "--range", range);
        const piped = await run(sdk, args);
        assert.deepEqual([piped.code, piped.out.bytes], [0, bytes], range);
        // The first piece of a parent is requested a second time at the end, for comparison.
        assert.deepEqual(
          [...new Set(asked)].sort((a, b) => a - b),
          pieces,
          range,
        );
        const target = join(dir, `range${range}`);
        assert.equal((await run(sdk, [...args, "-o", target])).code, 0);
        assert.deepEqual(new Uint8Array(await readFile(target)), bytes, range);
      }
      await withPeer(async (asking) => {
        for (const range of ["0-10000", "10000-", "10001-", "20000-20001"]) {
          const behind = await run(asking, getFrom(peers.tcp, "--range", range));
          assert.equal(behind.code, 2);
          assert.equal(
            behind.err,
            `vortex-peer: InvalidArgument: --range: expected a range within 0-9999 of the task, got ${range}\n`,
          );
        }
      });
    }));

  it("leaves no file of a task with another digest or layout than expected", () =>
    inTempDir(async (dir) => {
      const target = join(dir, "task");
      await withPeer(async (sdk) => {
        const digest = await run(
          sdk,
          getFrom(peers.tcp, ...lengths, "--digest", `sha256:${taskId}`, "-o", target),
        );
        assert.equal(digest.code, 6);
        assert.match(digest.err, /^vortex-peer: DigestMismatch: [^;]*\n$/);
        const others: [args: string[], message: RegExp][] = [
          [["--content-length", "10000", "--piece-length", "2000"], /2000/],
          [["--content-length", "10000"], /10000 .*1000/],
        ];
        for (const [args, message] of others) {
          const { code, err } = await run(sdk, getFrom(peers.tcp, ...args, "-o", target));
          assert.equal(code, 6);
          assert.match(err, /^vortex-peer: PieceMismatch: [^\n]*\n$/);
          assert.match(err, message);
        }
      });
      assert.deepEqual(await readdir(dir), []);
    }));

  it("replaces the target of a symbolic link, and writes to a device", () =>
    inTempDir(async (dir) => {
      const [file, link] = [join(dir, "file"), join(dir, "link")];
      await writeFile(file, "old");
      await symlink(file, link);
      await withPeer(async (sdk) => {
        assert.equal((await run(sdk, getFrom(peers.tcp, ...lengths, "-o", link))).code, 0);
        assert.equal((await run(sdk, getFrom(peers.tcp, ...lengths, "-o", "/dev/null"))).code, 0);
      });
      assert.equal(await readlink(link), file);
      assert.deepEqual(new Uint8Array(await readFile(file)), content);
      assert.deepEqual((await readdir(dir)).sort(), ["file", "link"]);
    }));

  for (const [what, links, target] of [
    ["a symbolic link", { link: "deep/real" }, "deep/real"],
    ["an absolute symbolic link", { link: "DIR/deep/real" }, "deep/real"],
    [
      "a chain of symbolic links",
      { link: "deep/second", "deep/second": "../third", third: "real" },
      "real",
    ],
    [
      "a symbolic link whose target is behind another link",
      { folder: "deep/er", link: "folder/../real" },
      "deep/real",
    ],
  ] as const) {
    it(`creates the missing target of ${what}, and keeps the link`, () =>
      inTempDir(async (dir) => {
        await mkdir(join(dir, "deep/er"), { recursive: true });
        const created = Object.entries(links).map(
          ([name, to]) => [join(dir, name), to.replace("DIR", dir)] as const,
        );
        for (const [name, to] of created) await symlink(to, name);
        await withPeer(async (sdk) => {
          const { code, err } = await run(
            sdk,
            getFrom(peers.tcp, ...lengths, "-o", join(dir, "link")),
          );
          assert.equal(code, 0, err);
        });
        for (const [name, to] of created) assert.equal(await readlink(name), to);
        assert.deepEqual(new Uint8Array(await readFile(join(dir, target))), content);
        const names = (await readdir(dir, { recursive: true })).sort();
        assert.deepEqual(names, ["deep", "deep/er", target, ...Object.keys(links)].sort());
      }));
  }

  for (const [what, link, message] of [
    ["in a loop", "link", /cannot write \S+link: symbolic link loop\n$/],
    [
      "to the name of a missing directory",
      "none/",
      /link: expected a link to a file, got a link to the directory name \S+none\/\n$/,
    ],
    ["into a missing directory", "none/real", /no such file or directory\n$/],
  ] as const) {
    it(`rejects a symbolic link ${what}, and keeps it`, () =>
      inTempDir(async (dir) => {
        const path = join(dir, "link");
        await symlink(link, path);
        await withPeer(async (sdk) => {
          const { code, err } = await run(sdk, getFrom(peers.tcp, ...lengths, "-o", path));
          assert.equal(code, 7);
          assert.match(err, message);
        });
        assert.deepEqual([await readlink(path), await readdir(dir)], [link, ["link"]]);
      }));
  }

  it("writes to its standard streams when -o names their descriptors, also through a link", () =>
    inTempDir(async (dir) => {
      const link = join(dir, "link");
      await symlink("/dev/stdout", link);
      await withPeer(async (sdk) => {
        for (const target of ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", link]) {
          const { code, out } = await run(
            sdk,
            getFrom(peers.tcp, ...lengths, "--quiet", "-o", target),
          );
          assert.deepEqual([code, out.bytes], [0, content], target);
        }
        const terminal = await run(sdk, getFrom(peers.tcp, ...lengths, "-o", "/dev/stdout"), {
          isTTY: true,
        });
        assert.deepEqual([terminal.code, terminal.out.text], [2, ""]);
        for (const target of ["/dev/stderr", "/dev/fd/2"]) {
          const stderr = new Sink();
          const args = getFrom(peers.tcp, ...lengths, "--json", "-o", target);
          const { code, out } = await run(sdk, args, { stderr });
          assert.deepEqual([code, stderr.bytes], [0, content], target);
          assert.equal(parse(out.text).at(-1)?.type, "done");
        }
      });
      assert.deepEqual(await readdir(dir), ["link"]);
      assert.equal(await readlink(link), "/dev/stdout");
    }));

  it(
    "rejects an unwritable descriptor before it contacts a peer",
    { skip: !existsSync("/proc/self/fd") && "no /proc" },
    () =>
      inTempDir(async (dir) => {
        const file = join(dir, "file");
        const child = spawn("sh", ["-c", `exec 5> "$0"; echo; read line`, file], {
          stdio: ["pipe", "pipe", "inherit"],
        });
        await once(child.stdout, "data");
        const sdk = faceWith(() => assert.fail("a peer was asked"));
        for (const [target, message] of [
          [
            "/dev/fd/987",
            /^vortex-peer: StorageFailed: cannot write \/dev\/fd\/987: no such descriptor is open\n$/,
          ],
          [
            `/proc/${child.pid}/fd/5`,
            /^vortex-peer: StorageFailed: \S+: expected a descriptor of this process, got one of another process; .*\n$/,
          ],
        ] as const) {
          const { code, err } = await run(sdk, getFrom(peers.tcp, ...lengths, "-o", target));
          assert.equal(code, 7);
          assert.match(err, message);
        }
        child.stdin.end();
        await once(child, "close");
        assert.deepEqual(await readdir(dir), ["file"]);
      }),
  );

  it("rejects an unwritable target before it contacts a peer", () =>
    inTempDir(async (dir) => {
      await mkdir(join(dir, "sub"));
      const sdk = faceWith(() => assert.fail("a peer was asked"));
      const cases: [target: string, message: RegExp][] = [
        [join(dir, "sub"), /: expected a file, got a directory/],
        [join(dir, "new/"), /: expected a file, got a directory/],
        [join(dir, "nowhere", "file"), /: no such file or directory/],
      ];
      for (const [target, message] of cases) {
        const { code, err } = await run(sdk, getFrom(peers.tcp, ...lengths, "-o", target));
        assert.equal(code, 7);
        assert.match(err, /^vortex-peer: StorageFailed: .*\n$/);
        assert.match(err, message);
      }
      const terminal = await run(sdk, getFrom(peers.tcp, ...lengths, "--quiet"), { isTTY: true });
      assert.deepEqual([terminal.code, terminal.out.text], [2, ""]);
      assert.match(terminal.err, /got a terminal; give -o FILE or --force/);
      assert.deepEqual(await readdir(dir), ["sub"]);
    }));

  it("reports a full disk", { skip: existsSync("/dev/full") ? false : "needs /dev/full" }, () =>
    withPeer(async (sdk) => {
      const { code, err } = await run(sdk, getFrom(peers.tcp, ...lengths, "-o", "/dev/full"));
      assert.equal(code, 7);
      assert.match(
        err,
        /^vortex-peer: StorageFailed: cannot write \/dev\/full: no space left on device\n$/,
      );
    }),
  );

  it("exits with 141 and prints nothing when the reader closes the pipe", () =>
    withPeer(async (sdk) => {
      const { code, err } = await run(sdk, getFrom(peers.tcp, ...lengths), {
        stdout: brokenPipe(),
      });
      assert.deepEqual([code, err], [141, ""]);
    }));

  it("writes to standard output in order, whatever the order of arrival, and stops at a failed piece", async () => {
    await using real = await downloaderWithServer();
    const slow = faceWith(async (request) => {
      // Later pieces arrive earlier.
      await new Promise((resolve) => setTimeout(resolve, 3 * (9 - request.number)));
      return real.downloadPiece(request);
    });
    const right = await run(slow, getFrom(peers.tcp, ...lengths, "--digest", `sha256:${sha256}`));
    assert.deepEqual([right.code, right.out.bytes], [0, content]);

    const stdout = new Sink();
    const broken = faceWith(async (request) => {
      if (request.number === 4) {
        while (stdout.bytes.length < 4000) await new Promise((resolve) => setTimeout(resolve, 1));
        throw new VortexError("ProtocolViolation", "nonsense");
      }
      return real.downloadPiece(request);
    });
    const { code, err } = await run(broken, getFrom(peers.tcp, ...lengths), { stdout });
    assert.equal(code, 6);
    assert.match(err, /^vortex-peer: ProtocolViolation: .*10\.0\.0\.7:4005.*nonsense\n$/);
    assert.deepEqual(stdout.bytes, content.slice(0, 4000));
  });

  it("fetches from several peers, and reports which of them is excluded and why", async () => {
    await using real = await downloaderWithServer();
    const sdk = faceWith((request) =>
      request.addr === peers.quic
        ? Promise.reject(new VortexError("HandshakeFailed", "not\ntrusted"))
        : real.downloadPiece({ ...request, addr: peers.tcp }),
    );
    const args = [...getFrom(peers.quic, ...lengths), "--peer", peers.tcp, peers.grpc];
    const { code, out, err } = await run(sdk, args);
    assert.deepEqual([code, out.bytes], [0, content]);
    assert.match(
      err,
      /^fetched 10\.0 kB in .*, from [12] parents?, unverified \(.*\); excluded: 10\.0\.0\.7:4006 \(HandshakeFailed: not trusted\)\n$/,
    );
    const verbose = await run(sdk, [...args, "--verbose"]);
    const lines = verbose.err.split("\n");
    assert.ok(lines.includes("fetching 10000 bytes in 10 pieces"), verbose.err);
    assert.ok(
      lines.some((line) =>
        /^piece \d from 10\.0\.0\.7:4006 failed: HandshakeFailed: not trusted$/.test(line),
      ),
    );
    assert.ok(lines.includes("excluding 10.0.0.7:4006: HandshakeFailed: not trusted"));
  });
});

describe("vortex-peer get, with several protocols", () => {
  const each = `quic=${peers.quic},tcp=${peers.tcp},grpc=${peers.grpc}`;

  it("takes an address for each protocol, and reports which one is chosen and why", () =>
    withPeer(async (sdk) => {
      for (const protocol of ["quic", "tcp", "grpc", "auto", "hybrid"]) {
        const args = getFrom(each, ...lengths, "--protocol", protocol);
        const { code, out, err } = await run(sdk, args);
        assert.deepEqual([code, out.bytes], [0, content], `${protocol}: ${err}`);
      }
      for (const [protocol, trust] of [
        ["tcp", []],
        ["quic", ["--fingerprint", "00".repeat(32)]],
      ] as const) {
        const auto = getFrom(each, ...lengths, "--protocol", "auto", ...trust);
        const { err } = await run(sdk, [...auto, "--verbose"]);
        assert.match(err, new RegExp(`^using ${protocol} for ${peers[protocol]}: .+$`, "m"));
        const chosen = parse((await run(sdk, [...auto, "--json"])).err).find(
          ({ type }) => type === "protocol",
        );
        assert.deepEqual(
          [chosen?.addr, chosen?.protocol, typeof chosen?.reason],
          [peers[protocol], protocol, "string"],
        );
        assert.doesNotMatch((await run(sdk, auto)).err, /^using /m);
      }
    }));
});

describe("vortex-peer get, interrupted", () => {
  for (const [resumes, codes] of [
    [true, ["ConnectionRefused", "ConnectionLost", "Stalled", "TruncatedContent", "StorageFailed"]],
    [
      false,
      [
        ...["Internal", "HandshakeFailed", "ProtocolNotSupported", "LengthMismatch"],
        ...["DigestMismatch", "PieceMismatch", "NotFound", "RemoteInvalidArgument"],
        "InvalidArgument",
      ],
    ],
  ] as const) {
    const name = resumes ? "may succeed later" : "would fail again";
    it(`${resumes ? "advises" : "does not advise"} to run the same command after failures that ${name}`, () =>
      inTempDir(async (dir) => {
        await using real = await downloaderWithServer();
        const runs = codes.map(async (code) => {
          const sdk = faceWith((request) =>
            request.number === 4
              ? Promise.reject(new VortexError(code as ErrorCode, "as the test wants it"))
              : real.downloadPiece(request),
          );
          const target = join(dir, code);
          const { err } = await run(
            sdk,
            getFrom(peers.tcp, ...lengths, "--concurrency", "1", "--patience", "0", "-o", target),
          );
          assert.equal(existsSync(`${target}.part`), true);
          const advice = resumes ? ", run the same command again to resume" : "";
          const kept = `; verified pieces are kept in ${target}\\.part${advice}\n$`;
          assert.match(err, new RegExp(`${code}.*${kept}`));
        });
        await Promise.all(runs);
      }));
  }

  for (const [resumes, codes] of [
    [true, ["NotFound", "ConnectionLost"]],
    [false, ["NotFound", "RemoteInternal"]],
  ] as const) {
    const [first, second] = codes;
    it(`${resumes ? "advises" : "does not advise"} to run the same command after ${first} of one peer and ${second} of the other`, () =>
      inTempDir(async (dir) => {
        await using real = await downloaderWithServer();
        const sdk = faceWith((request) => {
          if (request.number < 4) return real.downloadPiece({ ...request, addr: peers.tcp });
          const code = request.addr === peers.tcp ? first : second;
          return Promise.reject(new VortexError(code, "as the test wants it"));
        });
        const target = join(dir, "task");
        const args = ["--peer", peers.quic, ...lengths, "--concurrency", "1", "--patience", "0"];
        const { err } = await run(sdk, getFrom(peers.tcp, ...args, "-o", target));
        const advice = resumes ? ", run the same command again to resume" : "";
        assert.match(
          err,
          new RegExp(`Unreachable: .*; verified pieces are kept in ${target}\\.part${advice}\n$`),
        );
      }));
  }

  it("keeps no pieces that a wrong digest of the whole makes useless, and does not mention any", () =>
    inTempDir(async (dir) => {
      await using real = await downloaderWithServer();
      const sdk = faceWith((request) => real.downloadPiece(request));
      const wrong = ["--digest", `sha256:${"0".repeat(64)}`, "-o", join(dir, "task")];
      const { code, err } = await run(sdk, getFrom(peers.tcp, ...lengths, ...wrong));
      assert.equal(code, 6);
      assert.match(err, /DigestMismatch: (?!.*(kept|again to resume))/);
      assert.deepEqual(await readdir(dir), []);
    }));

  it("keeps verified pieces, reports that, and resumes from them", () =>
    inTempDir(async (dir) => {
      await using real = await downloaderWithServer();
      const target = join(dir, "task");
      const args = getFrom(peers.tcp, ...lengths, "--concurrency", "1", "-o", target);
      for (const [signal, exit, from] of [
        ["SIGINT", 130, 3],
        ["SIGTERM", 143, 6],
      ] as const) {
        const controller = new AbortController();
        const held = faceWith((request) => {
          if (request.number < from) return real.downloadPiece(request);
          controller.abort(interruption(signal));
          return neverAnswered(request);
        });
        const { code, err } = await run(held, args, { signal: controller.signal });
        assert.equal(code, exit);
        assert.match(
          err,
          new RegExp(
            `vortex-peer: Aborted: interrupted by ${signal}; verified pieces are kept in ${target}\\.part, ` +
              "run the same command again to resume\\n$",
          ),
        );
        assert.equal(existsSync(target), false);
      }
      const asked: number[] = [];
      const rest = faceWith((request) => {
        asked.push(request.number);
        return real.downloadPiece(request);
      });
      const { code, err } = await run(rest, [...args, "--digest", `sha256:${sha256}`]);
      assert.equal(code, 0);
      assert.match(
        err,
        /^found 6 of 10 pieces from an earlier run, checking them\nfetched 10\.0 kB in .*, 6\.0 kB from an earlier run, .*\n$/,
      );
      assert.deepEqual(
        asked.filter((number) => number >= 6),
        [6, 7, 8, 9],
      );
      assert.equal(asked.length, 4 + 1, "over gRPC, one piece of the earlier run is compared");
      assert.deepEqual(new Uint8Array(await readFile(target)), content);
      assert.deepEqual(await readdir(dir), ["task"]);
    }));

  it("leaves no file when no piece has arrived", () =>
    inTempDir(async (dir) => {
      const controller = new AbortController();
      const silent = faceWith((options) => {
        controller.abort(interruption("SIGINT"));
        return neverAnswered(options);
      });
      const args = getFrom(peers.tcp, ...lengths, "-o", join(dir, "task"));
      const { code, err } = await run(silent, args, { signal: controller.signal });
      assert.deepEqual([code, err], [130, "vortex-peer: Aborted: interrupted by SIGINT\n"]);
      assert.deepEqual(await readdir(dir), []);
    }));
});

describe("vortex-peer get, progress", () => {
  /**
   * Runs `use` with an SDK that holds piece 5 until released, and with the clock of the progress.
   */
  async function holding(use: (held: Held) => Promise<void>): Promise<void> {
    await using real = await downloaderWithServer();
    let letGo = (): void => {};
    const open = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    const base = faceWith(async (request: PieceRequest) => {
      if (request.number === 5) await open;
      return real.downloadPiece(request);
    });
    let download: TaskDownload | undefined;
    const sdk: Sdk = {
      ...base,
      createDownloader(options) {
        const downloader = base.createDownloader(options);
        return {
          downloadPiece: (...args) => downloader.downloadPiece(...args),
          streamTask: (...args) => downloader.streamTask(...args),
          downloadTask(...args) {
            download = downloader.downloadTask(...args);
            return download;
          },
          [Symbol.asyncDispose]: () => downloader[Symbol.asyncDispose](),
        };
      },
    };
    await use({
      sdk,
      clock: new FakeClock(),
      pieces: () => download?.progress().pieces ?? 0,
      letGo,
    });
  }

  interface Held {
    readonly sdk: Sdk;
    readonly clock: FakeClock;
    /** Returns the number of completed pieces. */
    readonly pieces: () => number;
    readonly letGo: () => void;
  }

  /**
   * Runs `get` until all pieces except the held one are complete. Advances the clock by `tick` ms
   * for `ticks` times, and then releases the held piece.
   */
  async function getWithTicks(
    held: Held,
    target: string,
    args: readonly string[],
    isTTY: boolean,
    tick: number,
    ticks: number,
  ) {
    const stderr = new Sink(isTTY, 100);
    const all = getFrom(peers.tcp, ...lengths, "-o", target, ...args);
    const running = run(held.sdk, all, { stderr, clock: held.clock });
    while (held.pieces() < 9) await new Promise((resolve) => setTimeout(resolve, 1));
    for (let count = 0; count < ticks; count++) await held.clock.advance(tick);
    held.letGo();
    return running;
  }

  it("is a bar on a terminal, which the summary replaces", () =>
    inTempDir((dir) =>
      holding(async (held) => {
        const { code, err } = await getWithTicks(held, join(dir, "task"), [], true, 200, 2);
        assert.equal(code, 0);
        const updates = err.replaceAll("\u001b[K", "").split("\r").slice(1);
        assert.equal(updates.length, 3);
        for (const update of updates.slice(0, 2)) {
          assert.match(
            update,
            /^ 90% \[#+\.+\] {2}9\.0 of 10\.0 kB {2}[0-9.]+ [kM]?B\/s .* 1 parent$/,
          );
        }
        assert.match(updates[2] ?? "", /^fetched 10\.0 kB .*\n$/);
      }),
    ));

  it("is a line every five seconds without a terminal", () =>
    inTempDir((dir) =>
      holding(async (held) => {
        const { code, err } = await getWithTicks(held, join(dir, "task"), [], false, 1000, 11);
        assert.equal(code, 0);
        const lines = err.trimEnd().split("\n");
        assert.equal(lines.length, 3, err);
        for (const line of lines.slice(0, 2))
          assert.match(line, /^90%, 9\.0 of 10\.0 kB, [0-9.]+ [kM]?B\/s, .*1 parent$/);
        assert.match(lines[2] ?? "", /^fetched /);
      }),
    ));

  it("is empty with --quiet", () =>
    inTempDir((dir) =>
      holding(async (held) => {
        const quiet = ["--quiet"];
        const { code, err } = await getWithTicks(held, join(dir, "task"), quiet, true, 1000, 3);
        assert.deepEqual([code, err], [0, ""]);
      }),
    ));

  it("is one JSON object per line with --json, on standard output when the content goes to a file", () =>
    inTempDir((dir) =>
      holding(async (held) => {
        const target = join(dir, "task");
        const { code, out, err } = await getWithTicks(held, target, ["--json"], false, 1000, 2);
        assert.deepEqual([code, err], [0, ""]);
        const objects = parse(out.text);
        assert.deepEqual(
          objects.map(({ type }) => type),
          ["started", "progress", "progress", "done"],
        );
        const [started, progress, , done] = objects;
        assert.deepEqual(started, {
          type: "started",
          totalBytes: 10_000,
          totalPieces: 10,
          resumedPieces: 0,
        });
        assert.deepEqual(
          [progress?.bytes, progress?.totalBytes, progress?.pieces],
          [9000, 10_000, 9],
        );
        assert.deepEqual([done?.taskId, done?.bytes, done?.pieces], [taskId, 10_000, 10]);
        assert.ok(Array.isArray(done?.parents) && done.parents.length === 1);
      }),
    ));

  it("goes alone to standard error with --json when the content goes to standard output", () =>
    withPeer(async (sdk) => {
      const { code, out, err } = await run(
        sdk,
        getFrom(peers.tcp, ...lengths, "--json", "--verbose"),
      );
      assert.deepEqual([code, out.bytes], [0, content]);
      const objects = parse(err);
      assert.deepEqual([objects[0]?.type, objects.at(-1)?.type], ["started", "done"]);
      assert.equal(objects.filter(({ type }) => type === "piece").length, 10);
    }));

  it("ends with a `failed` object and the code with --json", async () => {
    await using real = await downloaderWithServer();
    const sdk = faceWith((request) =>
      request.number === 4
        ? Promise.reject(new VortexError("ProtocolViolation", "nonsense", { addr: request.addr }))
        : real.downloadPiece(request),
    );
    await inTempDir(async (dir) => {
      const { code, out, err } = await run(
        sdk,
        getFrom(peers.tcp, ...lengths, "--concurrency", "1", "--json", "-o", join(dir, "task")),
      );
      assert.deepEqual([code, err], [6, ""]);
      const objects = parse(out.text);
      const failed = objects.find(({ type }) => type === "piece-failed");
      assert.deepEqual(failed, {
        type: "piece-failed",
        number: 4,
        parent: peers.tcp,
        error: {
          name: "VortexError",
          code: "ProtocolViolation",
          kind: "peer",
          message: "nonsense",
          addr: peers.tcp,
        },
      });
      const last = objects.at(-1);
      assert.deepEqual(
        [last?.type, last?.code, last?.exitCode],
        ["failed", "ProtocolViolation", 6],
      );
      assert.match(String(last?.message), /nonsense; verified pieces are kept in \S+\.part$/);
    });
  });

  it("escapes control characters of a peer's message in JSON, and keeps the whole message", async () => {
    const words = "no\u001b[2J\u009b2J\u202esuch\u2028{\n}\u007f";
    const sdk = faceWith(() => Promise.reject(new VortexError("ProtocolViolation", words)));
    await inTempDir(async (dir) => {
      const { out } = await run(
        sdk,
        getFrom(peers.tcp, ...lengths, "--json", "-o", join(dir, "task")),
      );
      assert.doesNotMatch(out.text, /[^\P{Cc}\n]|[\p{Zl}\p{Zp}\p{Bidi_Control}]/u);
      const failed = parse(out.text).find(({ type }) => type === "piece-failed") as {
        error: { message: string };
      };
      assert.equal(failed.error.message, words);
    });
  });

  it("is one JSON object for each kind of misuse, on the stream of the other objects", () =>
    inTempDir(async (dir) => {
      const sdk = faceWith(() => assert.fail("a peer was asked"));
      const target = join(dir, "task");
      const config = join(dir, "config.yaml");
      await writeFile(
        config,
        "download:\n  protocol: pigeon\nupload:\n  server:\n    port: none\n",
      );
      const whole = getFrom(peers.tcp, ...lengths);
      for (const [args, code, message] of [
        [["get"], "InvalidArgument", /required option '--peer <address...>' not specified/],
        [[...whole, "--nonsense"], "InvalidArgument", /unknown option '--nonsense'/],
        [[...whole, "--kind", "none"], "InvalidArgument", /'none' is invalid/],
        [[...whole, "--range", "5-2"], "InvalidArgument", /^--range "5-2": expected A-B/],
        [
          [...whole, "--range", "0-1", "--digest", `sha256:${sha256}`],
          "InvalidArgument",
          /expected one of them, got both/,
        ],
        [
          [...whole, "--ca", join(dir, "none"), "--protocol", "grpc"],
          "StorageFailed",
          /cannot read \S+none: /,
        ],
        [
          [...whole, "--config", config],
          "InvalidArgument",
          /config\.yaml:2.*pigeon.*\n.*config\.yaml:5.*none/,
        ],
        [[...whole, "--config", join(dir, "none")], "StorageFailed", /cannot read \S+none: /],
      ] as const) {
        const exitCode = code === "StorageFailed" ? 7 : 2;
        const kind = code === "StorageFailed" ? "local" : "misuse";
        for (const [where, name] of [
          [[], "err"],
          [["-o", "-"], "err"],
          [["--output=/dev/null"], "err"],
          [["-o", target], "out"],
          [["-o/dev/stderr"], "out"],
        ] as const) {
          const ran = await run(sdk, [...args, "--json", ...where]);
          const [text, other] = name === "out" ? [ran.out.text, ran.err] : [ran.err, ran.out.text];
          assert.equal(other, "");
          const [object, ...more] = parse(text);
          assert.deepEqual(more, []);
          const { message: reported, cause: _, ...rest } = object ?? {};
          assert.deepEqual(rest, { type: "failed", name: "VortexError", code, kind, exitCode });
          assert.match(String(reported), message);
          assert.equal(ran.code, exitCode);
        }
      }
      const directory = await run(sdk, [...whole, "--json", "-o", dir]);
      assert.match(String(parse(directory.out.text)[0]?.message), /got a directory/);
    }));

  it("reports a failed write of the JSON as text, and exits with 7", () =>
    inTempDir((dir) =>
      withPeer(async (sdk) => {
        const full = (): Writable =>
          new Writable({
            write: (_chunk, _encoding, done) =>
              done(Object.assign(new Error("write ENOSPC"), { code: "ENOSPC" })),
          });
        const args = getFrom(peers.tcp, ...lengths, "--json", "-o", join(dir, "task"));
        const { code, err } = await run(sdk, args, { stdout: full() });
        assert.equal(code, 7);
        assert.match(
          err,
          /^vortex-peer: StorageFailed: cannot write standard output: no space left on device/,
        );
        assert.equal(err.split("\n").length, 2);
        const wrong = await run(sdk, ["get", "--json", "-o", join(dir, "task")], {
          stdout: full(),
        });
        assert.equal(wrong.code, 2);
        assert.match(
          wrong.err,
          /^vortex-peer: InvalidArgument: required option '--peer <address...>' not specified\n$/,
        );
        // Only the write of the last object fails.
        let objects = 0;
        const almost = new Writable({
          write: (chunk: Uint8Array, _encoding, done) => {
            objects++;
            const last = new TextDecoder().decode(chunk).includes('"done"');
            done(last ? Object.assign(new Error("write ENOSPC"), { code: "ENOSPC" }) : null);
          },
        });
        const done = await run(sdk, args, { stdout: almost });
        assert.ok(objects >= 2);
        assert.deepEqual(
          [done.code, done.err],
          [
            7,
            "vortex-peer: StorageFailed: cannot write standard output: no space left on device\n",
          ],
        );
      }),
    ));

  it("ends the download when the reader of the JSON closes the pipe", () =>
    inTempDir((dir) =>
      withPeer(async (sdk) => {
        const args = getFrom(peers.tcp, ...lengths, "--json", "-o", join(dir, "task"));
        const { code, err } = await run(sdk, args, { stdout: brokenPipe() });
        assert.deepEqual([code, err], [141, ""]);
      }),
    ));
});

function parse(text: string): Record<string, unknown>[] {
  const lines = text.split("\n");
  assert.equal(lines.pop(), "");
  return lines.map((line) => JSON.parse(line));
}
