/** Large pieces over a long link: 50 ms round-trip time, 200 Mbit/s, with and without loss. */
import type { ClientOrder, RunResult, ServerOrder } from "../messages.ts";
import { Failure, Worker } from "../processes.ts";
import type { Runtime } from "../runtimes.ts";
import { type Summary, summarize } from "../statistics.ts";
import type { Peer } from "../subject.ts";
import type { SubjectEntry } from "../subjects.ts";
import { long } from "../workloads.ts";
import { congestionControls, type Link, prepareLinks } from "./link.ts";

/** Fractions of lost packets. */
const LOSS_FRACTIONS = [0, 0.001, 0.01];
/** Latency in ms per direction, rate in bits/s, and a queue of one round trip in bytes. */
const LINK = { delay: 25, rate: 200e6, queue: 1_250_000 };
/** Time in which pieces are requested, in seconds, from the first request on a new connection. */
const REQUEST_TIME_S = 7;
/** Number of pieces of a download with a fixed length, over TCP. */
const DOWNLOAD_PIECES = 64;
/** Additional time for pieces in flight, in seconds. */
const EXTRA_TIME_S = 180;
const STARTING = 60;
const CONTENT_LENGTH = 32 * long.pieceLength;

/** Results of a subject over the link. */
export interface LongRow {
  readonly name: string;
  readonly runtime: string;
  readonly subject: string;
  /** Title of the subject, with the congestion control for TCP. */
  readonly title: string;
  readonly loss: number;
  /** Throughput of each round, in MB/s. */
  readonly runs: readonly number[];
  readonly summary?: Summary;
  readonly failure?: string;
  readonly missing?: boolean;
}

interface Candidate {
  readonly runtime: Runtime;
  readonly subject: SubjectEntry;
  /** Congestion control of TCP; undefined for QUIC, which has its own. */
  readonly congestion: string | undefined;
  /** Number of pieces to fetch. Default: as many as are requested within the request time. */
  readonly pieces?: number;
}

/**
 * Measures each subject with its default settings; TCP and gRPC with each relevant congestion
 * control of the kernel. The rate counts whole pieces: all requested within seven seconds, over the
 * time until the last one is complete.
 */
export async function measureLong(
  pairs: readonly (readonly [Runtime, SubjectEntry])[],
  only: RegExp,
  rounds: number,
  report: (line: string) => void,
): Promise<LongRow[]> {
  const openLink = prepareLinks();
  const available = congestionControls();
  const candidates = pairs.flatMap(([runtime, subject]) =>
    candidatesOf(runtime, subject, available),
  );
  const rows: LongRow[] = [];
  for (const loss of LOSS_FRACTIONS) {
    const chosen = candidates.filter((candidate) => only.test(nameOf(candidate, loss)));
    if (chosen.length === 0) continue;
    const link = await openLink({ ...LINK, loss });
    try {
      const runs = new Map<Candidate, number[]>(chosen.map((candidate) => [candidate, []]));
      const failures = new Map<Candidate, Failure>();
      for (let round = 0; round < rounds; round++) {
        for (const candidate of round % 2 === 0 ? chosen : chosen.toReversed()) {
          const outcome = await measure(candidate, link);
          if (outcome instanceof Failure) failures.set(candidate, outcome);
          else runs.get(candidate)?.push(outcome);
          const what = outcome instanceof Failure ? outcome.message : `${outcome.toFixed(2)} MB/s`;
          report(`round ${round + 1}: ${nameOf(candidate, loss)}: ${what}`);
        }
      }
      rows.push(
        ...chosen.map((each) => rowOf(each, loss, runs.get(each) ?? [], failures.get(each))),
      );
    } finally {
      link.close();
    }
  }
  return rows;
}

function candidatesOf(
  runtime: Runtime,
  subject: SubjectEntry,
  available: readonly string[],
): Candidate[] {
  if (subject.kind === "control") return [];
  if (subject.firstByte === "resuming") return [{ runtime, subject, congestion: undefined }];
  const controls = subject.kind === "grpc" ? ["cubic"] : ["cubic", "bbr"];
  const candidates = controls
    .filter((name) => available.includes(name))
    .map((congestion) => ({ runtime, subject, congestion }));
  // Short enough that the start of each connection counts.
  if (subject.name !== "tcp") return candidates;
  return candidates.flatMap((each) => [each, { ...each, pieces: DOWNLOAD_PIECES }]);
}

async function measure(
  { runtime, subject, congestion, pieces }: Candidate,
  link: Link,
): Promise<number | Failure> {
  if (congestion !== undefined) link.setCongestionControl(congestion);
  const { pieceLength, concurrency } = long;
  const contentLength = CONTENT_LENGTH;
  const server = new Worker<ServerOrder>(link.near.run(runtime.command("server")), {
    subject: subject.name,
    host: link.near.address,
    contentLength,
    pieceLengths: [pieceLength],
  });
  const client = new Worker<ClientOrder>(link.far.run(runtime.command("client")), {
    subject: subject.name,
  });
  let over: "end" | "kill" = "end";
  try {
    const peer = await server.ask<Peer>({ do: "listen" }, STARTING);
    const order = { do: "run", peer, contentLength, pieceLength, concurrency } as const;
    const run = await client.ask<RunResult>(
      pieces === undefined
        ? { ...order, requests: Number.MAX_SAFE_INTEGER, seconds: REQUEST_TIME_S }
        : { ...order, requests: pieces, seconds: EXTRA_TIME_S },
      REQUEST_TIME_S + EXTRA_TIME_S,
    );
    return run.bytes / 1e6 / run.seconds;
  } catch (error) {
    over = "kill";
    if (error instanceof Failure) return error;
    throw error;
  } finally {
    await client[over]();
    await server[over]();
  }
}

function rowOf(
  candidate: Candidate,
  loss: number,
  runs: readonly number[],
  failure: Failure | undefined,
): LongRow {
  const { runtime, subject } = candidate;
  return {
    name: nameOf(candidate, loss),
    runtime: runtime.title,
    subject: subject.name,
    title: titleOf(candidate),
    loss,
    runs,
    ...(runs.length > 0 && { summary: summarize(runs) }),
    ...(failure !== undefined && { failure: failure.message, missing: failure.missing }),
  };
}

function titleOf({ subject, congestion, pieces }: Candidate): string {
  const title = congestion === undefined ? subject.title : `${subject.title}, ${congestion}`;
  return pieces === undefined ? title : `${title}, ${pieces} pieces of 1 MiB`;
}

function nameOf({ runtime, subject, congestion = "", pieces }: Candidate, loss: number): string {
  const count = pieces === undefined ? "" : `${pieces} pieces`;
  return `${runtime.title} ${subject.name} ${congestion} long ${count} ${100 * loss} %`.replaceAll(
    "  ",
    " ",
  );
}
