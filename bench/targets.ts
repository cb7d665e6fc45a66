/** Performance targets of this library, as ratios within one run on one machine. */
import type { FirstByteRow } from "./first-byte.ts";
import type { LongRow } from "./long/long.ts";
import type { MeasuredRow, Measurement } from "./rows.ts";
import { summarize } from "./statistics.ts";
import { bulk, bulkParallel, small } from "./workloads.ts";

/** Target with the reached value. */
export interface Target {
  readonly name: string;
  readonly runtime: string;
  /** Compared subjects and workload. */
  readonly detail: string;
  readonly value: number;
  readonly least?: number;
  readonly most?: number;
  readonly met: boolean;
}

type Bounds = Pick<Target, "least" | "most">;

const bindings = ["quiche", "node", "deno"] as const;

/** Returns all targets with measurements. */
export function targetsOf(
  rows: readonly MeasuredRow[],
  firstBytes: readonly FirstByteRow[],
  long: readonly LongRow[] = [],
): Target[] {
  const runtimes = [...new Set(rows.map(({ runtime }) => runtime))];
  return [
    ...runtimes.flatMap((runtime) => targetsOnOneHost(rows, runtime)),
    ...firstByteTargets(firstBytes),
    ...longTargets(long),
  ];
}

function targetsOnOneHost(rows: readonly MeasuredRow[], runtime: string): Target[] {
  const targets: Target[] = [];
  const runsOf = (subject: string, workload: string): readonly Measurement[] =>
    rows.find(
      (row) => row.runtime === runtime && row.subject === subject && row.workload === workload,
    )?.runs ?? [];
  const compare = (
    name: string,
    [subject, other]: readonly [string, string],
    workload: string,
    of: (run: Measurement) => number,
    bounds: Bounds,
  ): void => {
    const bases = runsOf(other, workload);
    // Only runs of the same turn are compared: drift of the machine affects both alike.
    const ratios = runsOf(subject, workload).flatMap((run) => {
      const base = bases.find(({ turn }) => turn === run.turn);
      return base === undefined ? [] : [of(run) / of(base)];
    });
    if (ratios.length === 0) return;
    const { median } = summarize(ratios);
    targets.push(target(name, runtime, `${subject} / ${other}, ${workload}`, median, bounds));
  };
  for (const binding of bindings) {
    const [quic, bare] = [`quic-${binding}`, `bare-${binding}`];
    for (const { name: workload } of [bulk, bulkParallel]) {
      compare("MB/s of the bare loop", [quic, bare], workload, rate, { least: 0.9 });
      compare("CPU of the bare loop", [quic, bare], workload, cpu, { most: 1.15 });
      compare("MB/s of tuned gRPC", [quic, "grpc-tuned"], workload, rate, {
        least: leastOverGrpc(runtime),
      });
      if (runtime.startsWith("node"))
        compare("CPU of tuned gRPC", [quic, "grpc-tuned"], workload, cpu, { most: 1 });
      compare("MB/s of gRPC as shipped", [quic, "grpc-shipped"], workload, rate, { least: 5 });
    }
    compare("requests/s of tuned gRPC", [quic, "grpc-tuned"], small.name, requests, { least: 3 });
    compare("p99 of tuned gRPC", [quic, "grpc-tuned"], small.name, p99, { most: 0.5 });
    compare("MB/s without verification", [quic, `${quic}-unverified`], bulk.name, rate, {
      least: 0.95,
    });
  }
  for (const { name: workload } of [bulk, bulkParallel]) {
    compare("MB/s of raw node:net", ["tcp", "raw-tcp"], workload, rate, { least: 0.85 });
  }
  return targets;
}

const rate = (run: Measurement): number => run.rate;
const requests = (run: Measurement): number => run.requestsPerSecond;
const p99 = (run: Measurement): number => run.p99;
const cpu = (run: Measurement): number => run.serverCpu + run.clientCpu;

function leastOverGrpc(runtime: string): number {
  if (runtime.startsWith("bun")) return 1.8;
  return runtime.startsWith("deno") ? 3 : 1.25;
}

/** Returns targets in round trips. Half a round trip is allowed for work and timers. */
function firstByteTargets(rows: readonly FirstByteRow[]): Target[] {
  return rows.flatMap(({ runtime, subject, how, roundTrip, summary }) => {
    if (summary === undefined || roundTrip === 0) return [];
    const value = summary.median / roundTrip;
    const detail = `${subject}, ${how}, ${roundTrip} ms`;
    if (how === "early")
      return [target("round trips to the first byte", runtime, detail, value, { most: 1.5 })];
    if (subject === "grpc")
      return [target("round trips to the first byte", runtime, detail, value, { least: 2.5 })];
    return [];
  });
}

function longTargets(rows: readonly LongRow[]): Target[] {
  const targets: Target[] = [];
  for (const loss of new Set(rows.map((row) => row.loss))) {
    const measured = rows.filter((row) => row.loss === loss && row.summary !== undefined);
    for (const { runtime, subject, summary } of measured) {
      if (summary === undefined || !subject.startsWith("quic-")) continue;
      const detail = `${subject}, ${100 * loss} % loss`;
      // On the same runtime, where a program could use them instead.
      const rivals = measured.filter((row) => row.runtime === runtime);
      const best = Math.max(...rivals.map((row) => row.summary?.median ?? 0));
      targets.push(
        target("MB/s of the runtime's best row", runtime, detail, summary.median / best, {
          least: 0.9,
        }),
      );
      const shipped = measured.find(
        (row) => row.subject === "grpc-shipped" && row.runtime === runtime,
      )?.summary;
      if (loss !== 0.01 || shipped === undefined) continue;
      const value = summary.median / shipped.median;
      targets.push(target("MB/s of gRPC as shipped", runtime, detail, value, { least: 10 }));
    }
  }
  return targets;
}

function target(
  name: string,
  runtime: string,
  detail: string,
  value: number,
  bounds: Bounds,
): Target {
  const { least = -Infinity, most = Infinity } = bounds;
  return { name, runtime, detail, value, ...bounds, met: value >= least && value <= most };
}
