/** Results of a run, as written to disk. */
import { readFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, release, totalmem, type } from "node:os";
import type { FirstByteRow } from "./first-byte.ts";
import type { LongRow } from "./long/long.ts";
import type { Amount, MeasuredRow } from "./rows.ts";
import type { Target } from "./targets.ts";

/** Machine of a run. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  /** Total memory in bytes. */
  readonly memory: number;
  readonly system: string;
  /** Load average of one minute at the start: other activity on the machine. */
  readonly load: number;
}

/** All results of a run. */
export interface Results {
  /** Command that repeats the run. */
  readonly command: string;
  readonly measuredAt: string;
  readonly vortexPeer: string;
  readonly machine: Machine;
  /** Full versions, by the titles of runtimes. */
  readonly runtimes: Readonly<Record<string, string>>;
  readonly amount: Amount;
  readonly rows: readonly MeasuredRow[];
  readonly firstBytes: readonly FirstByteRow[];
  /** Results over the long link; absent without `--long`. */
  readonly long?: readonly LongRow[];
  readonly targets: readonly Target[];
}

/** Returns the description of this machine. */
export function thisMachine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memory: totalmem(),
    system: `${type()} ${release()}`,
    load: loadavg()[0] ?? 0,
  };
}

/** Returns the version of this library. */
export function thisVersion(): string {
  const { version } = JSON.parse(
    readFileSync(new URL("../package.json", import.meta.url), "utf8"),
  ) as {
    version: string;
  };
  return version;
}
