/** Plan of `npm run dragonfly:build`: arguments, required tools and commands. No I/O. */
import { join } from "node:path";
import {
  DEFAULT_VERSION,
  type DfdaemonVersion,
  dfdaemonVersions,
  dfgetProgram,
  schedulerProgram,
} from "./programs.ts";

/** Help text of the command. */
export const HELP: string = `npm run dragonfly:build -- [VERSION…] [--release]
  Builds Dragonfly's scheduler, and dfdaemon and dfget of each VERSION, from the package registries.
  VERSION    ${dfdaemonVersions.join(", ")}; default ${DEFAULT_VERSION}. 12 to 30 minutes each.
  --release  optimizes dfdaemon, for measurements. Default: a debug build, which compiles faster.
  Programs go to the directory of VORTEX_PEER_LAB, by default vortex-peer/dragonfly in the user's
  cache directory. What is there already is not built again.`;

/** Arguments of the command. */
export interface BuildOptions {
  readonly versions: readonly DfdaemonVersion[];
  readonly release: boolean;
  readonly help: boolean;
}

/** Parses the command's arguments. Throws an `Error` of one line. */
export function parseBuildOptions(args: readonly string[]): BuildOptions {
  const flags = args.filter((arg) => arg.startsWith("-"));
  const unknown = flags.find((flag) => !["--release", "--help"].includes(flag));
  if (unknown !== undefined)
    throw new Error(`unknown option: expected --release or --help, got ${unknown}`);
  const versions = args.filter((arg) => !arg.startsWith("-")).map(requireVersion);
  return {
    versions: versions.length === 0 ? [DEFAULT_VERSION] : [...new Set(versions)],
    release: flags.includes("--release"),
    help: flags.includes("--help"),
  };
}

function requireVersion(text: string): DfdaemonVersion {
  const version = dfdaemonVersions.find((one) => one === text);
  if (version === undefined)
    throw new Error(
      `unknown dfdaemon version: expected one of ${dfdaemonVersions.join(", ")}, got ${text}`,
    );
  return version;
}

/** Program that a build needs. */
interface Tool {
  /** Command line that prints the version. */
  readonly command: readonly [string, string];
  /** Minimum version, as `[major, minor]`. */
  readonly min: readonly [number, number];
  /** Debian package, or another source of the tool. */
  readonly source: string;
}

const GO: Tool = { command: ["go", "version"], min: [1, 25], source: "the Go distribution" };
const RUST_TOOLS: readonly Tool[] = [
  { command: ["cargo", "--version"], min: [1, 88], source: "rustup" },
  { command: ["clang", "--version"], min: [11, 0], source: "Debian's clang and libclang-dev" },
  { command: ["cmake", "--version"], min: [3, 13], source: "Debian's cmake" },
  // `optional` fields of proto3 need 3.15.
  { command: ["protoc", "--version"], min: [3, 15], source: "Debian's protobuf-compiler" },
];

/**
 * Checks the tools that the steps need. Returns one line for each that is missing or too old.
 *
 * @param versionOf runs a command line and returns its output; undefined if it cannot run
 */
export function missingTools(
  steps: readonly BuildStep[],
  versionOf: (command: readonly [string, string]) => string | undefined,
): string[] {
  const needed = [
    ...(steps.some(({ tool }) => tool === "go") ? [GO] : []),
    ...(steps.some(({ tool }) => tool === "cargo") ? RUST_TOOLS : []),
  ];
  return needed.flatMap(({ command, min, source }) => {
    const [name] = command;
    const wanted = `${name}: expected ${min.join(".")} or newer`;
    const output = versionOf(command);
    if (output === undefined) return [`${wanted}, got none; install ${source}`];
    const [, major, minor] = /(\d+)\.(\d+)/.exec(output) ?? [];
    if (major === undefined) return [`${wanted}, got ${JSON.stringify(output.split("\n")[0])}`];
    const order = Number(major) - min[0] || Number(minor) - min[1];
    return order < 0 ? [`${wanted}, got ${major}.${minor}; update it from ${source}`] : [];
  });
}

/** Profile of a built dfdaemon. */
export type Profile = "debug" | "release";

/** One command of a build. */
export interface BuildStep {
  readonly tool: "go" | "cargo";
  readonly command: readonly string[];
  /** Working directory; undefined is the current one. */
  readonly cwd?: string;
  readonly env: Readonly<Record<string, string>>;
  /** Built files, each with the name of the program in the directory. */
  readonly results: readonly { readonly file: string; readonly name: string }[];
  /** Directories to remove after the step has succeeded. */
  readonly scratch: readonly string[];
  /** Profile of the results; undefined where there is only one. */
  readonly profile?: Profile;
}

/**
 * Lists the commands that are still necessary.
 *
 * @param directory directory of the programs
 * @param module directory of the Go module that pins the scheduler
 * @param present returns the profile of a program in the directory; `release` if it was not built
 * here, and undefined if it is missing
 */
export function buildSteps(
  { versions, release }: Pick<BuildOptions, "versions" | "release">,
  directory: string,
  module: string,
  present: (name: string) => Profile | undefined,
): BuildStep[] {
  const steps: BuildStep[] = [];
  if (present(schedulerProgram) === undefined) steps.push(schedulerStep(directory, module));
  const isThere = (name: string): boolean => {
    const profile = present(name);
    return profile === "release" || (profile !== undefined && !release);
  };
  // The lab starts downloads of every version by the dfget of the newest.
  const wanted = versions.map((version) => ({
    version,
    names: version === DEFAULT_VERSION ? ["dfdaemon", "dfget"] : ["dfdaemon"],
  }));
  if (!versions.includes(DEFAULT_VERSION) && present(dfgetProgram) === undefined)
    wanted.push({ version: DEFAULT_VERSION, names: ["dfget"] });
  for (const { version, names } of wanted) {
    const missing = names.filter((name) => !isThere(`${name}-${version}`));
    if (missing.length > 0) steps.push(clientStep(directory, version, missing, release));
  }
  return steps;
}

function schedulerStep(directory: string, module: string): BuildStep {
  const file = join(directory, "build", schedulerProgram);
  return {
    tool: "go",
    command: ["go", "build", "-o", file, "d7y.io/dragonfly/v2/cmd/scheduler"],
    cwd: module,
    env: { GOFLAGS: "-mod=mod -buildvcs=false" },
    results: [{ file, name: schedulerProgram }],
    scratch: [],
  };
}

function clientStep(
  directory: string,
  version: DfdaemonVersion,
  names: readonly string[],
  release: boolean,
): BuildStep {
  const output = join(directory, "build", `client-${version}`);
  return {
    tool: "cargo",
    command: [
      ...["cargo", "install", "dragonfly-client", "--version", version, "--locked", "--force"],
      ...(release ? [] : ["--debug"]),
      ...["--root", output, "--no-track"],
      ...names.flatMap((name) => ["--bin", name]),
    ],
    // Lets an interrupted build continue.
    env: { CARGO_TARGET_DIR: join(output, "target") },
    results: names.map((name) => ({ file: join(output, "bin", name), name: `${name}-${version}` })),
    scratch: [output],
    profile: release ? "release" : "debug",
  };
}
