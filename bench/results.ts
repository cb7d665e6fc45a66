/** A run as it is written to disk. */
import { readFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, release, totalmem, type } from "node:os";
import type { FirstByteRow } from "./first-byte.ts";
import type { LongRow } from "./long/long.ts";
import type { Amount, MeasuredRow } from "./rows.ts";
import type { Target } from "./targets.ts";

/** Where it ran. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  /** Bytes. */
  readonly memory: number;
  readonly system: string;
  /** Processes that wanted to run when the measuring began: what else was going on. */
  readonly load: number;
}

/** Everything that was measured. */
export interface Results {
  /** The words that measure it again. */
  readonly command: string;
  readonly measuredAt: string;
  readonly vortexPeer: string;
  readonly machine: Machine;
  /** Versions by the titles of runtimes. */
  readonly runtimes: Readonly<Record<string, string>>;
  readonly amount: Amount;
  readonly rows: readonly MeasuredRow[];
  readonly firstBytes: readonly FirstByteRow[];
  /** Absent unless asked for. */
  readonly long?: readonly LongRow[];
  readonly targets: readonly Target[];
}

/** The machine that this runs on. */
export function thisMachine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memory: totalmem(),
    system: `${type()} ${release()}`,
    load: loadavg()[0] ?? 0,
  };
}

/** The version of this library. */
export function thisVersion(): string {
  const { version } = JSON.parse(
    readFileSync(new URL("../package.json", import.meta.url), "utf8"),
  ) as {
    version: string;
  };
  return version;
}
