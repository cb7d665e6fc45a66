/** Short runs of `npm run soak` and `npm run stress`, and their leak detection. */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it, test } from "node:test";
import { leftoversOf } from "../../bench/soak/gauges.ts";
import { type Sample, trendsOf } from "../../bench/soak/leak-check.ts";
import { runtimeName } from "../support/fixtures.ts";
import { type Outcome, root, runner, runToEnd } from "../support/run.ts";

const testOptions = { timeout: 300_000 };

const nothing: Sample = {
  seconds: 0,
  heap: 30e6,
  external: 10e6,
  resident: 200e6,
  descriptors: 20,
  handles: 3,
  timers: 0,
  operations: 0,
  connections: 0,
};

/** Creates the samples of a run from a function of heap size over time. */
function samplesOf(heapAt: (seconds: number) => number): Sample[] {
  return Array.from({ length: 100 }, (_, at) => ({
    ...nothing,
    seconds: 2 * at,
    heap: heapAt(2 * at),
  }));
}

function leaksOf(heapAt: (seconds: number) => number): string[] {
  return trendsOf(samplesOf(heapAt)).flatMap(({ memory, leaks }) => (leaks ? [memory] : []));
}

describe("leak detection", () => {
  test("reports memory that grows all the time", () => {
    assert.deepEqual(
      leaksOf((seconds) => 30e6 + seconds * 200_000),
      ["heap"],
    );
  });

  test("ignores warm-up, oscillation, a single peak and one step within the tolerance", () => {
    assert.deepEqual(
      leaksOf((seconds) => Math.min(30e6, 10e6 + seconds * 1e6)),
      [],
    );
    assert.deepEqual(
      leaksOf((seconds) => 30e6 + Math.sin(seconds) * 20e6),
      [],
    );
    assert.deepEqual(
      leaksOf((seconds) => (seconds === 180 ? 300e6 : 30e6)),
      [],
    );
    assert.deepEqual(
      leaksOf((seconds) => (seconds > 120 ? 36e6 : 30e6)),
      [],
    );
  });

  test("reports no leak for a run that is too short", () => {
    assert.deepEqual(trendsOf(samplesOf((seconds) => seconds * 1e6).slice(0, 50)), []);
  });

  test("reports counts that are higher after closing everything, by name", () => {
    const end = { ...nothing, timers: 2, descriptors: 19 };
    assert.deepEqual(leftoversOf(nothing, end), ["timers: 0 before, 2 after"]);
  });
});

describe("the short forms", () => {
  // Concurrently, because both wait most of the time.
  let soaking: Promise<Outcome>;
  let stressing: Promise<Outcome>;
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "vortex-peer-test-"));
    const short = ["--minutes", "0.04", "--concurrency", "8", "--seed", "1", "--out", directory];
    // Deno's QUIC leaks a UDP socket in about one of 500 operations after everything is closed.
    const protocols = runtimeName === "deno" ? "tcp,grpc" : "quic,tcp,grpc";
    soaking = run("soak", [...short, "--protocol", protocols, "--runtime", runtimeName]);
    const tenth = ["--downloads", "100", "--connections", "10", "--rounds", "1"];
    stressing = run("stress", [...tenth, "--runtime", runtimeName]);
  });
  after(() => rm(directory, { recursive: true, force: true }));

  const without = runtimeName === "deno" ? ", without QUIC, which keeps sockets there" : "";
  it(
    `npm run soak, for seconds: no wrong byte, no leak, and a series of samples${without}`,
    testOptions,
    async () => {
      const { code, out, err } = await soaking;
      assert.equal(code, 0, out + err);
      assert.match(out, /^[1-9]\d* operations: .*\bok [1-9]/m);
      assert.match(out, /^no leak, no wrong byte/m);
      const file = join(directory, `soak-${runtimeName}`);
      const { problems, samples } = JSON.parse(await readFile(`${file}.json`, "utf8"));
      assert.deepEqual(problems, []);
      assert.ok(samples.length >= 2);
      assert.match(
        await readFile(`${file}.svg`, "utf8"),
        /<polyline class="memory" points="[\d., ]+"/,
      );
    },
  );

  it(
    "npm run stress, a tenth of it: right bytes over every protocol, and no leak",
    testOptions,
    async () => {
      const { code, out, err } = await stressing;
      assert.equal(code, 0, out + err);
      assert.equal(out.match(/: 1 × 100 at a time, /g)?.length, 3, out);
    },
  );
});

function run(program: "soak" | "stress", options: readonly string[]): Promise<Outcome> {
  const running = runToEnd([...runner, join(root, `bench/${program}.ts`), ...options]);
  // The test that awaits it reports a failure.
  running.catch(() => {});
  return running;
}

it("soak and stress report invalid options in one line, and fail", testOptions, async () => {
  for (const [program, option, words] of [
    ["soak", ["--minutes", "0"], /^soak: --minutes 0: expected a positive number$/m],
    [
      "stress",
      ["--protocol", "carrier pigeon"],
      /^stress: --protocol carrier pigeon: expected some of quic, tcp, grpc$/m,
    ],
  ] as const) {
    const { code, err } = await run(program, option);
    assert.equal(code, 1);
    assert.match(err, words);
  }
});
