/** What an attack on a server is, and how its tries are made and counted. */
import type { Protocol } from "../../src/transport/protocol.ts";

/** The server under attack. */
export interface Target {
  readonly host: string;
  readonly port: number;
  /** A task that it serves. */
  readonly taskId: string;
  /** A task of one piece that no buffer between two hosts holds. */
  readonly longTaskId: string;
  /** Its greatest number of connections. */
  readonly maxConnections: number;
  /** Port of another server of the same process over the same protocol, which listens on all addresses, IPv6 ones among them. */
  readonly everywhere?: number;
  /** It expects TLS on its TCP connections. */
  readonly secure?: boolean;
}

/** How often tries ended how. What begins with `wrong` fails the campaign. */
export type Outcomes = Readonly<Record<string, number>>;

/** A way to attack a server. */
export interface Attack {
  readonly name: string;
  readonly over: Protocol;
  /** What one try is. */
  readonly unit: "request" | "connection" | "datagram";
  /** Its tries of a campaign of 100,000 exchanges. */
  readonly tries: number;
  /** Is for a server that expects TLS. */
  readonly secure?: boolean;
  /** @param random seeded numbers from 0 to 1 */
  run(target: Target, tries: number, random: () => number): Promise<Outcomes>;
}

/** Milliseconds after which a try hangs: a multiple of every deadline of the server under attack, on a machine that is busy. */
const HANGS = 60_000;

/** Counts how tries ended. */
export class OutcomeCounter {
  readonly #counts = new Map<string, number>();

  note(outcome: string, times = 1): void {
    this.#counts.set(outcome, (this.#counts.get(outcome) ?? 0) + times);
  }

  get outcomes(): Outcomes {
    return Object.fromEntries(this.#counts);
  }
}

/**
 * Makes tries in so many lanes at a time, each of which says how it ended; one that hangs is `wrong`.
 *
 * @param make is given the try's number, and that of its lane
 */
export async function inParallel(
  tries: number,
  lanes: number,
  make: (index: number, lane: number) => Promise<string>,
): Promise<Outcomes> {
  const tally = new OutcomeCounter();
  let next = 0;
  const run = async (lane: number): Promise<void> => {
    while (next < tries) tally.note(await orHangs(make(next++, lane)));
  };
  await Promise.all(Array.from({ length: Math.min(lanes, tries) }, (_, lane) => run(lane)));
  return tally.outcomes;
}

/** What the promise resolves with, unless it takes too long. */
async function orHangs(outcome: Promise<string>): Promise<string> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`wrong: nothing within ${HANGS / 1000} s`), HANGS);
  });
  try {
    return await Promise.race([outcome, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Milliseconds between two tries to get a place on a server, and how often. */
const BETWEEN = 100;
const OFTEN = 100;

/** What `make` resolves with in the end: right after a flood the server may not have a place yet. */
export async function persistently<T>(make: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await make();
    } catch (error) {
      if (tries === OFTEN) throw error;
      await pause(BETWEEN);
    }
  }
}

/** One of several things. */
export function pick<T>(choices: readonly T[], random: () => number): T {
  const choice = choices[Math.floor(random() * choices.length)];
  if (choice === undefined) throw new RangeError("nothing to choose from");
  return choice;
}

/** Bytes that mean nothing. */
export function garbage(length: number, random: () => number): Uint8Array {
  return Uint8Array.from({ length }, () => Math.floor(random() * 256));
}

export function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
