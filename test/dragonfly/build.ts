/** Builds the real Dragonfly programs for the lab, from the package registries alone. */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import {
  type BuildOptions,
  type BuildStep,
  buildSteps,
  HELP,
  missingTools,
  type Profile,
  parseBuildOptions,
} from "./build-plan.ts";
import { programDirectory } from "./programs.ts";

const directory = programDirectory(process.env);
const module = fileURLToPath(new URL("tools", import.meta.url));
/** Profiles of the programs that were built here. */
const profileFile = join(directory, "profiles.json");

try {
  main(parseBuildOptions(process.argv.slice(2)));
} catch (error) {
  console.error(`dragonfly:build: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}

function main(options: BuildOptions): void {
  if (options.help) {
    console.log(HELP);
    return;
  }
  const built = readProfiles();
  const steps = buildSteps(options, directory, module, (name) =>
    existsSync(join(directory, name)) ? (built[name] ?? "release") : undefined,
  );
  const missing = missingTools(steps, ([program, argument]) => {
    const { status, stdout } = spawnSync(program, [argument], { encoding: "utf8" });
    return status === 0 ? stdout : undefined;
  });
  if (missing.length > 0) throw new Error(`cannot build:\n  ${missing.join("\n  ")}`);
  for (const step of steps) run(step, built);
  console.log(`complete: ${directory}`);
}

function run(step: BuildStep, built: Record<string, Profile>): void {
  const [program = "", ...args] = step.command;
  console.log(`${step.command.join(" ")}`);
  mkdirSync(join(directory, "build"), { recursive: true });
  const { status, error } = spawnSync(program, args, {
    cwd: step.cwd ?? directory,
    env: { ...process.env, ...step.env },
    stdio: "inherit",
  });
  if (status !== 0)
    throw new Error(`${program} failed: expected exit code 0, got ${error?.message ?? status}`);
  for (const { file, name } of step.results) {
    // A program that runs is replaced, not overwritten.
    renameSync(file, join(directory, name));
    chmodSync(join(directory, name), 0o755);
    if (step.profile !== undefined) built[name] = step.profile;
  }
  writeFileSync(profileFile, `${JSON.stringify(built, undefined, 2)}\n`);
  for (const scratch of step.scratch) rmSync(scratch, { recursive: true, force: true });
}

function readProfiles(): Record<string, Profile> {
  return existsSync(profileFile)
    ? (JSON.parse(readFileSync(profileFile, "utf8")) as Record<string, Profile>)
    : {};
}
