import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { constants, existsSync, mkdtempSync } from "node:fs";
import {
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, describe, it } from "node:test";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { runtimeApi } from "../../entry/runtime-api.ts";
import { digestOf } from "../../src/digest/digest.ts";
import { memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import type { ParentProgress } from "../../src/task/task.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { Protocol } from "../../src/transport/protocol.ts";
import { joined, seededBytes } from "../support/random.ts";
import { root, runner, startProgram } from "../support/run.ts";
import type { TaskPeerOptions } from "../support/task-peer.ts";

/** Path of the command's source, run in separate processes on the current runtime. */
const main = join(root, "cli/main.ts");
/** Piece length in bytes, for tests that need many pieces. */
const PIECE_LENGTH = 20_000;
const MEBI = 1024 * 1024;
/** Summary line of a download without errors. */
const summary =
  /^fetched 9\.4 MB in [0-9.]+ s, [0-9.]+ [kMG]?B\/s, from 1 parent, verified by .*\n$/;
/** Reason why a test cannot mount a private disk, for its name; empty if it can. */
const noMounts =
  spawnSync("unshare", ["-m", "true"]).status === 0 ? "" : " [gap: needs root, for a private disk]";
/** Reason why a command cannot be blocked on a full pipe, for a test's name; empty if it can. */
const noPipes =
  "Deno" in globalThis
    ? " [gap: Deno 2.9 blocks its event loop while it writes to a full pipe, so it handles no signal]"
    : spawnSync("mkfifo", ["--version"]).error !== undefined
      ? " [gap: needs mkfifo]"
      : "";
/** Reason why a test cannot see what a thread waits for, for its name; empty if it can. */
const noProc = existsSync("/proc/self/wchan") ? "" : " [gap: needs /proc]";
/** Reason why the wait for a named pipe cannot be ended, for a test's name; empty if it can. */
const noUnblocking =
  "Deno" in globalThis || "Bun" in globalThis
    ? " [gap: Bun and Deno wait for a blocked open before they exit; a second signal ends them]"
    : noProc;
/** Reason why no always-full output is available, for a test's name; empty if one is. */
const noFull = existsSync("/dev/full") ? "" : " [gap: needs /dev/full]";
/**
 * Reason why a command cannot write to an inherited descriptor, for a test's name; empty if it can.
 */
const noInherited =
  "Deno" in globalThis
    ? " [gap: Deno 2.9 writes only to the standard ones of inherited descriptors]"
    : "";
/** Timeout in ms for a dozen processes in sequence on a busy machine. */
const testOptions = { timeout: 110_000 };
/** State directory of the servers, for their certificates, outside of the user's home. */
const state = mkdtempSync(join(tmpdir(), "vortex-peer-state-"));
after(() => rm(state, { recursive: true }));

/** Protocols served by `serve` on this runtime. */
const served: readonly Protocol[] =
  "Deno" in globalThis ? ["tcp", "grpc"] : ["quic", "tcp", "grpc"];

describe("vortex-peer in processes", () => {
  it(
    "warns once that QUIC may end a stock peer, unless the trust identifies the peer",
    testOptions,
    async () => {
      const piece = [
        "piece",
        "--protocol",
        "quic",
        "--peer",
        "127.0.0.1:9",
        "--task-id",
        "a1".repeat(32),
        "--number",
        "0",
      ];
      const dial = [...piece, "--connect-timeout", "100ms"];
      const warning = /^vortex-peer: QUIC without --fingerprint or --ca: .*1\.1\.0 to 1\.4\.8/gm;
      assert.equal((await run([...dial, "--insecure"]).exit).err.match(warning)?.length, 1);
      const { err } = await run(dial).exit;
      assert.equal(err.match(warning)?.length, 1);
      assert.match(err, /, or set --fingerprint or --ca for other peers\.\n/);
      assert.equal(
        (await run([...dial, "--fingerprint", "00".repeat(32)]).exit).err.match(warning),
        null,
      );
      const task = ["--peer", "127.0.0.1:9", "--task-id", "a1".repeat(32)];
      const lengths = ["--content-length", "10", "--patience", "0", "--connect-timeout", "100ms"];
      const get = ["get", "--protocol", "quic", "--insecure", ...task, ...lengths];
      assert.equal((await run(get).exit).err.match(warning)?.length, 1);
      const json = (await run([...get, "--json"]).exit).err.split("\n").filter((line) => line);
      assert.equal(json.filter((line) => JSON.parse(line).type === "warning").length, 1);
      for (const more of [["--quiet"], ["--quiet", "--json"]]) {
        const { err } = await run([...get, ...more]).exit;
        assert.doesNotMatch(err, /dfdaemon 1\.1\.0/);
        assert.notEqual(err, "");
      }
    },
  );

  it(
    "serves a file that other processes fetch whole, to a file and to a pipe, and as one piece",
    testOptions,
    () =>
      inTempDir(async (dir) => {
        const content = seededBytes(3, 9 * MEBI + 11);
        const source = join(dir, "source");
        await writeFile(source, content);
        await using peer = await serve(source);
        const { taskId, contentLength, pieceCount, digest } = peer.task;
        assert.equal(digest, `sha256:${createHash("sha256").update(content).digest("hex")}`);
        assert.deepEqual([taskId, contentLength, pieceCount], [digest.slice(7), content.length, 3]);
        for (const protocol of served) {
          const from = [...peer.from(protocol), "--content-length", String(contentLength)];
          const target = join(dir, protocol);
          const file = await run(["get", ...from, "--digest", digest, "-o", target]).exit;
          assert.deepEqual([file.code, file.out.length], [0, 0]);
          assert.match(file.err, summary);
          assert.ok(
            content.length === (await stat(target)).size &&
              Buffer.compare(content, await readFile(target)) === 0,
          );
          const piped = await run(["get", ...peer.from(protocol, `,api=${peer.addresses.grpc}`)])
            .exit;
          assert.equal(piped.code, 0);
          assert.match(piped.err, summary);
          assert.ok(Buffer.compare(content, piped.out) === 0);
          const piece = await run([
            "piece",
            ...peer.from(protocol),
            "--number",
            "2",
            "--range",
            "5-",
          ]).exit;
          assert.deepEqual([piece.code, piece.err], [0, ""]);
          assert.ok(Buffer.compare(content.subarray(8 * MEBI + 5), piece.out) === 0);
          const missing = await run(["piece", ...peer.from(protocol), "--number", "3"]).exit;
          assert.equal(missing.code, 3);
          assert.match(missing.err, /^vortex-peer: NotFound: .*\n$/);
        }
        assert.deepEqual((await readdir(dir)).sort(), [...served, "source"].sort());
        assert.deepEqual(await peer.end(), { code: 0, err: "" });
        const target = join(dir, "late");
        const refused = [
          "get",
          ...peer.from("tcp"),
          "--content-length",
          "1",
          "-o",
          target,
          "--patience",
          "0",
        ];
        const late = await run(refused).exit;
        assert.equal(late.code, 4);
        assert.match(late.err, /^vortex-peer: ConnectionRefused: .*\n$/);
      }),
  );

  it(
    "keeps verified pieces when interrupted or killed, reports them, and fetches no piece twice",
    testOptions,
    () =>
      inTempDir(async (dir) => {
        const content = seededBytes(9, 30 * PIECE_LENGTH - 5);
        await using peer = await heldPeer(content);
        const target = join(dir, "target");
        const args = ["get", ...peer.from, "--digest", peer.digest, "-o", target];
        const kept = `; verified pieces are kept in ${target}.part, run the same command again to resume`;

        // No piece has arrived yet, so no file is left.
        const begun = run(args);
        await peer.held(begun.exit);
        sendSignal(begun.child, "SIGINT");
        assert.deepEqual(await ended(begun), [
          130,
          "vortex-peer: Aborted: interrupted by SIGINT\n",
        ]);
        assert.deepEqual(await readdir(dir), []);

        const verified = new Set<number>();
        for (const [signal, code] of [
          ["SIGINT", 130],
          ["SIGTERM", 143],
          ["SIGKILL", null],
        ] as const) {
          const before = peer.asked.length;
          peer.allow(5);
          const getting = run(args);
          await peer.held(getting.exit);
          // All sent pieces are stored by then. After a signal, the command reports what it keeps.
          await waitUntil(async () => (await journaled(target)).length >= verified.size + 5);
          sendSignal(getting.child, signal);
          const [exit, err] = await ended(getting);
          // After a fatal signal, Bun and Node report the code `null`, Deno 128 plus the signal
          // number.
          assert.ok(exit === code || (code === null && exit === 137), `${signal}: ${exit}`);
          if (signal !== "SIGKILL")
            assert.ok(err.endsWith(`vortex-peer: Aborted: interrupted by ${signal}${kept}\n`), err);
          for (const number of peer.asked.slice(before))
            assert.ok(!verified.has(number), `piece ${number} was fetched twice`);
          assert.ok(peer.takeAgain() <= 3, "three pieces are compared, and none is fetched twice");
          for (const number of await journaled(target)) verified.add(number);
        }
        assert.ok(verified.size >= 15);
        const before = peer.asked.length;
        peer.allow(Number.POSITIVE_INFINITY);
        const { code, err } = await run(args).exit;
        assert.equal(code, 0, err);
        assert.match(
          err,
          new RegExp(
            `^found ${verified.size} of 30 pieces from an earlier run, checking them\nfetched `,
          ),
        );
        for (const number of peer.asked.slice(before))
          assert.ok(!verified.has(number), `piece ${number} was fetched twice`);
        assert.ok(peer.takeAgain() <= 3, "three pieces are compared, and none is fetched twice");
        assert.ok(Buffer.compare(content, await readFile(target)) === 0);
        assert.deepEqual(await readdir(dir), ["target"]);
      }),
  );

  it("fetches from several peers, one of them killed, and reports it in JSON", testOptions, () =>
    inTempDir(async (dir) => {
      const contentLength = 40 * PIECE_LENGTH;
      const content = seededBytes(21, contentLength);
      const source = join(dir, "source");
      await writeFile(source, content);
      const shape = ["--piece-length", String(PIECE_LENGTH)];
      await using peer = await serve(source, ...shape);
      const { taskId } = peer.task;
      const options: TaskPeerOptions = {
        taskId,
        seed: 21,
        contentLength,
        pieceLength: PIECE_LENGTH,
        behaviour: "hang",
      };
      const dying = startProgram([
        ...runner,
        `${root}test/support/task-peer.ts`,
        JSON.stringify(options),
      ]);
      try {
        const addr = `127.0.0.1:${(await dying.line()).split(" ")[1]}`;
        const target = join(dir, "target");
        const getting = run([
          ...[
            "get",
            "--peer",
            addr,
            peer.addresses.tcp,
            "--task-id",
            taskId,
            "--json",
            "-o",
            target,
          ],
          ...["--content-length", String(contentLength), ...shape, "--stall-timeout", "300s"],
        ]);
        // This peer delivers two pieces and hangs in the third, so the task cannot end before the
        // kill.
        for (let asked = 0; asked < 3; asked++) await dying.line();
        dying.kill();
        const { code, out, err } = await getting.exit;
        assert.deepEqual([code, err], [0, ""]);
        assert.ok(Buffer.compare(content, await readFile(target)) === 0);
        const objects = parseLines(out);
        assert.equal(objects[0]?.type, "started");
        const done = objects.at(-1);
        assert.deepEqual([done?.type, done?.bytes, done?.pieces], ["done", contentLength, 40]);
        assert.ok(objects.some(({ type, parent }) => type === "piece-failed" && parent === addr));
        const told = done?.parents as { parent: string; errors: number; pieces: number }[];
        assert.ok((told.find(({ parent }) => parent === addr)?.errors ?? 0) > 0);
        assert.ok((told.find(({ parent }) => parent === peer.addresses.tcp)?.pieces ?? 0) > 30);
      } finally {
        dying.kill();
        await dying.ended;
      }
    }),
  );

  it("fetches a range, stats a peer's task, and computes the same id as serve", testOptions, () =>
    inTempDir(async (dir) => {
      const content = seededBytes(4, 9 * MEBI);
      const source = join(dir, "source");
      await writeFile(source, content);
      await using peer = await serve(source);
      const { taskId } = peer.task;
      const range = await run([
        "get",
        ...peer.from("tcp", `,api=${peer.addresses.grpc}`),
        "--range",
        "4194300-4194309",
      ]).exit;
      assert.equal(range.code, 0, range.err);
      assert.deepEqual(range.out, content.slice(4_194_300, 4_194_310));
      const stat = await run(["stat", "--peer", peer.addresses.grpc, "--task-id", taskId, "--json"])
        .exit;
      assert.deepEqual([stat.code, stat.err], [0, ""]);
      assert.deepEqual(parseLines(stat.out), [
        {
          peer: peer.addresses.grpc,
          taskId,
          kind: "standard",
          contentLength: content.length,
          pieceLength: 4 * MEBI,
          pieceCount: 3,
          digest: peer.task.digest,
          pieces: [[0, 2]],
          complete: true,
          growing: false,
        },
      ]);
      const id = await run(["id", "content", source]).exit;
      assert.deepEqual([id.code, id.err, new TextDecoder().decode(id.out)], [0, "", `${taskId}\n`]);
    }),
  );

  it(
    `reports a full disk, and keeps the stored pieces${noMounts}`,
    { ...testOptions, skip: noMounts !== "" },
    () =>
      inTempDir(async (dir) => {
        const source = join(dir, "source");
        const disk = join(dir, "disk");
        await mkdir(disk);
        await writeFile(source, seededBytes(2, 8 * MEBI));
        await using peer = await serve(source, "--piece-length", "1MiB");
        const from = [
          ...peer.from("tcp"),
          "--content-length",
          "8MiB",
          "--piece-length",
          "1MiB",
          "--concurrency",
          "1",
        ];
        const target = join(disk, "target");
        const mounting = `mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"`;
        const wrapper = ["unshare", "-m", "sh", "-c", mounting, disk];
        const full = await run(["get", ...from, "-o", target], wrapper).exit;
        assert.equal(full.code, 7);
        assert.ok(
          full.err.endsWith(
            `no space left on device; verified pieces are kept in ${target}.part, run the same command again to resume\n`,
          ),
          full.err,
        );
        assert.deepEqual(await readdir(disk), [], "the small disk was private to that process");
      }),
  );

  it(
    "writes to the file behind standard output at its current offset, under any of its names",
    testOptions,
    () =>
      inTempDir(async (dir) => {
        const content = seededBytes(6, 300_000);
        const source = join(dir, "source");
        await writeFile(source, content);
        await using peer = await serve(source);
        const from = [...peer.from("tcp"), "--content-length", "300000", "--quiet"];
        const link = join(dir, "link");
        await symlink("/dev/stdout", link);
        for (const [target, redirection] of [
          ["-", ">"],
          ["/dev/stdout", ">"],
          ["/dev/stdout", ">>"],
          ["/dev/fd/1", ">>"],
          ["/proc/self/fd/1", ">"],
          [link, ">"],
        ] as const) {
          const file = join(dir, "file");
          await writeFile(file, "before\n");
          const { ino } = await stat(file);
          const shell = ["sh", "-c", `(echo head; "$@" && echo tail) ${redirection} "$0"`, file];
          const { code, err } = await run(["get", ...from, "-o", target], shell).exit;
          assert.deepEqual([code, err], [0, ""], target);
          const before = redirection === ">>" ? "before\nhead\n" : "head\n";
          const expected = Buffer.concat([Buffer.from(before), content, Buffer.from("tail\n")]);
          assert.ok(
            Buffer.compare(await readFile(file), expected) === 0,
            `${redirection} ${target}`,
          );
          assert.equal((await stat(file)).ino, ino, "the file was not replaced");
        }
        const file = join(dir, "file");
        const shell = ["sh", "-c", `(echo head; "$@" && echo tail) > "$0"`, file];
        const piece = await run(
          ["piece", ...peer.from("tcp"), "--number", "0", "-o", "/dev/stdout"],
          shell,
        ).exit;
        assert.deepEqual([piece.code, piece.err], [0, ""]);
        assert.equal((await stat(file)).size, content.length + 10);
        assert.deepEqual((await readdir(dir)).sort(), ["file", "link", "source"]);
      }),
  );

  it(
    `writes to another inherited file at its current offset${noInherited}`,
    { ...testOptions, skip: noInherited !== "" },
    () =>
      inTempDir(async (dir) => {
        const content = seededBytes(6, 300_000);
        const source = join(dir, "source");
        const file = join(dir, "file");
        await writeFile(source, content);
        await using peer = await serve(source);
        for (const redirection of [">", ">>"]) {
          await writeFile(file, "before\n");
          const shell = [
            "sh",
            "-c",
            `(echo head >&5; "$@" && echo tail >&5) 5${redirection} "$0"`,
            file,
          ];
          const args = [
            "get",
            ...peer.from("tcp"),
            "--content-length",
            "300000",
            "--quiet",
            "-o",
            "/dev/fd/5",
          ];
          const { code, err } = await run(args, shell).exit;
          assert.deepEqual([code, err], [0, ""]);
          const before = redirection === ">>" ? "before\nhead\n" : "head\n";
          const expected = Buffer.concat([Buffer.from(before), content, Buffer.from("tail\n")]);
          assert.ok(Buffer.compare(await readFile(file), expected) === 0);
        }
      }),
  );

  it(
    `refuses another inherited file if the runtime cannot write to it${noInherited === "" ? " [gap: this runtime writes to it]" : ""}`,
    { ...testOptions, skip: noInherited === "" },
    () =>
      inTempDir(async (dir) => {
        const file = join(dir, "file");
        const shell = [
          "sh",
          "-c",
          `(echo head >&5; "$@"; code=$?; echo tail >&5; exit $code) 5> "$0"`,
          file,
        ];
        const args = [
          "get",
          "--peer",
          "127.0.0.1:1",
          "--task-id",
          "a".repeat(64),
          "-o",
          "/dev/fd/5",
        ];
        const { code, err } = await run(args, shell).exit;
        assert.equal(code, 2);
        assert.match(
          err,
          /^vortex-peer: Unavailable: \/dev\/fd\/5: Deno cannot write to inherited files other than standard output; use -o -\n$/,
        );
        assert.equal(await readFile(file, "utf8"), "head\ntail\n");
      }),
  );

  it(
    `writes a bind-mounted file in place, and fails at once if it cannot${noMounts}`,
    { ...testOptions, skip: noMounts !== "" },
    () =>
      inTempDir(async (dir) => {
        const content = seededBytes(8, 300_000);
        const [source, outside, inside] = [
          join(dir, "source"),
          join(dir, "out side"),
          join(dir, "in"),
        ];
        await mkdir(inside);
        const target = join(inside, "tar get");
        await writeFile(source, content);
        await writeFile(target, "");
        await using peer = await serve(source, "--piece-length", "100kB");
        const mounted = (options: string): string[] => {
          return [
            "unshare",
            "-m",
            "sh",
            "-c",
            `mount --bind "$0" "$1" && mount -o remount,bind,${options} "$1" && shift && exec "$@"`,
            outside,
            target,
          ];
        };
        const whole = [
          "get",
          ...peer.from("tcp"),
          "--content-length",
          "300000",
          "--piece-length",
          "100kB",
          "--quiet",
        ];
        const piece = ["piece", ...peer.from("tcp"), "--number", "1"];
        for (const [args, expected] of [
          [whole, content],
          [piece, content.subarray(100_000, 200_000)],
        ] as const) {
          await writeFile(outside, "before");
          const { ino } = await stat(outside);
          const readonly = await run([...args, "-o", target], mounted("ro")).exit;
          assert.equal(readonly.code, 7);
          assert.equal(
            readonly.err,
            `vortex-peer: StorageFailed: cannot write the mount point ${target} in place: read-only file system\n`,
          );
          assert.equal(await readFile(outside, "utf8"), "before");
          const { code, err } = await run([...args, "-o", target], mounted("rw")).exit;
          assert.deepEqual([code, err], [0, ""]);
          assert.ok(Buffer.compare(await readFile(outside), expected) === 0);
          assert.equal((await stat(outside)).ino, ino, "the file was not replaced");
          assert.deepEqual(await readdir(inside), ["tar get"]);
          assert.equal((await stat(target)).size, 0, "the mount was private to that process");
        }
      }),
  );

  it(
    `exits at once at a second signal, even while blocked on output${noPipes}`,
    { ...testOptions, skip: noPipes !== "" },
    () =>
      inTempDir(async (dir) => {
        await using peer = await heldPeer(seededBytes(9, 30 * PIECE_LENGTH));
        peer.allow(Number.POSITIVE_INFINITY);
        const pipe = join(dir, "pipe");
        assert.equal(spawnSync("mkfifo", [pipe]).status, 0);
        // A full pipe without a reader: the first write of the command blocks.
        const reader = await open(pipe, constants.O_RDWR | constants.O_NONBLOCK);
        await assert.rejects(async () => {
          for (;;) await reader.write(new Uint8Array(4096));
        }, /EAGAIN|WouldBlock/);
        try {
          const getting = run(["get", ...peer.from, "-o", pipe]);
          const isOver = getting.exit.then(() => true);
          await Promise.race([waitUntil(async () => peer.asked.length === 30), isOver]);
          // The first signal asks for an orderly end; further ones follow until the command exits.
          do sendSignal(getting.child, "SIGINT");
          while (
            !(await Promise.race([
              isOver,
              new Promise((resolve) => setTimeout(resolve, 500, false)),
            ]))
          );
          const { code, err } = await getting.exit;
          assert.ok(code === null || code === 130, `the command exited with ${code}: ${err}`);
        } finally {
          await reader.close();
        }
      }),
  );

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    const expected = signal === "SIGINT" ? 130 : 143;

    it(`exits at the first ${signal} while standard input is idle`, testOptions, () =>
      exitsWhileBlocked(["id", "content"], signal, expected, hasRead),
    );

    it(
      `exits at the first ${signal} while a named pipe has no other end${noUnblocking}`,
      { ...testOptions, skip: noUnblocking !== "" },
      () =>
        inTempDir(async (dir) => {
          await using peer = await heldPeer(seededBytes(9, PIECE_LENGTH));
          peer.allow(Number.POSITIVE_INFINITY);
          const pipe = join(dir, "pipe");
          assert.equal(spawnSync("mkfifo", [pipe]).status, 0);
          await exitsWhileBlocked(["get", ...peer.from, "-o", pipe], signal, expected, opensPipe);
          await exitsWhileBlocked(["id", "content", pipe], signal, expected, opensPipe);
        }),
    );
  }

  it("exits silently when the reader closes its output", testOptions, () =>
    inTempDir(async (dir) => {
      const source = join(dir, "source");
      await writeFile(source, seededBytes(5, 8 * MEBI));
      await using peer = await serve(source);
      const getting = run(["get", ...peer.from("tcp"), "--content-length", String(8 * MEBI)]);
      getting.child.stdout?.once("data", () => getting.child.stdout?.destroy());
      const { code, err } = await getting.exit;
      assert.deepEqual([code, err], [141, ""]);
    }),
  );

  it(
    `reports that its output cannot be written, and exits with 7${noFull}`,
    { ...testOptions, skip: noFull !== "" },
    () =>
      inTempDir(async (dir) => {
        const content = seededBytes(6, 300_000);
        const source = join(dir, "source");
        await writeFile(source, content);
        await using peer = await serve(source);
        const whole = ["get", ...peer.from("tcp"), "--content-length", "300000"];
        for (const args of [
          [...whole, "--json", "-o", join(dir, "target")],
          [...whole, "--quiet"],
          [...whole, "--quiet", "-o", "/dev/stdout"],
          ["config", "--json"],
          [
            "serve",
            source,
            "--json",
            "--no-quic",
            "--no-grpc",
            "--host",
            "127.0.0.1",
            "--tcp-port",
            "0",
          ],
          ["--help"],
        ]) {
          const { code, err } = await run(args, ["sh", "-c", '"$@" > /dev/full', "sh"]).exit;
          assert.equal(code, 7, `${args.join(" ")}: ${err}`);
          assert.match(
            err,
            /^vortex-peer: StorageFailed: cannot write standard output: no space left on device/,
          );
          assert.equal(err.split("\n").length, 2);
        }
        const wrong = await run(["get", "--json"], ["sh", "-c", '"$@" 2> /dev/full', "sh"]).exit;
        assert.deepEqual([wrong.code, wrong.out.length], [2, 0]);
      }),
  );

  it("refuses to serve a file that changed after indexing, and reports it", testOptions, () =>
    inTempDir(async (dir) => {
      const source = join(dir, "source");
      await writeFile(source, seededBytes(6, MEBI));
      await using peer = await serve(source);
      await writeFile(source, "something else");
      const { code, out, err } = await run(["piece", ...peer.from("tcp"), "--number", "0"]).exit;
      assert.deepEqual([code, out.length], [3, 0]);
      assert.match(err, /^vortex-peer: RemoteInternal: .*\n$/);
      const ended = await peer.end();
      assert.equal(ended.code, 0);
      assert.match(
        ended.err,
        /^vortex-peer: StorageFailed: .* changed after indexing: expected 1048576 bytes, got 14\n$/,
      );
    }),
  );

  it(
    "serves auto and hybrid with a pinned certificate, and over TCP without one",
    testOptions,
    () =>
      inTempDir(async (dir) => {
        const source = join(dir, "source");
        await writeFile(source, seededBytes(8, 1000));
        await using peer = await serve(source);
        const each = served.map((protocol) => `${protocol}=${peer.addresses[protocol]}`).join(",");
        const excludedOf = served.includes("quic")
          ? [[[], "quic"] as const, [["--fingerprint", peer.fingerprint ?? ""], "tcp"] as const]
          : [[[], undefined] as const];
        for (const protocol of ["auto", "hybrid"]) {
          const get = [
            "get",
            "--peer",
            each,
            "--protocol",
            protocol,
            "--task-id",
            peer.task.taskId,
          ];
          const more = ["--content-length", "1000", "--json", "-o", join(dir, protocol)];
          for (const [trust, expected] of excludedOf) {
            const { code, out, err } = await run([...get, ...trust, ...more]).exit;
            assert.equal(code, 0, err);
            const { parents } = lastObject(out) as {
              readonly parents: [Pick<ParentProgress, "excluded">];
            };
            const [excluded] = parents[0].excluded ?? [];
            assert.equal(excluded?.protocol, expected);
            assert.doesNotMatch(excluded?.reason ?? "", /tls\.|auto\./);
          }
          if (!served.includes("quic")) continue;
          const refused = await run([...get, "--fingerprint", "00".repeat(32), ...more]).exit;
          assert.equal(refused.code, 4, refused.err);
          const { message } = lastObject(refused.out) as { readonly message: string };
          assert.match(message, /is not pinned; if it is the right peer, add it to --fingerprint/);
        }
      }),
  );

  it(
    "keeps its certificate over a restart or kill, and rotates it permanently at SIGHUP",
    testOptions,
    () =>
      inTempDir(async (dir) => {
        const source = join(dir, "source");
        await writeFile(source, seededBytes(8, 1000));
        const tls = ["--grpc-tls", "--identity", join(dir, "identity.pem")];
        const target = (name: string): string[] => [
          "--content-length",
          "1000",
          "-o",
          join(dir, name),
        ];
        let first: string | undefined;
        {
          await using peer = await serve(source, ...tls);
          first = peer.fingerprint;
          const { code, err } = await run([
            "get",
            ...peer.from("grpc"),
            "--quiet",
            ...target("one"),
          ]).exit;
          assert.deepEqual([code, err], [0, ""]);
        }
        await using peer = await serve(source, ...tls);
        assert.equal(peer.fingerprint, first);
        const before = peer.from("grpc");
        sendSignal(peer.child, "SIGHUP");
        const { fingerprint } = JSON.parse(await peer.line(1));
        assert.notEqual(fingerprint, first);
        const refused = await run(["get", ...before, ...target("two")]).exit;
        assert.equal(refused.code, 4);
        assert.match(refused.err, /^vortex-peer: HandshakeFailed: .*not pinned.*\n$/);
        const renewed = before.map((word) => (word === first ? fingerprint : word));
        assert.equal((await run(["get", ...renewed, ...target("two")]).exit).code, 0);
        assert.deepEqual(await peer.end(), { code: 0, err: "" });
        await using again = await serve(source, ...tls);
        assert.equal(again.fingerprint, fingerprint);
        assert.equal((await run(["get", ...again.from("grpc"), ...target("three")]).exit).code, 0);
      }),
  );

  it(
    "stays alive until the server is closed, though it has only unreferenced handles",
    testOptions,
    () =>
      inTempDir(async (dir) => {
        const source = join(dir, "source");
        await writeFile(source, "content");
        const program = join(root, "test/support/unreferenced-server.ts");
        const args = ["serve", source, "--json", "--no-quic", "--no-grpc"];
        const serving = startProgram([...runner, program, ...args]);
        assert.match(await serving.line(), /"addresses"/);
        serving.kill("SIGTERM");
        const { code, err } = await serving.ended;
        assert.deepEqual([code, err], [0, "closed\n"]);
      }),
  );

  it("prints help and errors, and exits with documented codes", testOptions, async () => {
    const help = await run(["get", "--help"]).exit;
    assert.deepEqual([help.code, help.err], [0, ""]);
    assert.match(new TextDecoder().decode(help.out), /--task-id(.*\n)*Exit codes:/);
    const wrong = await run(["serve", "--bogus"]).exit;
    assert.deepEqual([wrong.code, wrong.out.length], [2, 0]);
    assert.equal(wrong.err, "vortex-peer: InvalidArgument: unknown option '--bogus'\n");
  });
});

