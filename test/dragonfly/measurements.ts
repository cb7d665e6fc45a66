/** Measurements of a lab run, one line of JSON each, for the table in docs/measured. */
import { appendFileSync } from "node:fs";
import process from "node:process";
import { runtimeName } from "../support/fixtures.ts";

/** Transfer of one task in one direction. */
export interface Measurement {
  /** Version of dfdaemon. */
  readonly version: string;
  /** Which side fetches. */
  readonly direction: "from dfdaemon" | "to dfdaemon";
  /** Protocol of the pieces, and how their address became known. */
  readonly protocol: string;
  readonly runtime: "node" | "bun" | "deno";
  /** Number of pieces. */
  readonly pieces: number;
  /** Bytes. */
  readonly length: number;
  /** Duration in ms. */
  readonly duration: number;
}

/** True in the full form of the lab run, which covers all versions and 1 GiB. */
export const isFullRun: boolean = process.env.VORTEX_PEER_LAB_FULL === "1";

/** Appends a measurement to the file that the lab run names, if it names one. */
export function record(measurement: Omit<Measurement, "runtime">): void {
  const file = process.env.VORTEX_PEER_LAB_RESULTS;
  if (file === undefined) return;
  const whole: Measurement = { ...measurement, runtime: runtimeName };
  appendFileSync(file, `${JSON.stringify(whole)}\n`);
}
