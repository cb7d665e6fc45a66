/**
 * Time from the dial to the first byte of a piece, on loopback and over a relay with a long round
 * trip in this process.
 */
import type { Address } from "../src/transport/address.ts";
import { udpRelay } from "../test/support/udp-relay.ts";
import type {
  ClientOrder,
  FirstByteKind,
  FirstByteOrder,
  FirstBytes,
  ServerOrder,
} from "./messages.ts";
import { Failure, Worker } from "./processes.ts";
import type { Runtime } from "./runtimes.ts";
import { type Summary, summarize } from "./statistics.ts";
import type { Peer } from "./subject.ts";
import type { SubjectEntry } from "./subjects.ts";
import { tcpRelay } from "./tcp-relay.ts";

/** Length of the requested piece, in bytes. */
const PIECE_BYTES = 16 * 1024;
/** Timeout for all samples of one kind, in seconds. */
const TIMEOUT_S = 60;

/** Round-trip times to measure, in ms. */
export const roundTrips: readonly number[] = [0, 50];

/** Results of one kind of first byte. */
export interface FirstByteRow {
  readonly name: string;
  readonly runtime: string;
  readonly subject: string;
  readonly title: string;
  readonly how: FirstByteKind;
  /** Round-trip time in ms; 0 is loopback without a relay. */
  readonly roundTrip: number;
  /** Time of each sample, in ms. */
  readonly samples: readonly number[];
  readonly summary?: Summary;
  readonly failure?: string;
  readonly missing?: boolean;
}

/** Measures one subject on one runtime, if its entry has `firstByte`. */
export async function measureFirstBytes(
  runtime: Runtime,
  subject: SubjectEntry,
  samples: number,
  report: (line: string) => void,
): Promise<FirstByteRow[]> {
  if (subject.firstByte === undefined) return [];
  const kinds: FirstByteKind[] =
    subject.firstByte === "cold" ? ["cold"] : ["cold", "resumed", "early"];
  const server = new Worker<ServerOrder>(runtime.command("server"), {
    subject: subject.name,
    host: "127.0.0.1",
    contentLength: PIECE_BYTES,
    pieceLengths: [PIECE_BYTES],
  });
  const startClient = (): Worker<ClientOrder> =>
    new Worker<ClientOrder>(runtime.command("client"), { subject: subject.name });
  let client = startClient();
  const rows: FirstByteRow[] = [];
  try {
    const listening = server.ask<Peer>({ do: "listen" }, TIMEOUT_S);
    listening.catch(() => {});
    for (const roundTrip of roundTrips) {
      for (const how of kinds) {
        const row = await measure(runtime, subject, listening, client, { how, roundTrip, samples });
        report(`${row.name}: ${row.failure ?? `${row.summary?.median.toFixed(1)} ms`}`);
        rows.push(row);
        if (row.failure === undefined) continue;
        await client.kill();
        client = startClient();
      }
    }
  } finally {
    await client.end();
    await server.end();
  }
  return rows;
}

async function measure(
  runtime: Runtime,
  subject: SubjectEntry,
  listening: Promise<Peer>,
  client: Worker<ClientOrder>,
  {
    how,
    roundTrip,
    samples,
  }: { readonly how: FirstByteKind; readonly roundTrip: number; readonly samples: number },
): Promise<FirstByteRow> {
  const row = {
    name: `${runtime.title} ${subject.name} ${how} ${roundTrip} ms`,
    runtime: runtime.title,
    subject: subject.name,
    title: subject.title,
    how,
    roundTrip,
  };
  let relay: Relay | undefined;
  try {
    const peer = await listening;
    relay =
      roundTrip === 0
        ? undefined
        : await relayTo(peer, subject.firstByte === "resuming", roundTrip);
    const order: FirstByteOrder = {
      do: "first-byte",
      peer: { ...peer, ...relay?.address },
      pieceLength: PIECE_BYTES,
      how,
      samples,
      settle: 4 * roundTrip + 50,
    };
    // Warms the code up; not counted.
    await client.ask<FirstBytes>({ ...order, samples: 1 }, TIMEOUT_S);
    const { milliseconds } = await client.ask<FirstBytes>(order, TIMEOUT_S);
    return { ...row, samples: milliseconds, summary: summarize(milliseconds) };
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    return { ...row, samples: [], failure: error.message, missing: error.missing };
  } finally {
    await relay?.close();
  }
}

interface Relay {
  readonly address: Address;
  close(): void | Promise<void>;
}

function relayTo({ host, port }: Peer, overUdp: boolean, roundTrip: number): Promise<Relay> {
  const target = { host, port };
  return overUdp ? udpRelay(target, { delay: roundTrip / 2 }) : tcpRelay(target, roundTrip);
}