interface Exit {
  readonly code: number | null;
  readonly out: Uint8Array;
  readonly err: string;
}

/** Starts the command. `exit` resolves once it has ended and all its output was read. */
function run(
  args: readonly string[],
  wrapper: readonly string[] = [],
  stdin: "ignore" | "pipe" = "ignore",
): { readonly child: ChildProcess; readonly exit: Promise<Exit> } {
  const [program = "", ...words] = [...wrapper, ...runner, main, ...args];
  const child = spawn(program, words, {
    cwd: root,
    stdio: [stdin, "pipe", "pipe"],
    // Removes test-runner and configuration variables from the environment.
    env: {
      ...process.env,
      NODE_TEST_CONTEXT: undefined,
      VORTEX_PEER_CONFIG: undefined,
      VORTEX_PEER_DEBUG: undefined,
      XDG_STATE_HOME: state,
    },
  });
  const [out, err]: [Uint8Array[], Uint8Array[]] = [[], []];
  child.stdout?.on("data", (chunk: Uint8Array) => out.push(chunk));
  child.stderr?.on("data", (chunk: Uint8Array) => err.push(chunk));
  const exit = new Promise<Exit>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      resolve({ code, out: joined(out), err: new TextDecoder().decode(joined(err)) });
    });
  });
  return { child, exit };
}

