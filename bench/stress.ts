/**
 * Runs a stress test: a thousand concurrent piece downloads over a hundred connections, from one
 * process. Every byte must be right, and nothing may be left behind.
 *
 *     npm run stress -- --runtime node,bun,deno --protocol quic,tcp,grpc
 *
 * One process has two servers, another one the client. Over QUIC and gRPC the client has half of
 * its connections to each server; over TCP each download is a connection. Every byte is compared.
 *
 * Fails with exit code 1 on a failed or wrong download, or on an unhandled rejection. Fails also if
 * a count does not return to its start within 30 s after the close: descriptors, handles, timers,
 * requests, QUIC connections.
 *
 * Options, with defaults:
 *
 * - `--downloads 1000`: concurrent downloads
 * - `--connections 100`: connections, 2 to 128
 * - `--rounds 5`: number of repetitions
 * - `--runtime node,bun,deno`: runtimes
 * - `--protocol quic,tcp,grpc`: protocols
 */
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { QuicBinding } from "../adapters/shared/fallback.ts";
import { runtimeApi } from "../entry/runtime-api.ts";
import type { StorageServer } from "../src/server/storage-server.ts";
import { MemoryPieceStore } from "../src/store/memory-store.ts";
import { formatAddress } from "../src/transport/address.ts";
import type { Protocol } from "../src/transport/protocol.ts";
import { choices, positive } from "./options.ts";
import { Worker } from "./processes.ts";
import { carryOutOrders } from "./program.ts";
import { commandFor, findRuntimes } from "./runtimes.ts";
import { CONTENT, PIECE_COUNT, PIECE_LENGTH, pieceBytes, TASK_ID } from "./soak/content.ts";
import { Counters, counts, type Gauges, leftoversOf } from "./soak/gauges.ts";
import { quicOfRuntime } from "./soak/quic.ts";

/** Argument of a worker process of this program, as JSON. */
interface Role {
  readonly role: "server" | "client";
}

interface ServerOrder {
  readonly protocol: Protocol;
}

/** Addresses of the servers. */
interface Servers {
  readonly addrs: readonly string[];
  readonly fingerprints: readonly string[];
}

interface ClientOrder extends Servers {
  readonly protocol: Protocol;
  readonly downloads: number;
  readonly connections: number;
  readonly rounds: number;
}

interface Outcome {
  readonly start: Gauges;
  /** Gauges while all downloads of a round are in flight. */
  readonly middle: Gauges;
  readonly end: Gauges;
  readonly seconds: number;
  readonly bytes: number;
  readonly failures: readonly string[];
}

/** Timeout for the whole test on a busy machine, in seconds. */
const TIMEOUT_S = 1800;
const SERVERS = 2;
/** Maximum number of failures that are reported. */
const MAX_FAILURES = 5;

const program = fileURLToPath(import.meta.url);

const given = process.argv[2];
if (given?.startsWith("{")) await runWorker(JSON.parse(given) as Role);
else await stress().catch(giveUp);

// --- the measuring process

async function stress(): Promise<void> {
  const { values } = parseArgs({
    options: {
      downloads: { type: "string", default: "1000" },
      connections: { type: "string", default: "100" },
      rounds: { type: "string", default: "5" },
      runtime: { type: "string", default: "node,bun,deno" },
      protocol: { type: "string", default: "quic,tcp,grpc" },
    },
  });
  const amount = {
    downloads: positive("--downloads", values.downloads),
    connections: positive("--connections", values.connections),
    rounds: positive("--rounds", values.rounds),
  };
  const wanted = choices("--runtime", values.runtime, ["node", "bun", "deno"]);
  const protocols = choices("--protocol", values.protocol, ["quic", "tcp", "grpc"]);
  const { list, missing } = await findRuntimes([]);
  for (const line of missing) console.log(`missing: ${line}`);
  for (const runtime of list.filter(({ name }) => wanted.includes(name))) {
    const command = commandFor(runtime, program);
    const server = new Worker<ServerOrder>(command, { role: "server" } satisfies Role);
    const client = new Worker<ClientOrder>(command, { role: "client" } satisfies Role);
    try {
      for (const protocol of protocols) {
        const servers = await server.ask<Servers>({ protocol }, TIMEOUT_S);
        const outcome = await client.ask<Outcome>({ protocol, ...servers, ...amount }, TIMEOUT_S);
        const problems = [...outcome.failures, ...leftoversOf(outcome.start, outcome.end)];
        report(
          `${runtime.title}, ${protocol}: ${amount.rounds} × ${amount.downloads} at a time`,
          outcome,
        );
        for (const problem of problems) console.log(`FAILED: ${problem}`);
        if (problems.length > 0) process.exitCode = 1;
      }
    } catch (error) {
      console.log(`FAILED: ${runtime.title}: ${error instanceof Error ? error.message : error}`);
      process.exitCode = 1;
    } finally {
      await Promise.all([client.end(), server.end()]);
    }
  }
}

