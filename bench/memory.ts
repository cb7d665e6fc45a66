/**
 * Measures the memory of a task download: to a file, or as a stream to a slow reader.
 *
 * node --import tsx bench/memory.ts --size 4GiB --runtime node,bun --to file,stream --protocol tcp
 *
 * Server and client are separate processes on one runtime. The client connects and fetches one byte
 * before its memory counts. The growth is the maximum resident memory during the download minus the
 * resident memory before. The server generates the bytes, so no file of that size is needed; the
 * file of the client is deleted. Prints a table, and the same as JSON.
 *
 * Options, with defaults:
 *
 * - `--size 1GiB,4GiB`: sizes of the content, one download each; growth should not depend on them
 * - `--runtime node,bun,deno`: runtimes, all by default
 * - `--protocol tcp`: `quic`, `tcp` or `grpc`
 * - `--to file,stream`: destinations
 * - `--rate 200MB`: rate of the stream's reader, per second
 * - `--directory`: place of the files, the system's temporary directory by default; should be a
 *   disk, not memory
 */
import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { fileSink } from "../adapters/files/sink.ts";
import { nativeHashers } from "../adapters/shared/native-hashers.ts";
import type { RuntimeApi } from "../entry/runtime-api.ts";
import { digestOf } from "../src/digest/digest.ts";
import { type PieceMetadata, pieceExtent, planTask } from "../src/piece.ts";
import type { PieceStore } from "../src/store/store.ts";
import { formatAddress } from "../src/transport/address.ts";
import { choices } from "./options.ts";
import { Worker } from "./processes.ts";
import { carryOutOrders } from "./program.ts";
import { commandFor, findRuntimes, type Runtime } from "./runtimes.ts";

type Protocol = "quic" | "tcp" | "grpc";
type Target = "file" | "stream";

/** Argument of a worker process of this program, as JSON. */
type Role =
  | { readonly role: "server"; readonly protocol: Protocol; readonly size: number }
  | {
      readonly role: "client";
      readonly protocol: Protocol;
      readonly size: number;
      readonly rate: number;
    };

/** Address of the server. */
interface Peer {
  readonly addr: string;
  readonly fingerprint?: string;
}

interface ClientOrder {
  readonly peer: Peer;
  /** File to write; absent to read a stream. */
  readonly path?: string;
}

/** Result of one download; sizes in bytes. */
interface Row {
  readonly runtime: string;
  readonly protocol: Protocol;
  readonly to: Target;
  readonly size: number;
  /** Resident memory before the download. */
  readonly before: number;
  /** Maximum growth during the download. */
  readonly growth: number;
  readonly seconds: number;
}

const taskId = "e5".repeat(32);
const request = { taskId, hostId: "bench" } as const;
const units: Readonly<Record<string, number>> = {
  "": 1,
  MB: 1e6,
  GB: 1e9,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
};
/** Timeout of one download, in seconds. */
const TIMEOUT_S = 3600;

const given = process.argv[2];
if (given?.startsWith("{")) await runWorker(JSON.parse(given) as Role);
else await measure();

// --- the measuring process

async function measure(): Promise<void> {
  const { values } = parseArgs({
    options: {
      size: { type: "string", default: "1GiB,4GiB" },
      runtime: { type: "string", default: "node,bun,deno" },
      protocol: { type: "string", default: "tcp" },
      to: { type: "string", default: "file,stream" },
      rate: { type: "string", default: "200MB" },
      directory: { type: "string", default: tmpdir() },
    },
  });
  const { list, missing: absent } = await findRuntimes([]);
  const missing = [...absent];
  const wanted = values.runtime.split(",");
  const rows: Row[] = [];
  for (const runtime of list.filter(({ name }) => wanted.includes(name))) {
    for (const protocol of choices("--protocol", values.protocol, ["quic", "tcp", "grpc"])) {
      for (const to of choices("--to", values.to, ["file", "stream"])) {
        for (const size of values.size.split(",").map(bytesOf)) {
          try {
            rows.push(
              await download(runtime, protocol, to, size, bytesOf(values.rate), values.directory),
            );
          } catch (error) {
            missing.push(
              `${runtime.title}, ${protocol}, ${to}: ${error instanceof Error ? error.message : error}`,
            );
          }
        }
      }
    }
  }
  console.table(
    rows.map(({ size, before, growth, seconds, ...row }) => ({
      ...row,
      MiB: size / 2 ** 20,
      "MB before": megabytes(before),
      "MB growth": megabytes(growth),
      seconds: Math.round(seconds),
    })),
  );
  for (const line of missing) console.log(`missing: ${line}`);
  console.log(JSON.stringify(rows));
  if (missing.length > 0) process.exitCode = 1;
}

async function download(
  runtime: Runtime,
  protocol: Protocol,
  to: Target,
  size: number,
  rate: number,
  parent: string,
): Promise<Row> {
  const directory = await mkdtemp(join(parent, "vortex-peer-memory-"));
  const command = commandFor(runtime, fileURLToPath(import.meta.url));
  const server = new Worker<"listen">(command, { role: "server", protocol, size } satisfies Role);
  const client = new Worker<ClientOrder>(command, {
    role: "client",
    protocol,
    size,
    rate,
  } satisfies Role);
  try {
    const peer = await server.ask<Peer>("listen", 60);
    const order: ClientOrder = { peer, ...(to === "file" && { path: join(directory, "content") }) };
    const used = await client.ask<Pick<Row, "before" | "growth" | "seconds">>(order, TIMEOUT_S);
    return { runtime: runtime.title, protocol, to, size, ...used };
  } finally {
    await Promise.all([client.end(), server.end()]);
    await rm(directory, { recursive: true, force: true });
  }
}

