/**
 * gRPC between processes of different runtimes, with the runtime that runs this test on one end: over the three runtimes,
 * all nine pairs. HTTP/2 implementations that hold at one call at a time have failed each other here at eight and more.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { describe, it } from "node:test";
import { runtimeName } from "../support/fixtures.ts";
import { root } from "../support/run.ts";

type RuntimeName = typeof runtimeName;

const peer = join(root, "test/support/grpc-peer.ts");
const bin = (name: string): string => join(root, "node_modules/.bin", name);

/** The words that run a TypeScript program on a runtime, or why it cannot be had. */
const commands: Record<RuntimeName, readonly string[] | string> = {
  node: commandOf("node", ["--import", "tsx"]),
  bun: commandOf("bun", []),
  deno: commandOf("deno", ["run", "--allow-all", "--no-check", "--config", join(root, "deno.json")]),
};

function commandOf(name: RuntimeName, flags: readonly string[]): readonly string[] | string {
  if (name === runtimeName) return [process.execPath, ...flags];
  if (name === "node") return spawnSync("node", ["--version"]).status === 0 ? [name, ...flags] : "no node on the PATH";
  return existsSync(bin(name)) ? [bin(name), ...flags] : `no ${name} in node_modules`;
}

interface Child {
  readonly process: ChildProcess;
  /** The first line that it prints; rejects when it ends before. */
  readonly line: Promise<string>;
  readonly ended: Promise<{ readonly code: number | null; readonly err: string }>;
}

function start(command: readonly string[], ...args: string[]): Child {
  const [program = "", ...flags] = command;
  const child = spawn(program, [...flags, peer, ...args], { cwd: root, stdio: ["pipe", "pipe", "pipe"] });
  let out = "";
  let err = "";
  child.stderr.on("data", (chunk: Uint8Array) => {
    err += new TextDecoder().decode(chunk);
  });
  const ended = new Promise<{ code: number | null; err: string }>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, err }));
  });
  const line = new Promise<string>((resolve, reject) => {
    child.stdout.on("data", (chunk: Uint8Array) => {
      out += new TextDecoder().decode(chunk);
      const end = out.indexOf("\n");
      if (end >= 0) resolve(out.slice(0, end));
    });
    ended.then(({ code }) => reject(new Error(`ended with ${code} before it printed a line: ${err}`)), reject);
  });
  return { process: child, line, ended };
}

describe("gRPC between runtimes", () => {
  const pairs: [server: RuntimeName, client: RuntimeName][] = [[runtimeName, runtimeName]];
  for (const other of ["node", "bun", "deno"] as const) {
    if (other !== runtimeName) pairs.push([runtimeName, other], [other, runtimeName]);
  }
  for (const [server, client] of pairs) {
    const name = `32 pieces of 4 MiB at a time, and one of 64 MiB, from ${server} to ${client}`;
    const [serverCommand, clientCommand] = [commands[server], commands[client]];
    const missing = [serverCommand, clientCommand].find((command) => typeof command === "string");
    if (typeof serverCommand === "string" || typeof clientCommand === "string") {
      // Not every runtime prints the reason of a skip, so it stands in the name.
      it(`${name} [skipped: ${missing}]`, { skip: true }, () => {});
      continue;
    }
    it(name, { timeout: 60_000 }, async () => {
      const serving = start(serverCommand, "server");
      try {
        const fetching = start(clientCommand, "client", await serving.line);
        try {
          const fetched = JSON.parse(await fetching.line) as unknown;
          assert.deepEqual(fetched, { bytes: 2 * (32 * 4 + 64) * 1024 * 1024, connections: 1 });
          assert.deepEqual(await fetching.ended, { code: 0, err: "" });
        } finally {
          fetching.process.kill();
        }
        serving.process.stdin?.end();
        assert.deepEqual(await serving.ended, { code: 0, err: "" });
      } finally {
        serving.process.kill();
      }
    });
  }
});
