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
import { faceOf } from "../../entry/face.ts";
import { digestOf } from "../../src/digest/digest.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { ParentProgress } from "../../src/task/task.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { Protocol } from "../../src/transport/protocol.ts";
import { joined, seededBytes } from "../support/random.ts";
import { root, runner, startProgram } from "../support/run.ts";
import type { TaskPeerOptions } from "../support/task-peer.ts";

/** The command in processes of its own, on the runtime that runs this test. */
const main = join(root, "cli/main.ts");
/** Bytes of a piece, where a test needs many. */
const PIECE = 20_000;
const MEBI = 1024 * 1024;
/** What is told at the end of a download without trouble. */
const summary =
  /^fetched 9\.4 MB in [0-9.]+ s, [0-9.]+ [kMG]?B\/s, from 1 parent, verified by .*\n$/;
/** Why no disk of this test's own can be had; empty when it can. */
const noMounts =
  spawnSync("unshare", ["-m", "true"]).status === 0
    ? ""
    : " [gap: needs root, for a disk of its own]";
/** Why a command cannot be made to wait for a pipe; empty when it can. */
const noPipes =
  "Deno" in globalThis
    ? " [gap: Deno 2.9 holds its event loop while it writes to a pipe that is full, so it hears of no signal]"
    : spawnSync("mkfifo", ["--version"]).error !== undefined
      ? " [gap: needs mkfifo]"
      : "";
/** Why there is no output that is always full; empty when there is. */
const noFull = existsSync("/dev/full") ? "" : " [gap: needs /dev/full]";
/** Why no file can be written that the command was started with; empty when it can. */
const noInherited =
  "Deno" in globalThis
    ? " [gap: Deno 2.9 writes to no inherited descriptor but the standard ones]"
    : "";
/** A dozen processes, one after the other, on a machine that may be busy. */
const patience = { timeout: 110_000 };
/** Where the servers keep their certificates; not in the home of whoever runs this. */
const state = mkdtempSync(join(tmpdir(), "vortex-peer-state-"));
after(() => rm(state, { recursive: true }));

/** Protocols that this runtime's face has. */
const served: readonly Protocol[] =
  "Deno" in globalThis ? ["tcp", "grpc"] : ["quic", "tcp", "grpc"];