function bytesOf(text: string): number {
  const [, amount = "", unit = ""] = /^(\d+)\s*([A-Za-z]*)$/.exec(text) ?? [];
  const bytes = Number(amount) * (units[unit] ?? Number.NaN);
  if (!(bytes > 0)) throw new Error(`${text}: expected a size as 512MiB, 4GiB or 200MB`);
  return bytes;
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 1e6);
}

// --- the measured processes

async function runWorker(role: Role): Promise<void> {
  const entry = await faceOfRuntime();
  const closing: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (const end of closing) await end();
  };
  if (role.role === "server") {
    carryOutOrders<"listen">(async () => {
      const { protocol } = role;
      const store = generated(role.size);
      const server = await entry.startServer({ store, host: "127.0.0.1", [protocol]: { port: 0 } });
      closing.push(() => server.close({ grace: 0 }));
      const address = server.addresses[protocol];
      if (address === undefined) throw new Error(`${protocol} did not start`);
      const { fingerprint } = server;
      return {
        addr: formatAddress(address),
        ...(fingerprint !== undefined && { fingerprint }),
      } satisfies Peer;
    }, close);
  } else {
    carryOutOrders<ClientOrder>((order) => fetchTask(entry, role, order), close);
  }
}

async function fetchTask(
  entry: RuntimeApi,
  { protocol, size, rate }: Role & { readonly role: "client" },
  { peer, path }: ClientOrder,
): Promise<Pick<Row, "before" | "growth" | "seconds">> {
  const { addr, fingerprint } = peer;
  await using downloader = entry.createDownloader({
    protocol,
    ...(fingerprint !== undefined && { tls: { fingerprints: [fingerprint] } }),
  });
  const first = await downloader.downloadPiece({
    ...request,
    addr,
    number: 0,
    range: { start: 0, end: 1 },
  });
  await first.bytes();
  const { pieceLength } = planTask(size);
  const task = { ...request, parents: [addr], contentLength: size, pieceLength };
  const memory = startMemory();
  const startedAt = performance.now();
  if (path === undefined) await readSlowly(downloader.streamTask(task).content, size, rate);
  else await downloader.downloadTask({ ...task, to: fileSink(path) });
  const seconds = (performance.now() - startedAt) / 1000;
  return { ...memory(), seconds };
}

async function readSlowly(
  content: ReadableStream<Uint8Array>,
  size: number,
  rate: number,
): Promise<void> {
  const startedAt = performance.now();
  let taken = 0;
  for await (const chunk of content) {
    taken += chunk.length;
    const early = startedAt + (taken * 1000) / rate - performance.now();
    if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
  }
  if (taken !== size) throw new Error(`content: expected ${size} bytes, got ${taken}`);
}

/**
 * Starts to watch resident memory: by the kernel's peak where it can be reset (Linux), otherwise by
 * samples.
 */
function startMemory(): () => Pick<Row, "before" | "growth"> {
  const before = process.memoryUsage().rss;
  let sampled = before;
  const timer = setInterval(() => {
    sampled = Math.max(sampled, process.memoryUsage().rss);
  }, 20);
  let reset = false;
  try {
    // proc(5), clear_refs: resets the peak.
    writeFileSync("/proc/self/clear_refs", "5");
    reset = true;
  } catch {
    // No peak: the samples are used.
  }
  return () => {
    clearInterval(timer);
    const peak = reset
      ? Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024
      : 0;
    return { before, growth: Math.max(peak, sampled) - before };
  };
}

/** Creates a store with one task whose pieces share the same bytes. */
function generated(size: number): PieceStore {
  const plan = planTask(size);
  const block = new Uint8Array(plan.pieceLength);
  for (let at = 0; at < block.length; at++) block[at] = (at * 2_654_435_761) >>> 24;
  const digests = new Map<number, string>();
  const metadataOf = (number: number): PieceMetadata => {
    const { offset, length } = pieceExtent(plan, number);
    const digest =
      digests.get(length) ?? digestOf("crc32", block.subarray(0, length), nativeHashers);
    digests.set(length, digest);
    return {
      number,
      offset: BigInt(offset),
      length: BigInt(length),
      digest,
      parentId: "",
      trafficType: 0,
      costSeconds: 0n,
      createdAtSeconds: 0n,
    };
  };
  return {
    async getTask() {
      const pieces = (): PieceMetadata[] =>
        Array.from({ length: plan.pieceCount }, (_, number) => metadataOf(number));
      return { ...plan, taskId, kind: "standard", createdAtSeconds: 0n, pieces };
    },
    async getPiece({ number }) {
      if (number >= plan.pieceCount) return undefined;
      const metadata = metadataOf(number);
      return {
        metadata,
        async *read({ start = 0, end = Number(metadata.length) } = { start: 0 }) {
          for (let at = start; at < end; at += 256 * 1024)
            yield block.subarray(at, Math.min(end, at + 256 * 1024));
        },
      };
    },
  };
}

function faceOfRuntime(): Promise<RuntimeApi> {
  if ("bun" in process.versions) return import("../entry/bun.ts");
  if ("deno" in process.versions) return import("../entry/deno.ts");
  return import("../entry/node.ts");
}
