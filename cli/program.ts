import { inspect } from "node:util";
import { Command, CommanderError } from "commander";
import { configVariable } from "../adapters/files/config-file.ts";
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

/** How failures are reported, for `--help`. */
const failureHelp: string = [
  "What failed is one line on standard error; with --json, one object in place of it, where the others are printed:",
  '  {"type":"failed", code, kind, message, addr, exitCode}',
].join("\n");

/** The environment variables, for `--help`. */
const variables = [
  "Environment:",
  `  ${configVariable}  the configuration file, where --config names none`,
  "  VORTEX_PEER_DEBUG=1  the same as --debug",
].join("\n");

/**
 * Runs the command with `args`, the words after its name. Resolves to the exit code, see `exit-codes.ts`; never rejects.
 * What failed is told in one line on stderr, with the stack for `--debug` and VORTEX_PEER_DEBUG=1.
 */
export async function runCli(
  args: readonly string[],
  environment: CliEnvironment,
): Promise<number> {
  const { stdout, stderr } = environment;
  // A write to a closed pipe fails where it was made; without a listener it would end the process as well, some time later.
  const ignore = (): void => {};
  stdout.on("error", ignore);
  stderr.on("error", ignore);
  const { VORTEX_PEER_DEBUG } = environment.env;
  let debug = VORTEX_PEER_DEBUG === "1";
  /** Help and version, as far as they are written. */
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
      // Nothing is coloured; commander would read the environment for it.
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      // Told below, as everything that fails is.
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
    for (const one of [command, ...command.commands])
      one.option("--debug", "show the stack of what failed");
  }
  try {
    await program.parseAsync(args, { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return printed.then(() => 0, report);
      // Called without a command: the help has been printed, and is all there is to say.
      if (error.code === "commander.help") return 2;
      return report(new VortexError("InvalidArgument", error.message.replace(/^error: /, "")));
    }
    return report(error);
  }

  /** Reports what failed, in JSON where that was asked for, and returns the exit code. */
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
    // Between objects, a stack would be in the way of whoever reads them.
    if (debug && !(written && output === stderr)) stderr.write(`${printable(inspect(cause))}\n`);
    return exitCode;
  }
}

function linesOf(error: unknown, failure: VortexError): string[] {
  return error instanceof ConfigFailure
    ? failure.message.split("\n")
    : [`vortex-peer: ${failureText(failure)}`];
}

/** The stream for JSON where `--json` is given, be the rest of the command line right or wrong. */
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
    // An option without its value; what stands before it is known.
  }
  const { json, output } = lenient.opts<{ readonly json?: true; readonly output?: string }>();
  if (!json) return undefined;
  const hasContent = args[0] === "get" || args[0] === "piece";
  const target = hasContent ? await targetOf(output ?? "-").catch(() => undefined) : undefined;
  return target === undefined ? environment.stdout : jsonOutput(target, environment);
}
