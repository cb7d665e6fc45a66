import process from "node:process";
import { isatty } from "node:tty";
import { isGranted } from "../adapters/shared/permission.ts";
import { endingSignals, interruption } from "./exit-codes.ts";
import type { CliFace } from "./face.ts";
import { runCli } from "./program.ts";
import { type CliEnvironment, guarded } from "./terminal.ts";

/** Runs the command as this process, with the process's own words, streams and signals, and ends the process. */
export async function runProcess(loadFace: () => Promise<CliFace>): Promise<never> {
  const env = grantedEnvironment();
  const { stdout, stderr } = standardStreams();
  const signal = endingSignal();
  const openStdin = () => process.stdin;
  const environment = {
    openStdin,
    stdout,
    stderr,
    env,
    signal,
    loadFace,
    ...(hasHangups() && { onHangup }),
  };
  // Handles in the background hold no process. Node ends one that only waits for such by code 13.
  const hold = setInterval(() => {}, HOLD_INTERVAL);
  const code = await runCli(process.argv.slice(2), environment);
  clearInterval(hold);
  // What has been written to a pipe may not have left yet.
  for (const output of [stdout, stderr])
    await new Promise<void>((resolve) => output.write("", () => resolve()));
  process.exit(code);
}

/** Interval of a timer that keeps the process alive while the command runs, in ms. */
const HOLD_INTERVAL = 60_000;

/** The environment, in which a variable that may not be read without asking the user is not set. */
function grantedEnvironment(): CliEnvironment["env"] {
  const readable = (variable: string | symbol): variable is string =>
    typeof variable === "string" && isGranted({ name: "env", variable });
  // Not a proxy of the environment itself: the engine would look into that too.
  return new Proxy<Record<string, string | undefined>>(
    {},
    { get: (_, variable) => (readable(variable) ? process.env[variable] : undefined) },
  );
}

function standardStreams(): Pick<CliEnvironment, "stdout" | "stderr"> {
  const { stdout, stderr } = process;
  return process.versions.deno === undefined
    ? { stdout, stderr }
    : { stdout: guarded(stdout), stderr: guarded(stderr) };
}

/** Fires at the first SIGINT or SIGTERM; whoever sends a second one does not want to wait. */
function endingSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    const onSignal = (): void => {
      if (!controller.signal.aborted) {
        controller.abort(interruption(name));
        return;
      }
      // Node's exit waits for file operations, and one on a pipe that nobody reads never ends; the signal itself waits for nothing.
      process.off(name, onSignal);
      process.kill(process.pid, name);
      process.exit(endingSignals[name]);
    };
    process.on(name, onSignal);
  }
  return controller.signal;
}

/**
 * Whether SIGHUP asks this process to look at its certificate again, as it asks daemons. On a terminal it says that the terminal is
 * gone, and Windows has another meaning for it; there it ends the process.
 */
function hasHangups(): boolean {
  return process.platform !== "win32" && ![0, 1, 2].some((descriptor) => isatty(descriptor));
}

function onHangup(listener: () => void): () => void {
  process.on("SIGHUP", listener);
  return () => process.off("SIGHUP", listener);
}
