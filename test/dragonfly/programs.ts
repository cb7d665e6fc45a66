/** Directory and names of the real Dragonfly programs that the lab runs. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";

/** Supported versions of dfdaemon, oldest first. */
export const dfdaemonVersions = ["1.2.1", "1.4.8", "1.5.2", "1.5.10"] as const;

/** Version of dfdaemon. */
export type DfdaemonVersion = (typeof dfdaemonVersions)[number];

/** Version that the lab builds by default: the newest. */
export const DEFAULT_VERSION: DfdaemonVersion = "1.5.10";
/** Version of the scheduler that serves all versions of dfdaemon. */
export const SCHEDULER_VERSION = "2.5.1";

/** Directory of the built programs, each named `NAME-VERSION`. */
export function programDirectory(env: Readonly<Record<string, string | undefined>>): string {
  return (
    env.VORTEX_PEER_LAB ??
    join(env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "vortex-peer", "dragonfly")
  );
}

const directory = programDirectory(process.env);

/** Returns the path of a program. */
export function programPath(name: string): string {
  return join(directory, name);
}

export const schedulerProgram: string = `scheduler-${SCHEDULER_VERSION}`;
/** One dfget serves all versions: it only talks to the local daemon, whose API is the same. */
export const dfgetProgram: string = `dfget-${DEFAULT_VERSION}`;

/** Returns the reason why a version of dfdaemon cannot be started; undefined if it can. */
export function missingProgram(version: DfdaemonVersion): string | undefined {
  const missing = [schedulerProgram, dfgetProgram, `dfdaemon-${version}`].find(
    (name) => !existsSync(programPath(name)),
  );
  return missing && `Dragonfly's ${missing} is not built: npm run dragonfly:build -- ${version}`;
}