/** Resolves with the exit code and standard error of a command. */
async function ended({
  exit,
}: {
  readonly exit: Promise<Exit>;
}): Promise<[code: number | null, err: string]> {
  const { code, err } = await exit;
  return [code, err];
}

function parseLines(bytes: Uint8Array): { [key: string]: unknown }[] {
  const lines = new TextDecoder().decode(bytes).split("\n");
  assert.equal(lines.pop(), "");
  return lines.map((line) => JSON.parse(line));
}

/** Starts a peer in this process that answers a given number of requests and holds later ones. */
async function heldPeer(content: Uint8Array) {
  const taskId = "d4".repeat(32);
  const whole = memoryPieceStoreWith(nativeHashers);
  whole.putTask(taskId, content, { pieceLength: PIECE_LENGTH });
  const asked: number[] = [];
  let again = 0;
  let budget = 0;
  let waiting: (() => void)[] = [];
  let onHeld = (): void => {};
  const server = await runtimeApi(() => Promise.reject(new Error("no QUIC here"))).startServer({
    host: "127.0.0.1",
    tcp: { port: 0 },
    store: {
      getTask: (id) => whole.getTask(id),
      async getPiece(request) {
        if (asked.includes(request.number)) {
          again++;
          return whole.getPiece(request);
        }
        if (budget-- <= 0) {
          await new Promise<void>((resolve) => {
            waiting.push(resolve);
            onHeld();
          });
          // The client that sent the held request is gone by now.
          return undefined;
        }
        asked.push(request.number);
        return whole.getPiece(request);
      },
    },
  });
  const { tcp } = server.addresses;
  assert.ok(tcp !== undefined);
  const release = (): void => {
    for (const resolve of waiting) resolve();
    waiting = [];
  };
  return {
    /** Distinct numbers of the pieces sent. */
    asked,
    /**
     * Returns and resets the number of requests for pieces sent before. These compare
     * announcements, unless a piece is fetched twice.
     */
    takeAgain(): number {
      const count = again;
      again = 0;
      return count;
    },
    digest: digestOf("sha256", content, nativeHashers),
    from: [
      ...["--peer", formatAddress(tcp), "--task-id", taskId, "--stall-timeout", "300s"],
      ...["--content-length", String(content.length), "--piece-length", String(PIECE_LENGTH)],
    ],
    /** Resolves once a request is held. Fails if `exit` resolves first. */
    held: (exit: Promise<Exit>): Promise<void> =>
      Promise.race([
        new Promise<void>((resolve) => {
          onHeld = resolve;
          if (waiting.length > 0) resolve();
        }),
        exit.then(({ err }) => assert.fail(`the command exited by itself: ${err}`)),
      ]),
    /** Drops held requests, and answers `requests` more. */
    allow(requests: number): void {
      release();
      budget = requests;
    },
    async [Symbol.asyncDispose]() {
      release();
      await server.close();
    },
  };
}

