import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import type { Protocol } from "../../src/transport/protocol.ts";
import { joined, seededBytes } from "../support/random.ts";

/** The command in processes of its own, on the runtime that runs this test. */
const main = fileURLToPath(new URL("../../adapters/cli/main.ts", import.meta.url));
const root = fileURLToPath(new URL("../../", import.meta.url));
const MEBI = 1024 * 1024;
/** A dozen processes, one after the other, on a machine that may be busy. */
const patience = { timeout: 110_000 };
/** Where the servers keep their certificates; not in the home of whoever runs this. */
const state = mkdtempSync(join(tmpdir(), "vortex-peer-state-"));
after(() => rm(state, { recursive: true }));

/** Protocols that this runtime's face has. */
const served: readonly Protocol[] = "Deno" in globalThis ? ["tcp", "grpc"] : ["quic", "tcp", "grpc"];

describe("vortex-peer in processes", () => {
  it("serves a file that other processes fetch: whole, to a file and down a pipe, and one piece", patience, () =>
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
        assert.deepEqual([file.code, file.err, file.out.length], [0, "", 0]);
        assert.ok(
          content.length === (await stat(target)).size && Buffer.compare(content, await readFile(target)) === 0,
        );
        const piped = await run(["get", ...peer.from(protocol), "--stat-peer", peer.addresses.grpc]).exit;
        assert.deepEqual([piped.code, piped.err], [0, ""]);
        assert.ok(Buffer.compare(content, piped.out) === 0);
        const piece = await run(["piece", ...peer.from(protocol), "--number", "2", "--range", "5-"]).exit;
        assert.deepEqual([piece.code, piece.err], [0, ""]);
        assert.ok(Buffer.compare(content.subarray(8 * MEBI + 5), piece.out) === 0);
        const missing = await run(["piece", ...peer.from(protocol), "--number", "3"]).exit;
        assert.equal(missing.code, 3);
        assert.match(missing.err, /^vortex-peer: NotFound: .*\n$/);
      }
      assert.deepEqual((await readdir(dir)).sort(), [...served, "source"].sort());
      assert.deepEqual(await peer.end(), { code: 0, err: "" });
      const target = join(dir, "late");
      const late = await run(["get", ...peer.from("tcp"), "--content-length", "1", "-o", target]).exit;
      assert.equal(late.code, 4);
      assert.match(late.err, /^vortex-peer: ConnectionRefused: .*\n$/);
    }),
  );

  it("leaves nothing when it is interrupted, and exits with 130", patience, () =>
    inTempDir(async (dir) => {
      const source = join(dir, "source");
      await writeFile(source, new Uint8Array(64 * MEBI));
      // At this rate, the fetch takes a minute, far longer than the test waits.
      await using peer = await serve(source, "--upload-rate", "1MiB/s");
      const target = join(dir, "target");
      for (const signal of ["SIGINT", "SIGTERM"] as const) {
        const args = ["--content-length", String(64 * MEBI), "-o", target];
        const getting = run(["get", ...peer.from("tcp"), ...args]);
        await until(async () => {
          const [part] = (await readdir(dir)).filter((name) => name.endsWith(".part"));
          return part !== undefined && (await stat(join(dir, part))).size > 0;
        });
        sendSignal(getting.child, signal);
        const { code, err } = await getting.exit;
        assert.deepEqual([code, err], [130, `vortex-peer: Aborted: interrupted by ${signal}\n`]);
        assert.deepEqual(await readdir(dir), ["source"]);
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
      assert.match(ended.err, /^vortex-peer: StorageFailed: .* has 14 bytes, it was indexed with 1048576\n$/);
    }),
  );

  it("keeps its certificate over a restart, however it ended, and changes it at SIGHUP for good", patience, () =>
    inTempDir(async (dir) => {
      const source = join(dir, "source");
      await writeFile(source, seededBytes(8, 1000));
      const tls = ["--grpc-tls", "--identity", join(dir, "identity.pem")];
      const target = (name: string): string[] => ["--content-length", "1000", "-o", join(dir, name)];
      let first: string | undefined;
      {
        await using peer = await serve(source, ...tls);
        first = peer.fingerprint;
        const { code, err } = await run(["get", ...peer.from("grpc"), ...target("one")]).exit;
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
      assert.match(refused.err, /^vortex-peer: HandshakeFailed: .*not pinned\n$/);
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
function run(args: readonly string[]): { readonly child: ChildProcess; readonly exit: Promise<Exit> } {
  const child = spawn(process.execPath, [...runtimeArgs(), main, ...args], {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    // Whether there is a colour or a test reporter around is none of the command's business.
    env: { ...process.env, NODE_TEST_CONTEXT: undefined, VORTEX_PEER_DEBUG: undefined, XDG_STATE_HOME: state },
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

/** Serves a file at any free ports of the loopback address, over the protocols that there are. */
async function serve(path: string, ...more: string[]) {
  const without = (["quic", "tcp", "grpc"] as const)
    .filter((name) => !served.includes(name))
    .map((name) => `--no-${name}`);
  const anyPort = ["--quic-port", "0", "--tcp-port", "0", "--grpc-port", "0"];
  const { child, exit } = run(["serve", path, "--json", "--host", "127.0.0.1", ...anyPort, ...without, ...more]);
  const lines = lineOf(child);
  const line = (number: number): Promise<string> =>
    Promise.race([lines(number), exit.then(({ code, err }) => assert.fail(`serve ended with ${code}: ${err}`))]);
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
    from: (protocol: Protocol): string[] => [
      ...["--peer", ready.addresses[protocol], "--protocol", protocol, "--task-id", task.taskId],
      ...(pinned.includes(protocol) && ready.fingerprint !== undefined ? ["--fingerprint", ready.fingerprint] : []),
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

/** What the runtime needs to run a TypeScript file. */
function runtimeArgs(): string[] {
  if ("Deno" in globalThis) return ["run", "--allow-all"];
  if ("Bun" in globalThis) return [];
  return ["--import", "tsx"];
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
