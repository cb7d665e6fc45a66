/**
 * Runs a soak test: a long run under load that looks for leaks, hangs, crashes and wrong bytes.
 *
 *     npm run soak -- --minutes 30 --runtime node --protocol quic,tcp,grpc
 *
 * One process is measured. It has three servers, which it restarts repeatedly: pieces in memory,
 * pieces of a file, and faulty pieces. It also has a peer that speaks no protocol, one long-lived
 * client per protocol, and clients that join and leave. Its requests are for pieces, ranges and
 * tasks, and end in every way: success, cancel, abort, timeout, a wrong answer, a vanished server.
 * Two more peers are separate processes, which are killed (SIGKILL) and restarted on their ports.
 *
 * Samples are taken after a garbage collection. The run fails with exit code 1 on:
 *
 * - a wrong byte, a request that hangs, an unhandled rejection, or the end of the process;
 * - an error that is no `VortexError`, or is `Internal`;
 * - a count that does not return to its start within 90 s after the close;
 * - a memory leak, see `trendsOf` in `soak/leak-check.ts`.
 *
 * Prints tables, and writes the series to `soak-<runtime>.svg` and `soak-<runtime>.json`.
 *
 * Options, with defaults:
 *
 * - `--minutes 30`: duration of the load; memory is checked from 2 minutes on, counts always
 * - `--runtime node`: runtimes out of `node`, `bun`, `deno`, one after the other
 * - `--protocol quic,tcp,grpc`: protocols
 * - `--concurrency 24`: concurrent requests
 * - `--seed N`, random by default: seed of the choices; their interleaving is not reproducible
 * - `--out bench/results`: output folder
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { fingerprintOf, selfSigned } from "../adapters/shared/tls.ts";
import { runtimeApi } from "../entry/runtime-api.ts";
import { MemoryPieceStore } from "../src/store/memory-store.ts";
import { formatAddress } from "../src/transport/address.ts";
import type { Protocol } from "../src/transport/protocol.ts";
import type { TlsIdentity } from "../src/transport/tls.ts";
import { choices, positive } from "./options.ts";
import { Worker } from "./processes.ts";
import { carryOutOrders } from "./program.ts";
import { commandFor, findRuntimes, type Runtime } from "./runtimes.ts";
import { chartOf } from "./soak/chart.ts";
import { CONTENT, DIGEST, PIECE_LENGTH, seededRandom, TASK_ID } from "./soak/content.ts";
import { Counters, counts, type Gauges, leftoversOf, openDescriptors } from "./soak/gauges.ts";
import { type Sample, type Trend, trendsOf } from "./soak/leak-check.ts";
import { type Addresses, Load, type Outcomes } from "./soak/load.ts";
import { ANSWER_TIMEOUT_S, RemotePeer } from "./soak/outer-peer.ts";
import { quicOfRuntime } from "./soak/quic.ts";

/** Argument of a worker process of this program, as JSON. */
type Role = { readonly identity: TlsIdentity; readonly protocols: readonly Protocol[] } & (
  | { readonly role: "peer"; readonly addresses: Addresses }
  | { readonly role: "load"; readonly seed: number; readonly concurrency: number }
);

/**
 * Orders to the measured process. `prepare` and `sample` are answered with gauges, `stop` with an
 * {@link Ending}.
 */
type LoadOrder =
  | { readonly do: "prepare"; readonly peers: readonly Addresses[] }
  | { readonly do: "start" }
  | { readonly do: "sample" }
  | { readonly do: "peers"; readonly peers: readonly Addresses[] }
  | { readonly do: "stop" };

/** State of the measured process at its end. */
interface Ending {
  readonly gauges: Gauges;
  readonly outcomes: Outcomes;
  readonly failures: readonly string[];
}

interface Plan {
  readonly seconds: number;
  readonly protocols: readonly Protocol[];
  readonly concurrency: number;
  readonly seed: number;
}

/** Minimum and maximum time between two kills of a peer, in ms. */
const KILL_INTERVAL_MS = [1_000, 6_000] as const;
/** Load before the first sample, in ms. */
const WARM_UP_MS = 1_000;
/** Approximate number of samples of a run. */
const SAMPLE_COUNT = 240;
const PEERS = 2;
/**
 * Timeout for the end of a run in seconds, in which each hanging operation is awaited and reported.
 */
const END_TIMEOUT_S = 1_800;

const program = fileURLToPath(import.meta.url);

const given = process.argv[2];
if (given?.startsWith("{")) await runWorker(JSON.parse(given) as Role);
else await soak().catch(giveUp);

// --- the measuring process