describe("vortex-peer in processes", () => {
  it(
    "warns once that QUIC may end a stock peer, unless the trust identifies the peer",
    patience,
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
      const warning =
        /^vortex-peer: QUIC to peers that no fingerprint or CA identifies: .*1\.1\.0 to 1\.4\.8/gm;
      assert.equal((await run([...dial, "--insecure"]).exit).err.match(warning)?.length, 1);
      assert.equal((await run(dial).exit).err.match(warning)?.length, 1);
      assert.equal(
        (await run([...dial, "--fingerprint", "00".repeat(32)]).exit).err.match(warning),
        null,
      );
    },
  );

  it(
    "serves a file that other processes fetch: whole, to a file and down a pipe, and one piece",
    patience,
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
    "keeps what is right when it is interrupted or killed, says so, and fetches no piece twice",
    patience,
    () =>
      inTempDir(async (dir) => {
        const content = seededBytes(9, 30 * PIECE - 5);
        await using peer = await gatedPeer(content);
        const target = join(dir, "target");
        const args = ["get", ...peer.from, "--digest", peer.digest, "-o", target];
        const kept = `; what is right is kept in ${target}.part, and the same command goes on from there`;

        // Nothing has come yet, so nothing is left.
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
          // Whatever the peer has sent is there by then; with the signals, the command says what it keeps.
          await until(async () => (await journaled(target)).length >= verified.size + 5);
          sendSignal(getting.child, signal);
          const [exit, err] = await ended(getting);
          // Bun and Node tell that a signal ended it by `null`, Deno by 128 and its number.
          assert.ok(exit === code || (code === null && exit === 137), `${signal}: ${exit}`);
          if (signal !== "SIGKILL")
            assert.ok(err.endsWith(`vortex-peer: Aborted: interrupted by ${signal}${kept}\n`), err);
          for (const number of peer.asked.slice(before))
            assert.ok(!verified.has(number), `piece ${number} came twice`);
          assert.ok(peer.takeAgain() <= 3, "three pieces are compared, and none comes twice");
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
            `^found ${verified.size} of 30 pieces of an earlier run; they are checked\nfetched `,
          ),
        );
        for (const number of peer.asked.slice(before))
          assert.ok(!verified.has(number), `piece ${number} came twice`);
        assert.ok(peer.takeAgain() <= 3, "three pieces are compared, and none comes twice");
        assert.ok(Buffer.compare(content, await readFile(target)) === 0);
        assert.deepEqual(await readdir(dir), ["target"]);
      }),
  );

  it("fetches from several peers, of which one is killed, and tells of it in JSON", patience, () =>
    inTempDir(async (dir) => {
      const contentLength = 40 * PIECE;
      const content = seededBytes(21, contentLength);
      const source = join(dir, "source");
      await writeFile(source, content);
      const shape = ["--piece-length", String(PIECE)];
      await using peer = await serve(source, ...shape);
      const { taskId } = peer.task;
      const options: TaskPeerOptions = {
        taskId,
        seed: 21,
        contentLength,
        pieceLength: PIECE,
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
        // It has delivered two pieces and hangs in the third, so the task cannot be done before it is killed.
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

  it("fetches a range, asks for what a peer has, and makes the id that serve made", patience, () =>
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
    `says that the disk is full, and keeps what is there${noMounts}`,
    { ...patience, skip: noMounts !== "" },
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
            `no space is left on the device; what is right is kept in ${target}.part, and the same command goes on from there\n`,
          ),
          full.err,
        );
        assert.deepEqual(await readdir(disk), [], "the small disk was of that process only");
      }),
  );

  it(
    "writes to the file behind its standard output from where that stands, under any of its names",
    patience,
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
          assert.equal((await stat(file)).ino, ino, "it is the same file");
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
    `writes to another file that it was started with from where that stands${noInherited}`,
    { ...patience, skip: noInherited !== "" },
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
    `refuses another file that it was started with where the runtime cannot write to it${noInherited === "" ? " [gap: this runtime writes to it]" : ""}`,
    { ...patience, skip: noInherited === "" },
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
          /^vortex-peer: Unavailable: \/dev\/fd\/5: Deno writes to no inherited file but standard output: use -o -\n$/,
        );
        assert.equal(await readFile(file, "utf8"), "head\ntail\n");
      }),
  );

  it(
    `writes a file that is mounted by itself in place, and finds out at once when it cannot${noMounts}`,
    { ...patience, skip: noMounts !== "" },
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
            `vortex-peer: StorageFailed: ${target} is a mount point, so it must be writable in place: the file system is read-only\n`,
          );
          assert.equal(await readFile(outside, "utf8"), "before");
          const { code, err } = await run([...args, "-o", target], mounted("rw")).exit;
          assert.deepEqual([code, err], [0, ""]);
          assert.ok(Buffer.compare(await readFile(outside), expected) === 0);
          assert.equal((await stat(outside)).ino, ino, "it is the same file");
          assert.deepEqual(await readdir(inside), ["tar get"]);
          assert.equal((await stat(target)).size, 0, "it was mounted for that process only");
        }
      }),
  );

  it(
    `ends at once at a second signal, whatever it waits for${noPipes}`,
    { ...patience, skip: noPipes !== "" },
    () =>
      inTempDir(async (dir) => {
        await using peer = await gatedPeer(seededBytes(9, 30 * PIECE));
        peer.allow(Number.POSITIVE_INFINITY);
        const pipe = join(dir, "pipe");
        assert.equal(spawnSync("mkfifo", [pipe]).status, 0);
        // Full from the start, and nobody reads: the first write of the command does not end.
        const reader = await open(pipe, constants.O_RDWR | constants.O_NONBLOCK);
        await assert.rejects(async () => {
          for (;;) await reader.write(new Uint8Array(4096));
        }, /EAGAIN|WouldBlock/);
        try {
          const getting = run(["get", ...peer.from, "-o", pipe]);
          const isOver = getting.exit.then(() => true);
          await Promise.race([until(async () => peer.asked.length === 30), isOver]);
          // One for the command to end in order, and then another one, soon or late.
          do sendSignal(getting.child, "SIGINT");
          while (
            !(await Promise.race([
              isOver,
              new Promise((resolve) => setTimeout(resolve, 500, false)),
            ]))
          );
          const { code, err } = await getting.exit;
          assert.ok(code === null || code === 130, `it ended with ${code}: ${err}`);
        } finally {
          await reader.close();
        }
      }),
  );

  it("ends without a word when whoever reads its output has enough", patience, () =>
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
    `says in words that its output cannot be written, and ends with 7${noFull}`,
    { ...patience, skip: noFull !== "" },
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
            /^vortex-peer: StorageFailed: standard output cannot be written: no space is left on the device/,
          );
          assert.equal(err.split("\n").length, 2);
        }
        const wrong = await run(["get", "--json"], ["sh", "-c", '"$@" 2> /dev/full', "sh"]).exit;
        assert.deepEqual([wrong.code, wrong.out.length], [2, 0]);
      }),
  );

  it("refuses a file that changed after it was indexed, and tells of it", patience, () =>
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
        /^vortex-peer: StorageFailed: .* has 14 bytes, it was indexed with 1048576\n$/,
      );
    }),
  );

  it(
    "is fetched from by auto and hybrid with a pinned certificate, and without one over TCP",
    patience,
    () =>
      inTempDir(async (dir) => {
        const source = join(dir, "source");
        await writeFile(source, seededBytes(8, 1000));
        await using peer = await serve(source);
        const each = served.map((protocol) => `${protocol}=${peer.addresses[protocol]}`).join(",");
        const leftOutOf = served.includes("quic")
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
          for (const [trust, expected] of leftOutOf) {
            const { code, out, err } = await run([...get, ...trust, ...more]).exit;
            assert.equal(code, 0, err);
            const { parents } = lastObject(out) as {
              readonly parents: [Pick<ParentProgress, "leftOut">];
            };
            const [leftOut] = parents[0].leftOut ?? [];
            assert.equal(leftOut?.protocol, expected);
            assert.doesNotMatch(leftOut?.reason ?? "", /tls\.|auto\./);
          }
          if (!served.includes("quic")) continue;
          const refused = await run([...get, "--fingerprint", "00".repeat(32), ...more]).exit;
          assert.equal(refused.code, 4, refused.err);
          const { message } = lastObject(refused.out) as { readonly message: string };
          assert.match(
            message,
            /is not pinned; if it is the right peer, add that to --fingerprint/,
          );
        }
      }),
  );

  it(
    "keeps its certificate over a restart, however it ended, and changes it at SIGHUP for good",
    patience,
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

  it("prints help and errors, and exits as documented", patience, async () => {
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

/** Starts the command. `exit` resolves when it has ended and all it wrote was read. */
function run(
  args: readonly string[],
  wrapper: readonly string[] = [],
): { readonly child: ChildProcess; readonly exit: Promise<Exit> } {
  const [program = "", ...words] = [...wrapper, ...runner, main, ...args];
  const child = spawn(program, words, {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    // Whether there is a colour or a test reporter or a configuration around is none of the command's business.
    env: {
      ...process.env,
      NODE_TEST_CONTEXT: undefined,
      VORTEX_PEER_CONFIG: undefined,
      VORTEX_PEER_DEBUG: undefined,
      XDG_STATE_HOME: state,
    },
  });
  const [out, err]: [Uint8Array[], Uint8Array[]] = [[], []];
  child.stdout.on("data", (chunk: Uint8Array) => out.push(chunk));
  child.stderr.on("data", (chunk: Uint8Array) => err.push(chunk));
  const exit = new Promise<Exit>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      resolve({ code, out: joined(out), err: new TextDecoder().decode(joined(err)) });
    });
  });
  return { child, exit };
}

