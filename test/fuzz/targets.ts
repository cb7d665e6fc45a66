/** Fuzz targets, by the name that `npm run fuzz -- --only` accepts. */
import fc from "fast-check";
import { codec, decoder } from "./bytes.ts";
import { cli } from "./cli.ts";
import { config, yaml } from "./config.ts";
import { grpc } from "./grpc.ts";
import { address, layout } from "./inputs.ts";
import { journal } from "./journal.ts";
import { connection, pool } from "./operations.ts";

const targets: Readonly<Record<string, (parameters: FuzzParameters) => Promise<void> | void>> = {
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

/** Parameters of one run of a target, passed to fast-check. */
interface FuzzParameters {
  readonly seed: number;
  readonly numRuns: number;
  readonly timeout: number;
}

/** The names of all targets. */
export const targetNames: readonly string[] = Object.keys(targets);

/** Timeout of one case, in ms. No case takes a thousandth of it, so a timeout means a hang. */
const CASE_TIMEOUT_MS = 60_000;

/**
 * Runs `count` cases of a target. The same seed generates the same cases.
 *
 * Rejects with the smallest failing case, its seed and its path.
 */
export async function fuzz(target: string, seed: number, count: number): Promise<void> {
  const run = targets[target];
  if (run === undefined) throw new Error(`${target}: expected one of ${targetNames.join(", ")}`);
  await run({ seed, numRuns: count, timeout: CASE_TIMEOUT_MS });
}
