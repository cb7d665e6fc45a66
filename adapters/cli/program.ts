import { inspect } from "node:util";
import { Command, CommanderError } from "commander";
import { oneLine, VortexError } from "../../src/errors.ts";
import { configVariable } from "../config-file.ts";
import { addConfigCommand } from "./config.ts";
import { exitCodeOf, exitCodeTable } from "./exit-codes.ts";
import { addGetCommand } from "./get.ts";
import { addIdCommand } from "./id.ts";
import { addPieceCommand } from "./piece.ts";
import { addServeCommand } from "./serve.ts";
import { addStatCommand } from "./stat.ts";
import { type CliEnvironment, isClosedPipe, printable, ToldFailure } from "./terminal.ts";
import { version } from "./version.ts";

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
export async function runCli(args: readonly string[], environment: CliEnvironment): Promise<number> {
  const { stdout, stderr } = environment;
  // A write to a closed pipe fails where it was made; without a listener it would end the process as well, some time later.
  const ignore = (): void => {};
  stdout.on("error", ignore);
  stderr.on("error", ignore);
  const { VORTEX_PEER_DEBUG } = environment.env;
  let debug = VORTEX_PEER_DEBUG === "1";
  const program = new Command("vortex-peer")
    .description("Fetches pieces and whole tasks from Dragonfly peers, and serves them.")
    .version(version)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => stdout.write(text),
      writeErr: (text) => stderr.write(text),
      // Told below, as everything that fails is.
      outputError: ignore,
    })
    .addHelpText("afterAll", `\n${exitCodeTable}\n\n${variables}`)
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
    for (const one of [command, ...command.commands]) one.option("--debug", "show the stack of what failed");
  }
  try {
    await program.parseAsync(args, { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return 0;
      // Called without a command: the help has been printed, and is all there is to say.
      if (error.code === "commander.help") return 2;
      return report(new VortexError("InvalidArgument", error.message.replace(/^error: /, "")));
    }
    return report(error);
  }

  function report(error: unknown): number {
    if (error instanceof ToldFailure) return exitCodeOf(error.cause);
    if (!isClosedPipe(error)) {
      const { code, message } = VortexError.from(error, "Internal");
      stderr.write(`vortex-peer: ${code}: ${oneLine(message)}\n`);
      if (debug) stderr.write(`${printable(inspect(error))}\n`);
    }
    return exitCodeOf(error);
  }
}