function report(title: string, { start, middle, end, seconds, bytes }: Outcome): void {
  const held = counts
    .map((name) => `${name} ${start[name]}, ${middle[name]}, ${end[name]}`)
    .join("; ");
  const resident = [start, middle, end]
    .map((gauges) => Math.round(gauges.resident / 1e6))
    .join(", ");
  console.log(`${title}, ${Math.round(bytes / 1e6)} MB in ${seconds.toFixed(1)} s`);
  console.log(`  before, during, after: ${held}; resident MB ${resident}`);
}

function giveUp(error: unknown): void {
  console.error(`stress: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}

// --- the worker processes

async function runWorker({ role }: Role): Promise<void> {
  if (role === "server") playServer(await quicOfRuntime());
  else playClient(new Counters(), await quicOfRuntime());
}

function playServer(quic: QuicBinding): void {
  const entry = runtimeApi(quic);
  const store = new MemoryPieceStore();
  store.putTask(TASK_ID, CONTENT, { pieceLength: PIECE_LENGTH });
  const all: StorageServer[] = [];
  carryOutOrders<ServerOrder>(
    async ({ protocol }) => {
      const servers: StorageServer[] = [];
      for (let index = 0; index < SERVERS; index++) {
        servers.push(
          await entry.startServer({ store, host: "127.0.0.1", [protocol]: { port: 0 } }),
        );
      }
      all.push(...servers);
      const addrs = servers
        .flatMap(({ addresses }) => addresses[protocol] ?? [])
        .map(formatAddress);
      return {
        addrs,
        fingerprints: servers.flatMap(({ fingerprint }) => fingerprint ?? []),
      } satisfies Servers;
    },
    async () => {
      for (const server of all) await server.close({ grace: 0 });
    },
  );
}

function playClient(counters: Counters, quic: QuicBinding): void {
  const entry = runtimeApi(counters.quic(quic));
  let failures: string[] = [];
  const fail = (what: string): void => {
    if (failures.length < MAX_FAILURES) failures.push(what);
  };
  for (const event of ["unhandledRejection", "uncaughtException"] as const) {
    process.on(event, (error: unknown) =>
      fail(`${event}: ${error instanceof Error ? error.stack : error}`),
    );
  }
  const carryOut = async (order: ClientOrder): Promise<Outcome> => {
    const { protocol, addrs, fingerprints, downloads, connections, rounds } = order;
    failures = [];
    const fetchAll = async (count: number, onMiddle: () => Promise<void>): Promise<void> => {
      await using downloader = entry.createDownloader({
        protocol,
        ...(fingerprints.length > 0 && { tls: { fingerprints } }),
        // No timeout, since the duration does not matter here.
        connectTimeout: 600_000,
        stallTimeout: 600_000,
        pieceTimeout: 1_200_000,
        pool: { connectionsPerAddress: Math.ceil(connections / SERVERS) },
        telemetry: counters.telemetry,
      });
      const fetchOne = async (index: number): Promise<() => Promise<void>> => {
        const number = index % PIECE_COUNT;
        const addr = addrs[index % addrs.length] ?? "";
        const piece = await downloader.downloadPiece({
          addr,
          hostId: "stress",
          taskId: TASK_ID,
          number,
        });
        return async () => {
          const bytes = await piece.bytes();
          const right = pieceBytes(number);
          if (bytes.length !== right.length || bytes.some((byte, at) => byte !== right[at]))
            fail(`piece ${number} is wrong`);
        };
      };
      for (let round = 0; round < rounds; round++) {
        const begun = await Promise.allSettled(
          Array.from({ length: count }, (_, index) => fetchOne(index)),
        );
        for (const one of begun) if (one.status === "rejected") fail(String(one.reason));
        // All pieces are announced, and none is read.
        if (round === 0) await onMiddle();
        const reading = begun.map((one) => (one.status === "fulfilled" ? one.value() : undefined));
        for (const one of await Promise.allSettled(reading))
          if (one.status === "rejected") fail(String(one.reason));
      }
    };
    // A first run, since some resources are loaded, compiled or opened at first use and then kept.
    await fetchAll(10, async () => {});
    const start = await counters.settled();
    let middle = start;
    const startedAt = performance.now();
    await fetchAll(downloads, async () => {
      middle = await counters.gauges();
    });
    const seconds = (performance.now() - startedAt) / 1000;
    const end = await counters.settled(start);
    // Over TCP a connection may have ended with its answer, which then waits in memory.
    const made = protocol === "quic" ? middle.connections : middle.descriptors - start.descriptors;
    if (protocol !== "tcp" && start.descriptors > 0 && made < Math.min(connections, downloads)) {
      fail(`only ${made} connections were made`);
    }
    return { start, middle, end, seconds, bytes: downloads * rounds * PIECE_LENGTH, failures };
  };
  carryOutOrders<ClientOrder>(carryOut, async () => {});
}
