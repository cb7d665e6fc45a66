/**
 * Serves a file from one process, and fetches it in another over QUIC, TCP and gRPC. Prints a
 * table. The exit code is 0 if every byte is correct.
 *
 *     npm run demo                     256 MiB of seeded pseudo-random bytes
 *     npm run demo -- PATH             your own file
 *     npm run demo -- --size 32MiB     another size
 *
 * On Bun: `bun run demo`. On Deno: `deno run --allow-all --unstable-net --no-check demo/main.ts`.
 */
import { spawn } from "node:child_process";
import { mkdtemp, open, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { FetchReport, ServeReport } from "./reports.ts";

const MEBI = 1024 * 1024;
const { bun, deno, node } = process.versions;
const runtime =
  bun !== undefined ? `Bun ${bun}` : deno !== undefined ? `Deno ${deno}` : `Node ${node}`;
/** Deno's QUIC is unstable, and Deno does not expose its command-line flags. */
const flags =
  deno === undefined ? process.execArgv : ["run", "--allow-all", "--unstable-net", "--no-check"];

const { values, positionals } = parseArgs({
  options: {
    size: { type: "string", default: "256MiB" },
    concurrency: { type: "string", default: "8" },
  },
  allowPositionals: true,
});
const directory = await mkdtemp(join(tmpdir(), "vortex-peer-demo-"));
const children = new Set<ReturnType<typeof spawn>>();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    for (const child of children) child.kill("SIGTERM");
    void rm(directory, { recursive: true, force: true }).then(() => process.exit(130));
  });
}

try {
  await demonstrate(positionals[0]);
} catch (error) {
  console.error(`demo failed: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
} finally {
  for (const child of children) child.kill("SIGTERM");
  await rm(directory, { recursive: true, force: true });
}

async function demonstrate(path: string | undefined): Promise<void> {
  const file = path ?? join(directory, "demo.bin");
  if (path === undefined) await writeRandomFile(file, parseSize(values.size));
  console.log(
    `${runtime} serves ${path ?? "seeded pseudo-random bytes"} (${(await stat(file)).size} bytes)`,
  );

  const server = start("serve.ts", [file]);
  const served = await server.report<ServeReport>();
  console.log(`task ${served.taskId}: ${served.pieceCount} pieces, sha256 ${served.sha256}\n`);

  const reports: FetchReport[] = [];
  for (const protocol of ["quic", "tcp", "grpc"] as const) {
    const args = {
      ...served,
      protocol,
      output: join(directory, `${protocol}.bin`),
      concurrency: values.concurrency,
    };
    const report = await start("fetch.ts", [JSON.stringify(args)]).report<FetchReport>();
    if (report.sha256 !== served.sha256) {
      throw new Error(
        `${protocol}: the file has sha256 ${report.sha256}, served was ${served.sha256}`,
      );
    }
    reports.push(report);
  }
  printTable(reports);
}

/** Runs a program of this folder on this runtime. Its report is the one line that it prints. */
function start(program: string, args: string[]): { report<T>(): Promise<T> } {
  const path = fileURLToPath(new URL(program, import.meta.url));
  const child = spawn(process.execPath, [...flags, path, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.add(child);
  const exited = new Promise<never>((_resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      children.delete(child);
      reject(new Error(`${program} ended with ${signal ?? `exit code ${code}`}`));
    });
  });
  exited.catch(() => {});
  return {
    async report<T>(): Promise<T> {
      const lines = createInterface({ input: child.stdout });
      const first = new Promise<string>((resolve) => lines.once("line", resolve));
      return JSON.parse(await Promise.race([first, exited])) as T;
    },
  };
}

/** Writes incompressible bytes, the same on every machine: xorshift32 from a fixed seed. */
async function writeRandomFile(path: string, size: number): Promise<void> {
  const handle = await open(path, "wx");
  try {
    let state = 0x9e3779b9;
    const words = new Uint32Array(MEBI / 4);
    for (let left = size; left > 0; left -= MEBI) {
      for (let at = 0; at < words.length; at++) {
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        words[at] = state;
      }
      await handle.write(new Uint8Array(words.buffer, 0, Math.min(left, MEBI)));
    }
  } finally {
    await handle.close();
  }
}

function parseSize(text: string): number {
  const match = /^(\d+)(KiB|MiB|GiB)?$/.exec(text);
  if (match === null)
    throw new Error(`--size ${text}: expected bytes, or a number with KiB, MiB or GiB`);
  const unit = { KiB: 1024, MiB: MEBI, GiB: 1024 * MEBI }[match[2] ?? ""] ?? 1;
  return Number(match[1]) * unit;
}

function printTable(reports: readonly FetchReport[]): void {
  const rows = reports.map((report) => [
    report.protocol,
    String(report.bytes),
    report.seconds.toFixed(2),
    (report.bytes / 1e6 / report.seconds).toFixed(1),
    (report.cpuSeconds / (report.bytes / 2 ** 30)).toFixed(2),
    `${Math.round(report.peakMemory / MEBI)} MiB`,
    `sha256 ${report.sha256.slice(0, 16)}… ok`,
  ]);
  const head = ["protocol", "bytes", "seconds", "MB/s", "CPU s/GiB", "peak memory", "digest"];
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  for (const row of [head, ...rows]) {
    console.log(row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  "));
  }
}
