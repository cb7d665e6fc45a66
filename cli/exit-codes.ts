import type { ErrorKind } from "../src/errors.ts";
import { VortexError } from "../src/errors.ts";
import { isClosedPipe } from "./terminal.ts";

/** Table of all exit codes, for `--help`. */
export const exitCodeTable: string = [
  "Exit codes:",
  "    0  success",
  "    1  internal error",
  "    2  invalid option or value, feature not available on this platform, or permission missing",
  "    3  the peer does not have the task or piece, or answered with another error",
  "    4  connection failed or lost (refused, unreachable, TLS), or listen address in use",
  "    5  timeout",
  "    6  the peer sent wrong bytes or violated the protocol",
  "    7  a local file could not be read or written",
  "  130  interrupted (SIGINT, Ctrl-C)",
  "  141  standard output was closed by its reader (SIGPIPE)",
  "  143  terminated (SIGTERM)",
].join("\n");

const codes: Record<ErrorKind, number> = {
  misuse: 2,
  remote: 3,
  transport: 4,
  timeout: 5,
  peer: 6,
  local: 7,
  aborted: 130,
};

/**
 * Signals that end the command, with their exit codes: 128 plus the signal number, as in shells.
 */
export const signalExitCodes = { SIGINT: 130, SIGTERM: 143 } as const;

/** Creates the `Aborted` error for a signal. Its `cause` is the name of the signal. */
export function interruption(signal: keyof typeof signalExitCodes): VortexError {
  return new VortexError("Aborted", `interrupted by ${signal}`, { cause: signal });
}

/** Maps a command's error to its process exit code. */
export function exitCodeOf(error: unknown): number {
  if (isClosedPipe(error)) return 141;
  if (!(error instanceof VortexError) || error.code === "Internal") return 1;
  return error.cause === "SIGTERM" ? signalExitCodes.SIGTERM : codes[error.kind];
}
