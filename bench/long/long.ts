/** Large pieces over a long link: 50 ms round trip, 200 Mbit/s, with and without loss. */
import type { ClientOrder, RunResult, ServerOrder } from "../messages.ts";
import { Failure, Worker } from "../processes.ts";
import type { Runtime } from "../runtimes.ts";
import { type Summary, summarize } from "../statistics.ts";
import type { Peer } from "../subject.ts";
import type { SubjectEntry } from "../subjects.ts";
import { long } from "../workloads.ts";
import { congestionControls, type Link, prepareLinks } from "./link.ts";

/** Parts of the packets that get lost. */
const LOSSES = [0, 0.001, 0.01];
/** Milliseconds one way, bits a second, and a queue of one round trip. */
const LINK = { delay: 25, rate: 200e6, queue: 1_250_000 };
/** Seconds in which pieces are asked for, from the first request on a new connection. */
const SECONDS = 7;
/** Seconds for the pieces under way then to come. */
const ENDING = 180;
const STARTING = 60;
const CONTENT_LENGTH = 32 * long.pieceLength;

/** A subject over the link. */
export interface LongRow {
  readonly name: string;
  readonly runtime: string;
  readonly subject: string;
  /** With the congestion control of TCP, where there is TCP. */
  readonly title: string;
  readonly loss: number;
  /** MB/s of each round. */
  readonly runs: readonly number[];
  readonly summary?: Summary;
  readonly failure?: string;
  readonly missing?: boolean;
}

interface Candidate {
  readonly runtime: Runtime;
  readonly subject: SubjectEntry;
  /** Of TCP; undefined for QUIC, which brings its own. */
  readonly congestion: string | undefined;
}

/**
 * Measures each subject in its default settings, TCP and gRPC with each congestion control of the kernel that counts. MB/s are
 * those of whole pieces: all that were asked for within seven seconds, over the time until the last of them was there.
 */
export async function measureLong(
  pairs: readonly (readonly [Runtime, SubjectEntry])[],
  only: RegExp,
  rounds: number,
  tell: (line: string) => void,
): Promise<LongRow[]> {
  const openLink = prepareLinks();
  const available = congestionControls();
  const candidates = pairs.flatMap(([runtime, subject]) =>
    candidatesOf(runtime, subject, available),
  );
  const rows: LongRow[] = [];
  for (const loss of LOSSES) {
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
          tell(`round ${round + 1}: ${nameOf(candidate, loss)}: ${what}`);
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
  return controls
    .filter((name) => available.includes(name))
    .map((congestion) => ({ runtime, subject, congestion }));
}

async function measure(
  { runtime, subject, congestion }: Candidate,
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
      { ...order, requests: Number.MAX_SAFE_INTEGER, seconds: SECONDS },
      SECONDS + ENDING,
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

function titleOf({ subject, congestion }: Candidate): string {
  return congestion === undefined ? subject.title : `${subject.title}, ${congestion}`;
}

function nameOf({ runtime, subject, congestion = "" }: Candidate, loss: number): string {
  return `${runtime.title} ${subject.name} ${congestion} long ${100 * loss} %`.replaceAll(
    "  ",
    " ",
  );
}
