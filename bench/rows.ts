/** Rows of the comparison, measured round by round. */
import type {
  ClientArguments,
  ClientOrder,
  RunOrder,
  RunResult,
  ServerArguments,
  ServerOrder,
} from "./messages.ts";
import { Failure, Worker } from "./processes.ts";
import type { Runtime } from "./runtimes.ts";
import { type Summary, summarize } from "./statistics.ts";
import type { Peer } from "./subject.ts";
import type { SubjectEntry } from "./subjects.ts";
import type { Usage } from "./usage.ts";
import type { Workload } from "./workloads.ts";

/** Timeout for a server to start, or a client to dial, in seconds. */
const START_TIMEOUT_S = 30;

/** Row of the comparison: a subject on a runtime, under a workload. */
export interface Row {
  readonly name: string;
  readonly runtime: Runtime;
  readonly subject: SubjectEntry;
  readonly workload: Workload;
}

/** Extent of the measurement. */
export interface Amount {
  /** Number of rounds, each with new processes. */
  readonly rounds: number;
  /** Runs of each row per round, interleaved with those of the other rows. */
  readonly turns: number;
  /** Size of a run, in bytes. */
  readonly size: number;
  /** Time after which a run requests no more pieces, in seconds. */
  readonly seconds: number;
  /** Additional time for a run to end, in seconds. */
  readonly patience: number;
  /** Length of the server's content, in bytes. */
  readonly contentLength: number;
  /** True if one pair of processes runs all workloads of a subject, one after the other. */
  readonly shared: boolean;
}

/** Result of one run. */
export interface Measurement {
  /**
   * Number of the turn over all rounds. Runs of the same turn are seconds apart, and so met the
   * same speed of the machine.
   */
  readonly turn: number;
  /** Throughput in MB/s (10^6 bytes). */
  readonly rate: number;
  readonly requestsPerSecond: number;
  /** Time of a request in ms: median, and 99th percentile below. */
  readonly p50: number;
  readonly p99: number;
  /** CPU seconds per 10^9 bytes. */
  readonly serverCpu: number;
  readonly clientCpu: number;
  /** Peak resident memory in bytes. The server's includes the content. */
  readonly serverMemory: number;
  readonly clientMemory: number;
}

/** Measured quantities. */
export type Figure = Exclude<keyof Measurement, "turn">;

/** Row with its measurements. */
export interface MeasuredRow {
  readonly name: string;
  /** Title of the runtime, with its version. */
  readonly runtime: string;
  readonly subject: string;
  readonly title: string;
  readonly kind: SubjectEntry["kind"];
  readonly workload: string;
  readonly runs: readonly Measurement[];
  /** Summary over all runs; absent when all failed. */
  readonly summary?: Readonly<Record<Figure, Summary>>;
  /** Reason of missing runs. */
  readonly failure?: string;
  /** True if the runtime or machine does not support the subject. */
  readonly missing?: boolean;
}

/**
 * Measures the rows of each runtime and workload in short interleaved runs, with the order reversed
 * in every other turn. The speed of a shared machine drifts by half within minutes, and compared
 * rows must meet the same speed.
 */
export async function measureRows(
  rows: readonly Row[],
  amount: Amount,
  report: (line: string) => void,
): Promise<MeasuredRow[]> {
  const runs = new Map<Row, Measurement[]>(rows.map((row) => [row, []]));
  const failures = new Map<Row, Failure>();
  for (let round = 0; round < amount.rounds; round++) {
    for (const group of grouped(rows, amount.shared)) {
      const left = group.filter((row) => !failures.get(row)?.missing);
      await measureGroup(left, amount, round * amount.turns, (row, outcome) => {
        if (outcome instanceof Failure) failures.set(row, outcome);
        else runs.get(row)?.push(outcome);
        const what =
          outcome instanceof Failure ? outcome.message : `${outcome.rate.toFixed(1)} MB/s`;
        report(`round ${round + 1}: ${row.name}: ${what}`);
      });
    }
  }
  return rows.map((row) => measuredRow(row, runs.get(row) ?? [], failures.get(row)));
}

/** Groups rows that share processes, or at least the time of their measurement. */
function grouped(rows: readonly Row[], shared: boolean): Row[][] {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const key = shared ? row.runtime.title : `${row.runtime.title} ${row.workload.name}`;
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  return [...groups.values()];
}

/**
 * Measures rows of one runtime with a pair of processes for each subject. After a failure, a new
 * pair is started.
 */
