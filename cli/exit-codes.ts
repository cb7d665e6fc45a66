import type { ErrorKind } from "../src/errors.ts";
import { VortexError } from "../src/errors.ts";
import { isClosedPipe } from "./terminal.ts";

/** The exit codes, for `--help` and the reader: the one table of them. */
export const exitCodeTable: string = [
  "Exit codes:",
  "    0  done",
  "    1  failed for a reason that is not listed here",
  "    2  a wrong option or value, or something that this platform or its permissions do not have",
  "    3  the peer does not have the piece, or answered with another error",
  "    4  no connection, or it was lost: refused, unreachable, TLS; an address to serve at is in use",
  "    5  a timeout passed",
  "    6  the peer sent wrong bytes or broke the protocol",
  "    7  a file on this machine could not be read or written",
  "  130  interrupted (SIGINT, Ctrl-C)",
  "  141  whoever read the standard output closed it",
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

/** A signal that ends the command, and what a shell makes of it: 128 and the number of the signal. */
export const endingSignals = { SIGINT: 130, SIGTERM: 143 } as const;

/** What the command ends with when it is sent a signal: the `Aborted` that names the signal as its cause. */
export function interruption(signal: keyof typeof endingSignals): VortexError {
  return new VortexError("Aborted", `interrupted by ${signal}`, { cause: signal });
}

/** The exit code for what a command failed with. */
export function exitCodeOf(error: unknown): number {
  if (isClosedPipe(error)) return 141;
  if (!(error instanceof VortexError) || error.code === "Internal") return 1;
  return error.cause === "SIGTERM" ? endingSignals.SIGTERM : codes[error.kind];
}
