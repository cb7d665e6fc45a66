/** Tests a download whose process is suspended until its lock expires, and then continues. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, statSync, utimesSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { runtimeApi } from "../../entry/runtime-api.ts";
import { digestOf } from "../../src/digest/digest.ts";
import { portableHashers } from "../../src/digest/hasher.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { seededBytes } from "../support/random.ts";
import { root, runner, runToEnd, startProgram } from "../support/run.ts";

const taskId = "ef".repeat(32);
const LENGTH = 1_500_000;
/** Reason to skip tests that create a pid namespace; empty where that works. */
const noNamespaces =
  spawnSync("unshare", ["--pid", "--fork", "--mount-proc", "true"]).status === 0
    ? ""
    : " [gap: needs root, for a pid namespace]";
const entry = runtimeApi(() => Promise.reject(new Error("no QUIC in this test")));

function serve(content: Uint8Array): Promise<StorageServer> {
  const store = new MemoryPieceStore();
  store.putTask(taskId, content, { pieceLength: 1_000_000 });
  return entry.startServer({ store, host: "127.0.0.1", tcp: { port: 0 } });
}

/** Returns the command that fetches the task from a server. */
function getCommand({ addresses }: StorageServer, output: string, ...more: string[]): string[] {
  const lengths = ["--content-length", String(LENGTH), "--piece-length", "1000000"];
  const peer = `127.0.0.1:${addresses.tcp?.port}`;
  const task = ["--peer", peer, "--task-id", taskId, ...lengths, "-o", output, ...more];
  return [...runner, `${root}cli/main.ts`, "get", ...task];
}

/** Returns the pid of the first child of `parent`, a child of this process. */
async function grandchildOf(parent: number): Promise<number> {
  for (;;) {
    const children = readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8").trim();
    if (children !== "") return Number(children.split(" ")[0]);
    await sleep(10);
  }
}

it(`a suspended download writes nothing to the file of the download that took over${noNamespaces}`, {
  skip: noNamespaces !== "",
  timeout: 60_000,
}, async () => {
  const directory = await mkdtemp(join(tmpdir(), "vortex-suspended-"));
  const [right, other] = [seededBytes(1, LENGTH), seededBytes(2, LENGTH)];
  const output = join(directory, "out");
  const [rightPeer, otherPeer] = [await serve(right), await serve(other)];
  // Neither process sees the pid of the other, as in two containers.
  const container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
  const shell = ["sh", "-c", 'echo $$; exec "$@"', "sh"];
  const slow = getCommand(otherPeer, output, "--limit", "400kB/s");
  const suspended = startProgram([...shell, ...container, ...slow]);
  try {
    const pid = await grandchildOf(Number(await suspended.line()));
    const part = `${output}.part`;
    while (!existsSync(part) || statSync(part).size === 0) await sleep(10);
    process.kill(pid, "SIGSTOP");
    const past = new Date(Date.now() - 61_000);
    utimesSync(`${part}.lock`, past, past);
    const digest = digestOf("sha256", right, portableHashers);
    const second = await runToEnd(getCommand(rightPeer, output, "--digest", digest));
    assert.equal(second.code, 0, second.err);
    assert.deepEqual(await readdir(directory), ["out"]);
    process.kill(pid, "SIGCONT");
    const { code, err } = await suspended.ended;
    assert.ok(readFileSync(output).equals(right), "the finished file changed");
    assert.equal(code, 7, err);
    assert.match(err, /StorageFailed: lock \S+out\.part\.lock was taken over or removed: /);
    assert.deepEqual(await readdir(directory), ["out"]);
  } finally {
    suspended.kill();
    await suspended.ended;
    for (const peer of [rightPeer, otherPeer]) await peer.close();
    await rm(directory, { recursive: true, force: true });
  }
});
