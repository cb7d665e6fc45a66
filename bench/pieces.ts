/**
 * MB/s of 4 MiB pieces through the public API, verification on: {QUIC, TCP, gRPC} × {Node, Bun} × {one, eight} at a time. Each
 * server and each client in a process of its own; rounds alternate over all rows, medians are printed.
 *
 *     node --import tsx bench/pieces.ts [--rounds 3] [--size 128MiB]
 */
import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { ServeReport } from "../demo/reports.ts";
import type { PieceRun, PieceRunResult } from "./fetch.ts";

const { values } = parseArgs({
  options: { rounds: { type: "string", default: "3" }, size: { type: "string", default: "128MiB" } },
});
const root = fileURLToPath(new URL("..", import.meta.url));
const runtimes: Record<string, readonly string[]> = {
  node: [process.execPath, "--import", "tsx"],
  bun: [join(root, "node_modules/.bin/bun")],
};
const protocols = ["quic", "tcp", "grpc"] as const;
const directory = await mkdtemp(join(tmpdir(), "vortex-peer-bench-"));
const children = new Set<ReturnType<typeof spawn>>();

try {
  const file = join(directory, "content");
  await writeFile(file, randomBytes(Number.parseInt(values.size, 10) * 1024 * 1024));
  const servers: Record<string, ServeReport> = {};
  for (const [name, command] of Object.entries(runtimes)) {
    servers[name] = await report<ServeReport>([...command, join(root, "demo/serve.ts"), file]);
  }
  const results = new Map<string, PieceRunResult[]>();
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const [name, command] of Object.entries(runtimes)) {
      for (const protocol of protocols) {
        for (const concurrency of [1, 8]) {
          const run: PieceRun = { ...(servers[name] as ServeReport), protocol, concurrency };
          const result = await report<PieceRunResult>([...command, join(root, "bench/fetch.ts"), JSON.stringify(run)]);
          const key = `| ${name} | ${protocol} | ${concurrency} |`;
          results.set(key, [...(results.get(key) ?? []), result]);
        }
      }
    }
  }
  console.log("| runtime, both ends | protocol | at a time | MB/s | least to most | client CPU s/GB |");
  console.log("| --- | --- | --- | --- | --- | --- |");
  for (const [key, runs] of results) {
    const rates = runs.map((run) => run.rate).sort((a, b) => a - b);
    const cpu = median(runs.map((run) => run.cpuPerGigabyte));
    const spread = `${rates[0]?.toFixed(0)} to ${rates.at(-1)?.toFixed(0)}`;
    console.log(`${key} ${median(rates).toFixed(1)} | ${spread} | ${cpu.toFixed(2)} |`);
  }
} finally {
  for (const child of children) child.kill("SIGTERM");
  await rm(directory, { recursive: true, force: true });
}

/** The one line that a program prints, as JSON. */
function report<T>([program = "", ...args]: readonly string[]): Promise<T> {
  const child = spawn(program, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
  children.add(child);
  return new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once("line", (line) => resolve(JSON.parse(line) as T));
    child.once("error", reject);
    child.once("exit", (code) => {
      children.delete(child);
      reject(new Error(`${args.join(" ")} ended with exit code ${code}`));
    });
  });
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

function randomBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  // getRandomValues gives at most 65,536 bytes at a time.
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}