/** The exit code and standard error. */
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

/** A peer in this process that answers so many requests, and holds the others. */
async function gatedPeer(content: Uint8Array) {
  const taskId = "d4".repeat(32);
  const whole = new MemoryPieceStore(nativeHashers);
  whole.putTask(taskId, content, { pieceLength: PIECE });
  const asked: number[] = [];
  let again = 0;
  let budget = 0;
  let waiting: (() => void)[] = [];
  let onHeld = (): void => {};
  const server = await faceOf(() => Promise.reject(new Error("no QUIC here"))).startServer({
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
          // Whoever asked is gone by now.
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
    /** Numbers of the pieces that were sent, each once. */
    asked,
    /** Requests for pieces that had been sent before: for their announcements, unless they are fetched twice. */
    takeAgain(): number {
      const count = again;
      again = 0;
      return count;
    },
    digest: digestOf("sha256", content, nativeHashers),
    from: [
      ...["--peer", formatAddress(tcp), "--task-id", taskId, "--stall-timeout", "300s"],
      ...["--content-length", String(content.length), "--piece-length", String(PIECE)],
    ],
    /** Resolves when a request is held; fails when `exit` comes first. */
    held: (exit: Promise<Exit>): Promise<void> =>
      Promise.race([
        new Promise<void>((resolve) => {
          onHeld = resolve;
          if (waiting.length > 0) resolve();
        }),
        exit.then(({ err }) => assert.fail(`it ended by itself: ${err}`)),
      ]),
    /** Drops what is held, and answers `requests` more. */
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

/** Pieces that the journal of a download notes, in lines that are whole. */
async function journaled(path: string): Promise<number[]> {
  const text = await readFile(`${path}.part.journal`, "utf8").catch(() => "");
  const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
  return lines.slice(1, -1).map((line) => JSON.parse(line).number);
}

/** Serves a file at any free ports of the loopback address, over the protocols that there are. */
function lastObject(out: Uint8Array): unknown {
  return JSON.parse(new TextDecoder().decode(out).trimEnd().split("\n").at(-1) ?? "");
}

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
    // A server that does not end is a failure to report, and not one to wait for.
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
    /** Options that name the peer and the task. */
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

/** Not `child.kill`: after that, Deno 2.9 reports the signal that was sent in place of the exit code. */
function sendSignal({ pid, exitCode, signalCode }: ChildProcess, signal: NodeJS.Signals): void {
  if (pid !== undefined && exitCode === null && signalCode === null) process.kill(pid, signal);
}

/** The lines of the standard output, each when it is there. */
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

async function until(condition: () => Promise<boolean>): Promise<void> {
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
