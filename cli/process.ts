import process from "node:process";
import { isatty } from "node:tty";
import { isGranted } from "../adapters/shared/permission.ts";
import { interruption, signalExitCodes } from "./exit-codes.ts";
import { runCli } from "./program.ts";
import { type CliEnvironment, withNodeErrors } from "./terminal.ts";

/**
 * Runs the command with this process's arguments, streams and signals, and exits the process with
 * its exit code.
 */
export async function runProcess(loadSdk: CliEnvironment["loadSdk"]): Promise<never> {
  const env = permittedEnvironment();
  const { stdout, stderr } = standardStreams();
  const signal = terminationSignal();
  const openStdin = () => process.stdin;
  const environment = {
    openStdin,
    stdout,
    stderr,
    env,
    signal,
    loadSdk,
    ...(reloadsOnHangup() && { onHangup }),
  };
  // A command may wait with nothing but unreferenced handles, such as timers of a closing server.
  // Without this timer, Node then exits with code 13, in the middle of the command.
  const keepAlive = setInterval(() => {}, KEEP_ALIVE_INTERVAL_MS);
  const code = await runCli(process.argv.slice(2), environment);
  clearInterval(keepAlive);
  // Data written to a pipe may still be buffered.
  for (const output of [stdout, stderr])
    await new Promise<void>((resolve) => output.write("", () => resolve()));
  process.exit(code);
}

/** Interval of a timer that keeps the process alive while the command runs, in ms. */
const KEEP_ALIVE_INTERVAL_MS = 60_000;

/**
 * Returns the environment variables, with those that Deno would prompt for treated as unset.
 */
function permittedEnvironment(): CliEnvironment["env"] {
  const readable = (variable: string | symbol): variable is string =>
    typeof variable === "string" && isGranted({ name: "env", variable });
  // The proxy's target is an empty object: the engine would also read from `process.env` as a
  // target.
  return new Proxy<Record<string, string | undefined>>(
    {},
    { get: (_, variable) => (readable(variable) ? process.env[variable] : undefined) },
  );
}

function standardStreams(): Pick<CliEnvironment, "stdout" | "stderr"> {
  const { stdout, stderr } = process;
  return process.versions.deno === undefined
    ? { stdout, stderr }
    : { stdout: withNodeErrors(stdout), stderr: withNodeErrors(stderr) };
}

/** Returns a signal that aborts at the first SIGINT or SIGTERM. A second one exits at once. */
function terminationSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    const onSignal = (): void => {
      if (!controller.signal.aborted) {
        controller.abort(interruption(name));
        return;
      }
      // `process.exit` waits for file operations, and a write to a pipe without a reader never
      // ends. The signal's default action does not wait.
      process.off(name, onSignal);
      process.kill(process.pid, name);
      process.exit(signalExitCodes[name]);
    };
    process.on(name, onSignal);
  }
  return controller.signal;
}

/**
 * Returns true if SIGHUP reloads the certificate, as usual for daemons. On a terminal it means that
 * the terminal closed, and on Windows that the console closed; there it ends the process.
 */
function reloadsOnHangup(): boolean {
  return process.platform !== "win32" && ![0, 1, 2].some((descriptor) => isatty(descriptor));
}

function onHangup(listener: () => void): () => void {
  process.on("SIGHUP", listener);
  return () => process.off("SIGHUP", listener);
}