async function measureGroup(
  rows: readonly Row[],
  amount: Amount,
  firstTurn: number,
  done: (row: Row, outcome: Measurement | Failure) => void,
): Promise<void> {
  const pairs = new Map<SubjectEntry, Pair>();
  const failed = new Set<Row>();
  try {
    for (const workload of new Set(rows.map((row) => row.workload))) {
      const compared = rows.filter((row) => row.workload === workload);
      for (let turn = firstTurn; turn < firstTurn + amount.turns; turn++) {
        for (const row of turn % 2 === 0 ? compared : compared.toReversed()) {
          if (failed.has(row)) continue;
          const pair = pairs.get(row.subject) ?? startPair(row, rows, amount.contentLength);
          pairs.set(row.subject, pair);
          try {
            done(row, await measure(row, pair, amount, turn));
          } catch (error) {
            if (!(error instanceof Failure)) throw error;
            failed.add(row);
            pairs.delete(row.subject);
            await Promise.all([pair.client.kill(), pair.server.kill()]);
            done(row, error);
          }
        }
      }
    }
  } finally {
    await Promise.all(
      [...pairs.values()].flatMap(({ client, server }) => [client.end(), server.end()]),
    );
  }
}

/** Server process and its client process. */
interface Pair {
  readonly server: Worker<ServerOrder>;
  readonly client: Worker<ClientOrder>;
  readonly peer: Promise<Peer>;
  /** True after the first run. */
  warm: boolean;
}

function startPair({ runtime, subject }: Row, rows: readonly Row[], contentLength: number): Pair {
  const pieceLengths = [...new Set(rows.map(({ workload }) => workload.pieceLength))];
  const serverArguments: ServerArguments = {
    subject: subject.name,
    host: "127.0.0.1",
    contentLength,
    pieceLengths,
  };
  const clientArguments: ClientArguments = { subject: subject.name };
  const server = new Worker<ServerOrder>(runtime.command("server"), serverArguments);
  const client = new Worker<ClientOrder>(runtime.command("client"), clientArguments);
  const peer = server.ask<Peer>({ do: "listen" }, START_TIMEOUT_S);
  peer.catch(() => {});
  return { server, client, peer, warm: false };
}

async function measure(
  { workload }: Row,
  pair: Pair,
  amount: Amount,
  turn: number,
): Promise<Measurement> {
  const { server, client } = pair;
  const { pieceLength, concurrency } = workload;
  const { size, seconds, patience, contentLength } = amount;
  const requests = Math.max(2 * concurrency, Math.ceil(size / pieceLength));
  const peer = await pair.peer;
  const order: RunOrder = {
    do: "run",
    peer,
    contentLength,
    pieceLength,
    concurrency,
    requests,
    seconds,
  };
  // Warm-up before each run: the connection, the code and the caches.
  const part = pair.warm ? 8 : 1;
  const warmUp = {
    ...order,
    requests: Math.max(concurrency, Math.ceil(requests / part)),
    seconds: seconds / part,
  };
  await client.ask<RunResult>(warmUp, seconds + patience);
  pair.warm = true;
  await server.ask({ do: "count" }, START_TIMEOUT_S);
  const run = await client.ask<RunResult>(order, seconds + patience);
  const served = await server.ask<Usage>({ do: "usage" }, START_TIMEOUT_S);
  const gigabytes = run.bytes / 1e9;
  return {
    turn,
    rate: run.bytes / 1e6 / run.seconds,
    requestsPerSecond: run.requests / run.seconds,
    p50: run.p50,
    p99: run.p99,
    serverCpu: served.cpuSeconds / gigabytes,
    clientCpu: run.cpuSeconds / gigabytes,
    serverMemory: served.peakMemory,
    clientMemory: run.peakMemory,
  };
}

function measuredRow(
  { name, runtime, subject, workload }: Row,
  runs: readonly Measurement[],
  failure: Failure | undefined,
): MeasuredRow {
  return {
    name,
    runtime: runtime.title,
    subject: subject.name,
    title: subject.title,
    kind: subject.kind,
    workload: workload.name,
    runs,
    ...(runs.length > 0 && { summary: summaryOf(runs) }),
    ...(failure !== undefined && { failure: failure.message, missing: failure.missing }),
  };
}

function summaryOf(runs: readonly Measurement[]): Readonly<Record<Figure, Summary>> {
  const of = (key: Figure): Summary => summarize(runs.map((run) => run[key]));
  return {
    rate: of("rate"),
    requestsPerSecond: of("requestsPerSecond"),
    p50: of("p50"),
    p99: of("p99"),
    serverCpu: of("serverCpu"),
    clientCpu: of("clientCpu"),
    serverMemory: of("serverMemory"),
    clientMemory: of("clientMemory"),
  };
}