/** Reads the piece numbers in the complete lines of a download's journal. */
async function journaled(path: string): Promise<number[]> {
  const text = await readFile(`${path}.part.journal`, "utf8").catch(() => "");
  const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
  return lines.slice(1, -1).map((line) => JSON.parse(line).number);
}

/** Parses the last line of a command's output as JSON. */
function lastObject(out: Uint8Array): unknown {
  return JSON.parse(new TextDecoder().decode(out).trimEnd().split("\n").at(-1) ?? "");
}

/** Serves a file at free ports of the loopback address, over all protocols of this runtime. */
async function serve(path: string, ...more: string[]) {
  const without = (["quic", "tcp", "grpc"] as const)
    .filter((name) => !served.includes(name))
    .map((name) => `--no-${name}`);
  const anyPort = ["--quic-port", "0", "--tcp-port", "0", "--grpc-port", "0"];
  const { child, exit } = run([
    "serve",
    path,
    "--json",
    "--host",
    "127.0.0.1",
    ...anyPort,
    ...without,
    ...more,
  ]);
  const lines = lineOf(child);
  const line = (number: number): Promise<string> =>
    Promise.race([
      lines(number),
      exit.then(({ code, err }) => assert.fail(`serve ended with ${code}: ${err}`)),
    ]);
  const ready = JSON.parse(await line(0)) as {
    readonly addresses: Record<Protocol, string>;
    readonly fingerprint?: string;
    readonly tasks: [{ taskId: string; contentLength: number; pieceCount: number; digest: string }];
  };
  const [task] = ready.tasks;
  const end = async (): Promise<{ code: number | null; err: string }> => {
    sendSignal(child, "SIGTERM");
    // A server that does not exit fails the test instead of blocking it.
    const timer = setTimeout(() => sendSignal(child, "SIGKILL"), 20_000);
    const { code, err } = await exit;
    clearTimeout(timer);
    return { code, err };
  };
  const pinned = more.includes("--grpc-tls") ? ["quic", "grpc"] : ["quic"];
  return {
    child,
    line,
    task,
    fingerprint: ready.fingerprint,
    addresses: ready.addresses,
    /** Command-line options for the peer and the task. */
    from: (protocol: Protocol, api = ""): string[] => [
      ...[
        "--peer",
        `${ready.addresses[protocol]}${api}`,
        "--protocol",
        protocol,
        "--task-id",
        task.taskId,
      ],
      ...(pinned.includes(protocol) && ready.fingerprint !== undefined
        ? ["--fingerprint", ready.fingerprint]
        : []),
    ],
    end,
    async [Symbol.asyncDispose]() {
      sendSignal(child, "SIGKILL");
      await exit;
    },
  };
}

