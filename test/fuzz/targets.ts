/** What is fuzzed, by the name that `npm run fuzz -- --only` takes. */
import fc from "fast-check";
import { codec, decoder } from "./bytes.ts";
import { cli } from "./cli.ts";
import { config, yaml } from "./config.ts";
import { grpc } from "./grpc.ts";
import { address, layout } from "./inputs.ts";
import { journal } from "./journal.ts";
import { connection, pool } from "./operations.ts";

const targets: Readonly<Record<string, (parameters: Parameters) => Promise<void> | void>> = {
  codec: (parameters) => fc.assert(codec, parameters),
  decoder: (parameters) => fc.assert(decoder, parameters),
  grpc: (parameters) => fc.assert(grpc, parameters),
  address: (parameters) => fc.assert(address, parameters),
  config: (parameters) => fc.assert(config, parameters),
  yaml: (parameters) => fc.assert(yaml, parameters),
  cli: (parameters) => fc.assert(cli, parameters),
  layout: (parameters) => fc.assert(layout, parameters),
  journal: (parameters) => fc.assert(journal, parameters),
  pool: (parameters) => fc.assert(pool, parameters),
  connection: (parameters) => fc.assert(connection, parameters),
};

/** What a run of a target is told. */
interface Parameters {
  readonly seed: number;
  readonly numRuns: number;
  readonly timeout: number;
}

/** The names of all targets. */
export const targetNames: readonly string[] = Object.keys(targets);

/** Milliseconds after which one case hangs. No case takes a thousandth of it. */
const HANGING = 60_000;

/**
 * Tries a target with `count` cases. The same seed makes the same cases.
 * Rejects with the smallest case that fails, and the seed and path to it.
 */
export async function fuzz(target: string, seed: number, count: number): Promise<void> {
  const run = targets[target];
  if (run === undefined) throw new Error(`${target}: expected one of ${targetNames.join(", ")}`);
  await run({ seed, numRuns: count, timeout: HANGING });
}