async function soak(): Promise<void> {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "30" },
      runtime: { type: "string", default: "node" },
      protocol: { type: "string", default: "quic,tcp,grpc" },
      concurrency: { type: "string", default: "24" },
      seed: { type: "string", default: String(Math.floor(Math.random() * 2 ** 32)) },
      out: { type: "string", default: fileURLToPath(new URL("results", import.meta.url)) },
    },
  });
  const plan: Plan = {
    seconds: positive("--minutes", values.minutes) * 60,
    protocols: choices("--protocol", values.protocol, ["quic", "tcp", "grpc"]),
    concurrency: positive("--concurrency", values.concurrency),
    seed: positive("--seed", values.seed),
  };
  const wanted = choices("--runtime", values.runtime, ["node", "bun", "deno"]);
  const { list, missing } = await findRuntimes([]);
  for (const line of missing) console.log(`missing: ${line}`);
  for (const name of wanted) {
    const runtime = list.find((each) => each.name === name);
    if (runtime === undefined || !(await soakOne(runtime, plan, values.out))) process.exitCode = 1;
  }
}

function giveUp(error: unknown): void {
  console.error(`soak: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}

/** Runs the test on one runtime, and resolves to true if it passed. */
async function soakOne(runtime: Runtime, plan: Plan, out: string): Promise<boolean> {
  const { protocols, concurrency, seed } = plan;
  const random = seededRandom(seed);
  const identity = await selfSigned();
  const peers = await Promise.all(
    Array.from({ length: PEERS }, () =>
      RemotePeer.start(commandFor(runtime, program), { role: "peer", identity, protocols }),
    ),
  );
  const load = new Worker<LoadOrder>(commandFor(runtime, program), {
    role: "load",
    identity,
    protocols,
    seed,
    concurrency,
  } satisfies Role);
  console.log(
    `${runtime.title}, ${protocols.join(", ")}, ${concurrency} at a time, ${plan.seconds} s, seed ${seed}`,
  );
  const samples: Sample[] = [];
  const started = performance.now();
  const elapsed = (): number => (performance.now() - started) / 1000;
  const problems: string[] = [];
  let ending: Ending | undefined;
  let killing = Promise.resolve();
  try {
    const where = (): readonly Addresses[] => peers.map(({ addresses }) => addresses);
    const start = await load.ask<Gauges>({ do: "prepare", peers: where() }, ANSWER_TIMEOUT_S);
    await load.ask({ do: "start" }, ANSWER_TIMEOUT_S);
    const begun = elapsed();
    const interval = Math.max(0.5, plan.seconds / SAMPLE_COUNT);
    const over = (): boolean => elapsed() - begun >= plan.seconds;
    killing = killAndRestart(peers, random, over);
    while (!over()) {
      await pause(interval * 1000);
      const gauges = await load.ask<Gauges>({ do: "sample" }, ANSWER_TIMEOUT_S);
      samples.push({ seconds: elapsed() - begun, ...gauges });
      await load.ask({ do: "peers", peers: where() }, ANSWER_TIMEOUT_S);
    }
    await killing;
    ending = await load.ask<Ending>({ do: "stop" }, END_TIMEOUT_S);
    problems.push(...ending.failures, ...leftoversOf(start, ending.gauges));
    const trends = trendsOf(samples);
    problems.push(...trends.filter(({ leaks }) => leaks).map(({ title }) => `${title} grows`));
    samples.push({ seconds: elapsed() - begun, ...ending.gauges });
    report(start, samples, ending, trends);
  } catch (error) {
    problems.push(`the measured process: ${error instanceof Error ? error.message : error}`);
  } finally {
    await killing.catch(() => {});
    await Promise.all([load.end(), ...peers.map((peer) => peer.end())]);
  }
  await mkdir(out, { recursive: true });
  const title = `${runtime.title}: ${protocols.join(", ")}, ${concurrency} requests at a time`;
  const file = join(out, `soak-${runtime.name}`);
  await writeFile(`${file}.svg`, chartOf(title, samples));
  await writeFile(
    `${file}.json`,
    `${JSON.stringify({ title, seed, outcomes: ending?.outcomes, problems, samples }, null, 1)}\n`,
  );
  for (const problem of problems) console.log(`FAILED: ${problem}`);
  console.log(
    `${problems.length === 0 ? "no leak, no wrong byte" : "failed"}; series in ${file}.svg`,
  );
  return problems.length === 0;
}

/** Kills and restarts peers in turn, until `over` returns true. */
async function killAndRestart(
  peers: readonly RemotePeer[],
  random: () => number,
  over: () => boolean,
): Promise<void> {
  while (!over()) {
    await pause(KILL_INTERVAL_MS[0] + random() * (KILL_INTERVAL_MS[1] - KILL_INTERVAL_MS[0]));
    if (!over()) await peers[Math.floor(random() * peers.length)]?.restart();
  }
}

function report(
  start: Gauges,
  samples: readonly Sample[],
  { outcomes, gauges }: Ending,
  trends: readonly Trend[],
): void {
  const most = (name: keyof Gauges): number =>
    Math.max(0, ...samples.map((sample) => sample[name]));
  console.table(
    Object.fromEntries(
      counts.map((name) => [name, { start: start[name], most: most(name), end: gauges[name] }]),
    ),
  );
  if (trends.length === 0) console.log("memory: the run is too short to judge it");
  else {
    console.table(
      Object.fromEntries(
        trends.map(({ memory, title, first, last, slope, tolerance, leaks }) => [
          `${title}, MB`,
          {
            start: megabytes(start[memory]),
            "first third": megabytes(first),
            "last third": megabytes(last),
            slope: megabytes(slope),
            tolerance: megabytes(tolerance),
            most: megabytes(most(memory)),
            end: megabytes(gauges[memory]),
            leaks,
          },
        ]),
      ),
    );
  }
  const total = Object.values(outcomes).reduce((sum, count) => sum + count, 0);
  console.log(
    `${total} operations: ${Object.entries(outcomes)
      .map(([name, count]) => `${name} ${count}`)
      .join(", ")}`,
  );
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 1e5) / 10;
}

// --- the worker processes

function runWorker(role: Role): Promise<void> {
  return role.role === "peer" ? runPeer(role) : runLoad(role);
}

async function runPeer({
  identity,
  protocols,
  addresses: before,
}: Role & { readonly role: "peer" }): Promise<void> {
  const entry = runtimeApi(await quicOfRuntime());
  const store = new MemoryPieceStore();
  store.putTask(TASK_ID, CONTENT, { pieceLength: PIECE_LENGTH, digest: DIGEST });
  const listen = (again: boolean): ReturnType<typeof entry.startServer> => {
    const portOf = (protocol: Protocol): number =>
      again ? Number(before[protocol]?.split(":")[1] ?? 0) : 0;
    const each = Object.fromEntries(
      protocols.map((protocol) => [protocol, { port: portOf(protocol) }]),
    );
    return entry.startServer({ store, host: "127.0.0.1", tls: identity, ...each });
  };
  carryOutOrders<"listen">(
    async () => {
      // The kernel may have given the port to a client's connection meanwhile.
      const { addresses } = await listen(true).catch(() => listen(false));
      return Object.fromEntries(
        Object.entries(addresses).map(([protocol, address]) => [protocol, formatAddress(address)]),
      );
    },
    async () => {},
  );
}

async function runLoad({
  identity,
  protocols,
  seed,
  concurrency,
}: Role & { readonly role: "load" }): Promise<void> {
  const counters = new Counters();
  const entry = runtimeApi(counters.quic(await quicOfRuntime()));
  const random = seededRandom(seed + 1);
  const fingerprint = fingerprintOf(identity.cert);
  const unexpected: string[] = [];
  let load: Load | undefined;
  const prepare = (peers: readonly Addresses[]): Promise<Load> =>
    Load.prepare({ entry, counters, protocols, identity, fingerprint, concurrency, peers, random });
  for (const event of ["unhandledRejection", "uncaughtException"] as const) {
    process.on(event, (error: unknown) => {
      unexpected.push(`${event}: ${error instanceof Error ? error.stack : error}`);
    });
  }
  let start: Gauges | undefined;
  /**
   * A first run, since some resources are loaded, compiled or opened at first use and then kept.
   */
  const warmUp = async (peers: readonly Addresses[]): Promise<void> => {
    const first = await prepare(peers);
    first.start();
    await pause(WARM_UP_MS);
    await first.stop();
    unexpected.push(...first.failures);
  };
  const stop = async (): Promise<Omit<Ending, "gauges">> => {
    await load?.stop();
    const { outcomes = {}, failures = [] } = load ?? {};
    // Deno frees sockets when they are collected, so nothing may refer to them.
    load = undefined;
    return { outcomes, failures: [...unexpected, ...failures] };
  };
  const carryOut = async (order: LoadOrder): Promise<unknown> => {
    switch (order.do) {
      case "prepare":
        await warmUp(order.peers);
        start = await counters.settled();
        load = await prepare(order.peers);
        return start;
      case "start":
        load?.start();
        return;
      case "sample":
        return counters.gauges();
      case "peers":
        if (load !== undefined) load.peers = order.peers;
        return;
      case "stop": {
        const { outcomes, failures } = await stop();
        const gauges = await counters.settled(start);
        const more = start !== undefined && gauges.descriptors > start.descriptors;
        const left = more ? [`open at the end: ${openDescriptors().join(", ")}`] : [];
        return { outcomes, failures: [...failures, ...left], gauges } satisfies Ending;
      }
    }
  };
  carryOutOrders<LoadOrder>(carryOut, async () => {});
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
