/** Test cases of a version of dfdaemon, or of all, with one lab for each suite. */
import assert from "node:assert/strict";
import process from "node:process";
import { after, before, describe, it } from "node:test";
import { Lab } from "./lab.ts";
import { isFullRun } from "./measurements.ts";
import { type DfdaemonVersion, dfdaemonVersions, missingProgram } from "./programs.ts";

/** Timeout of a case in ms. Daemons and tests share the machine with other test runs. */
const TIMEOUT_MS = 120_000;
/** Bytes of the tasks of most cases, in 24 pieces. */
export const LENGTH: number = 100_000_000;
/** Rate in bytes/s that keeps pieces outstanding when the first one has arrived. */
export const SLOW_RATE: number = 33_000_000;
export const GIBIBYTE: number = 1024 ** 3;

/** Versions that the run is limited to. Default: all. */
const chosenVersions: readonly string[] =
  process.env.VORTEX_PEER_LAB_VERSIONS?.split(",") ?? dfdaemonVersions;

/** Functions that define the cases of a suite. */
export interface Cases<Context> {
  /** Defines a case. With a `gap`, the case is skipped, and the reason is part of its name. */
  it(name: string, run: (context: Context) => Promise<void>, gap?: string): void;
}

/**
 * Defines a suite for each version. Each suite starts a lab before its first case, and passes what
 * `prepare` resolves with to its cases.
 */
export function describeVersions<Context>(
  title: (version: DfdaemonVersion) => string,
  prepare: (lab: Lab) => Promise<Context>,
  define: (cases: Cases<Context>, version: DfdaemonVersion) => void,
  versions: readonly DfdaemonVersion[] = dfdaemonVersions,
): void {
  for (const version of versions.filter((one) => chosenVersions.includes(one))) {
    const missing = missingProgram(version);
    describe(title(version), () => {
      let lab: Lab | undefined;
      let context: { readonly value: Context } | undefined;
      before(
        async () => {
          if (missing !== undefined) return;
          lab = await Lab.start(version);
          context = { value: await prepare(lab) };
        },
        { timeout: TIMEOUT_MS },
      );
      after(() => lab?.close());
      define(
        {
          it(name, run, gap) {
            const reason = missing ?? gap;
            if (reason !== undefined) it(`${name} [gap: ${reason}]`, { skip: reason }, () => {});
            else
              it(name, { timeout: TIMEOUT_MS }, () =>
                run(context?.value ?? assert.fail("the lab has not started")),
              );
          },
        },
        version,
      );
    });
  }
}

/** Reason why a long case is skipped; undefined in a full run. */
export const fullRunOnly: string | undefined = isFullRun
  ? undefined
  : "takes long: npm run test:dragonfly -- --full";
