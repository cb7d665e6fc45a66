/** Arguments, tool checks and plan of `npm run dragonfly:build`, without building. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  type BuildStep,
  buildSteps,
  missingTools,
  type Profile,
  parseBuildOptions,
} from "./build-plan.ts";
import { programDirectory } from "./programs.ts";

const directory = "/cache";
const module = "/tools";
const versions: Readonly<Record<string, string>> = {
  go: "go version go1.25.5 linux/amd64",
  cargo: "cargo 1.95.0 (f2d3ce0bd 2026-03-21)",
  clang: "Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu",
  cmake: "cmake version 3.25.1",
  protoc: "libprotoc 3.21.12",
};

function stepsFor(
  args: readonly string[],
  present: Readonly<Record<string, Profile>> = {},
): BuildStep[] {
  return buildSteps(parseBuildOptions(args), directory, module, (name) => present[name]);
}

/** Names of the programs that the steps build. */
function programsOf(steps: readonly BuildStep[]): string[] {
  return steps.flatMap(({ results }) => results.map(({ name }) => name));
}

describe("npm run dragonfly:build", () => {
  it("builds the scheduler, and dfdaemon and dfget of the newest version by default", () => {
    assert.deepEqual(programsOf(stepsFor([])), [
      "scheduler-2.5.1",
      "dfdaemon-1.5.10",
      "dfget-1.5.10",
    ]);
  });

  it("builds each named version once, and the dfget that the lab uses", () => {
    assert.deepEqual(programsOf(stepsFor(["1.4.8", "1.2.1", "1.4.8"])), [
      "scheduler-2.5.1",
      "dfdaemon-1.4.8",
      "dfdaemon-1.2.1",
      "dfget-1.5.10",
    ]);
  });

  it("refuses versions and options that it does not know", () => {
    assert.throws(() => parseBuildOptions(["1.5.1"]), {
      message: "unknown dfdaemon version: expected one of 1.2.1, 1.4.8, 1.5.2, 1.5.10, got 1.5.1",
    });
    assert.throws(() => parseBuildOptions(["--fast"]), {
      message: "unknown option: expected --release or --help, got --fast",
    });
  });

  it("builds nothing that is there, except a debug build where a release is wanted", () => {
    const present = {
      "scheduler-2.5.1": "release",
      "dfdaemon-1.5.10": "debug",
      "dfget-1.5.10": "debug",
    } as const;
    assert.deepEqual(stepsFor([], present), []);
    const release = stepsFor(["--release"], present);
    assert.deepEqual(programsOf(release), ["dfdaemon-1.5.10", "dfget-1.5.10"]);
    assert.ok(!release.some(({ command }) => command.includes("--debug")));
    const complete = {
      ...present,
      "dfdaemon-1.5.10": "release",
      "dfget-1.5.10": "release",
    } as const;
    assert.deepEqual(stepsFor(["--release"], complete), []);
  });

  it("uses pinned versions from the registries, and names no host", () => {
    const commands = stepsFor([]).map(({ command }) => command.join(" "));
    assert.deepEqual(commands, [
      "go build -o /cache/build/scheduler-2.5.1 d7y.io/dragonfly/v2/cmd/scheduler",
      "cargo install dragonfly-client --version 1.5.10 --locked --force --debug --root /cache/build/client-1.5.10 --no-track --bin dfdaemon --bin dfget",
    ]);
  });

  it("checks the tools of its steps, and says what is missing or too old", () => {
    const steps = stepsFor([]);
    assert.deepEqual(
      missingTools(steps, ([name]) => versions[name]),
      [],
    );
    const found = { ...versions, cargo: "cargo 1.70.0", protoc: undefined, clang: "no version" };
    assert.deepEqual(
      missingTools(steps, ([name]) => found[name as keyof typeof found]),
      [
        "cargo: expected 1.88 or newer, got 1.70; update it from rustup",
        'clang: expected 11.0 or newer, got "no version"',
        "protoc: expected 3.15 or newer, got none; install Debian's protobuf-compiler",
      ],
    );
    // A scheduler alone needs no Rust.
    const scheduler = steps.filter(({ tool }) => tool === "go");
    assert.deepEqual(
      missingTools(scheduler, ([name]) => (name === "go" ? versions.go : undefined)),
      [],
    );
    assert.deepEqual(
      missingTools([], () => undefined),
      [],
    );
  });

  it("puts programs into VORTEX_PEER_LAB, or into the user's cache directory", () => {
    assert.equal(programDirectory({ VORTEX_PEER_LAB: "/lab" }), "/lab");
    assert.equal(programDirectory({ XDG_CACHE_HOME: "/cache" }), "/cache/vortex-peer/dragonfly");
    assert.match(programDirectory({}), /\/\.cache\/vortex-peer\/dragonfly$/);
  });
});
