import { inspect } from "node:util";
import { Command, CommanderError } from "commander";
import { configVariable } from "../adapters/files/load-config.ts";
import { oneLine, VortexError } from "../src/errors.ts";
import { addConfigCommand } from "./config.ts";
import { exitCodeOf, exitCodeTable } from "./exit-codes.ts";
import { addGetCommand } from "./get.ts";
import { addIdCommand } from "./id.ts";
import { failedLine } from "./json-reporter.ts";
import { jsonOutput, targetOf } from "./output.ts";
import { addPieceCommand } from "./piece.ts";
import { failureText } from "./progress.ts";
import { addServeCommand } from "./serve.ts";
import { addStatCommand } from "./stat.ts";
import {
  type CliEnvironment,
  ConfigFailure,
  isClosedPipe,
  printable,
  type TextOutput,
  writeLine,
  writeText,
} from "./terminal.ts";
import { version } from "./version.ts";

/** Description of failure reports, for `--help`. */
const failureHelp: string = [
  "A failure is reported as one line on standard error. With --json it is one object instead, on the",
  "stream of the other objects:",
  '  {"type":"failed", name, code, kind, message, addr, cause, exitCode}',
].join("\n");

/** Description of the environment variables, for `--help`. */
const variables = [
  "Environment:",
  `  ${configVariable}  configuration file, unless --config is given`,
  "  VORTEX_PEER_DEBUG=1  same as --debug",
].join("\n");

/**
 * Runs the command with `args`, the arguments after the program name. Resolves to the exit code,
 * see `exit-codes.ts`; never rejects.
 *
 * A failure is written to stderr as one line, plus the stack with `--debug` or VORTEX_PEER_DEBUG=1.
 */
export async function runCli(
  args: readonly string[],
  environment: CliEnvironment,
): Promise<number> {
  const { stdout, stderr } = environment;
  // A write to a closed pipe fails at the call. Without a listener, the later `error` event would
  // also end the process.
  const ignore = (): void => {};
  stdout.on("error", ignore);
  stderr.on("error", ignore);
  const { VORTEX_PEER_DEBUG } = environment.env;
  let debug = VORTEX_PEER_DEBUG === "1";
  /** Resolves when the help or version text is written. */
  let printed: Promise<void> = Promise.resolve();
  const program = new Command("vortex-peer")
    .description("Fetches pieces and whole tasks from Dragonfly peers, and serves them.")
    .version(version)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => {
        printed = Promise.all([printed, writeText(stdout, text)]).then(() => {});
        printed.catch(ignore);
      },
      writeErr: (text) => stderr.write(text),
      // Output has no colours. Without these, commander reads the environment to find out.
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      // `report` below prints all failures.
      outputError: ignore,
    })
    .addHelpText("afterAll", `\n${exitCodeTable}\n\n${failureHelp}\n\n${variables}`)
    .hook("preAction", (_program, command) => {
      debug ||= command.getOptionValue("debug") === true;
    });
  addGetCommand(program, environment);
  addPieceCommand(program, environment);
  addStatCommand(program, environment);
  addServeCommand(program, environment);
  addIdCommand(program, environment);
  addConfigCommand(program, environment);
  for (const command of program.commands) {
    for (const subcommand of [command, ...command.commands])
      subcommand.option("--debug", "print the stack trace of a failure");
  }
  try {
    await program.parseAsync(args, { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return printed.then(() => 0, report);
      // Called without a command: the help is already printed.
      if (error.code === "commander.help") return 2;
      return report(new VortexError("InvalidArgument", error.message.replace(/^error: /, "")));
    }
    return report(error);
  }

  /** Reports a failure as a line of text, or as JSON with `--json`. Returns the exit code. */
  async function report(error: unknown): Promise<number> {
    const cause = error instanceof ConfigFailure ? error.cause : error;
    const exitCode = exitCodeOf(cause);
    if (isClosedPipe(cause)) return exitCode;
    const failure = VortexError.from(cause, "Internal");
    const output = await jsonOutputFor(args, environment);
    const written =
      output &&
      (await writeLine(output, failedLine(failure, exitCode)).then(() => true, isClosedPipe));
    if (!written) for (const line of linesOf(error, failure)) stderr.write(`${oneLine(line)}\n`);
    // A stack trace between JSON objects would break their readers.
    if (debug && !(written && output === stderr)) stderr.write(`${printable(inspect(cause))}\n`);
    return exitCode;
  }
}

function linesOf(error: unknown, failure: VortexError): string[] {
  return error instanceof ConfigFailure
    ? failure.message.split("\n")
    : [`vortex-peer: ${failureText(failure)}`];
}

/** Returns the stream for JSON if `--json` is given, even when other options are invalid. */
async function jsonOutputFor(
  args: readonly string[],
  environment: CliEnvironment,
): Promise<TextOutput | undefined> {
  const lenient = new Command()
    .option("--json")
    .option("-o, --output <file>")
    .exitOverride()
    .configureOutput({
      outputError: () => {},
    });
  try {
    lenient.parseOptions([...args]);
  } catch {
    // An option lacks its value. Options before it are parsed.
  }
  const { json, output } = lenient.opts<{ readonly json?: true; readonly output?: string }>();
  if (!json) return undefined;
  const hasContent = args[0] === "get" || args[0] === "piece";
  const target = hasContent ? await targetOf(output ?? "-").catch(() => undefined) : undefined;
  return target === undefined ? environment.stdout : jsonOutput(target, environment);
}