/**
 * Sends a signal, without `child.kill`: after it, Deno 2.9 reports the signal instead of the exit
 * code.
 */
function sendSignal({ pid, exitCode, signalCode }: ChildProcess, signal: NodeJS.Signals): void {
  if (pid !== undefined && exitCode === null && signalCode === null) process.kill(pid, signal);
}

/** Requires that a command exits at its first signal, which it gets once `waits` has resolved. */
async function exitsWhileBlocked(
  args: string[],
  signal: NodeJS.Signals,
  code: number,
  waits: (child: ChildProcess) => Promise<void>,
): Promise<void> {
  const { child, exit } = run(args, [], "pipe");
  await waits(child);
  sendSignal(child, signal);
  const exited = await exit;
  assert.deepEqual([exited.code, args], [code, args], exited.err);
}

/** Fills the standard input of a command. Resolves once the command has read from it. */
function hasRead({ stdin }: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    // More than a pipe holds.
    stdin?.write(new Uint8Array(MEBI), () => resolve());
  });
}

/** Resolves once a thread of a command waits for the other end of a named pipe. Needs /proc. */
function opensPipe({ pid }: ChildProcess): Promise<void> {
  return waitUntil(async () => {
    const threads = await readdir(`/proc/${pid}/task`);
    const waits = threads.map((thread) =>
      readFile(`/proc/${pid}/task/${thread}/wchan`, "utf8").catch(() => ""),
    );
    return (await Promise.all(waits)).some((wait) => /fifo|partner/.test(wait));
  });
}

/** Returns a function that resolves with a line of standard output, by number. */
function lineOf(child: ChildProcess): (number: number) => Promise<string> {
  let text = "";
  let wake = (): void => {};
  child.stdout?.on("data", (chunk: Uint8Array) => {
    text += new TextDecoder().decode(chunk);
    wake();
  });
  return async (number) => {
    for (;;) {
      const line = text.split("\n").slice(0, -1)[number];
      if (line !== undefined) return line;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
}

async function waitUntil(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 10));
}

async function inTempDir(use: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), "vortex-peer-cli-"));
  try {
    await use(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}
