/** Contract of an attack on a server, and helpers that run and count its tries. */
import type { Protocol } from "../../src/transport/protocol.ts";

/** Server under attack. */
export interface Target {
  readonly host: string;
  readonly port: number;
  /** Task that the server serves. */
  readonly taskId: string;
  /** Task of one piece, longer than all buffers between two hosts. */
  readonly longTaskId: string;
  /** Connection limit of the server. */
  readonly maxConnections: number;
  /**
   * Port of a second server in the same process and over the same protocol, on all addresses
   * including IPv6.
   */
  readonly wildcardPort?: number;
  /** True if the server expects TLS on its TCP connections. */
  readonly secure?: boolean;
}

/** Number of tries by outcome. An outcome that begins with `wrong` fails the campaign. */
export type Outcomes = Readonly<Record<string, number>>;

/** Method of attacking a server. */
export interface Attack {
  readonly name: string;
  readonly over: Protocol;
  /** Unit of one try. */
  readonly unit: "request" | "connection" | "datagram";
  /** Number of tries in a campaign of 100,000 exchanges. */
  readonly tries: number;
  /** True if the attack needs a server that expects TLS. */
  readonly secure?: boolean;
  /**
   * Makes the tries and returns their outcomes.
   *
   * @param random returns seeded numbers from 0 to 1
   */
  run(target: Target, tries: number, random: () => number): Promise<Outcomes>;
}

/**
 * Time after which a try counts as hanging, in ms: a multiple of every deadline of the server,
 * since the machine is busy.
 */
const TRY_TIMEOUT_MS = 60_000;

/** Counts tries by outcome. */
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
 * Makes `tries` tries in `lanes` parallel lanes and counts their outcomes. A try that hangs counts
 * as `wrong`.
 *
 * @param make makes one try and returns its outcome; receives the index of the try and of its lane
 */
export async function inParallel(
  tries: number,
  lanes: number,
  make: (index: number, lane: number) => Promise<string>,
): Promise<Outcomes> {
  const counter = new OutcomeCounter();
  let next = 0;
  const run = async (lane: number): Promise<void> => {
    while (next < tries) counter.note(await withTimeout(make(next++, lane)));
  };
  await Promise.all(Array.from({ length: Math.min(lanes, tries) }, (_, lane) => run(lane)));
  return counter.outcomes;
}

/** Resolves to the outcome, or to a `wrong` one after {@link TRY_TIMEOUT_MS}. */
async function withTimeout(outcome: Promise<string>): Promise<string> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(
      () => resolve(`wrong: nothing within ${TRY_TIMEOUT_MS / 1000} s`),
      TRY_TIMEOUT_MS,
    );
  });
  try {
    return await Promise.race([outcome, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Interval between two tries to connect to a full server, in ms, and the maximum number of tries.
 */
const RETRY_INTERVAL_MS = 100;
const MAX_RETRIES = 100;

/**
 * Retries `make` until it succeeds. Right after a flood, the server may have no free connection
 * slot.
 */
export async function withRetries<T>(make: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await make();
    } catch (error) {
      if (tries === MAX_RETRIES) throw error;
      await pause(RETRY_INTERVAL_MS);
    }
  }
}

/** Returns a random element. */
export function pick<T>(choices: readonly T[], random: () => number): T {
  const choice = choices[Math.floor(random() * choices.length)];
  if (choice === undefined) throw new RangeError("nothing to choose from");
  return choice;
}

/** Returns random bytes. */
export function garbage(length: number, random: () => number): Uint8Array {
  return Uint8Array.from({ length }, () => Math.floor(random() * 256));
}

export function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
