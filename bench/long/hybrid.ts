/**
 * Measures a task from one parent over `tcp`, `quic`, `auto` and `hybrid`, on a link that limits
 * the rate of each flow:
 *
 * node --import tsx bench/long/hybrid.ts [--rounds N] [--size MIB] [--rate MBIT_S] [--delay MS]
 * [--only NAMES]
 *
 * A flow is one protocol between two hosts. TCP fetches each piece over a separate connection, like
 * dfdaemon, so a limit per connection would be a limit per piece. Linux, as root, with gcc and
 * iproute2.
 */
import process from "node:process";
import { parseArgs } from "node:util";
import type { PeerAddresses } from "../../src/transport/peer-address.ts";
import { Failure, Worker } from "../processes.ts";
import { summarize } from "../statistics.ts";
import type { TaskOrder, TaskResult } from "./hybrid-client.ts";
import type { ParentArguments } from "./hybrid-server.ts";
import { prepareLinks } from "./link.ts";

/** Values of `protocol` that are measured. */
const PROTOCOLS = ["tcp", "quic", "auto", "hybrid"] as const;
const MEBI = 1024 * 1024;
/** Timeout for the start of a process and for a task, in seconds. */
const TIMEOUT_S = 60;
const ENDING = 600;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    size: { type: "string", default: "128" },
    rate: { type: "string", default: "80" },
    delay: { type: "string", default: "1" },
    only: { type: "string", default: PROTOCOLS.join(",") },
  },
});

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(130));
try {
  await measure();
} catch (error) {
  if (!(error instanceof Failure)) throw error;
  console.error(`bench: ${error.message}`);
  // The remaining worker processes end with this one.
  process.exit(1);
}

async function measure(): Promise<void> {
  const rounds = figure("rounds");
  const contentLength = figure("size") * MEBI;
  const [rate, delay] = [figure("rate") * 1e6, figure("delay")];
  const choices = values.only.split(",").map((name) => {
    const choice = PROTOCOLS.find((one) => one === name);
    if (choice === undefined) throw new Failure(`--only ${name}: expected ${PROTOCOLS.join(", ")}`);
    return choice;
  });
  const openLink = prepareLinks();
  // The queue holds 20 ms of the rate, or enough for a burst.
  const queue = Math.max(256_000, (rate / 8) * 0.02);
  const link = await openLink({ delay, rate, queue, loss: 0, perProtocol: true });
  try {
    const server = new Worker<null>(link.near.run(command("hybrid-server.ts")), {
      host: link.near.address,
      contentLength,
    } satisfies ParentArguments);
    const addr = await server.ask<PeerAddresses>(null, TIMEOUT_S);
    const runs = new Map(choices.map((choice) => [choice, [] as TaskResult[]]));
    for (let round = 0; round < rounds; round++) {
      for (const protocol of round % 2 === 0 ? choices : choices.toReversed()) {
        const client = new Worker<TaskOrder>(link.far.run(command("hybrid-client.ts")), {});
        const run = await client.ask<TaskResult>(
          { protocol, addr, contentLength },
          TIMEOUT_S + ENDING,
        );
        await client.end();
        runs.get(protocol)?.push(run);
        console.error(
          `round ${round + 1}: ${protocol}: ${run.rate.toFixed(2)} MB/s ${JSON.stringify(run.routes)}`,
        );
      }
    }
    await server.end();
    console.log(
      `${values.size} MiB, each flow ${values.rate} Mbit/s, ${2 * delay} ms round trip, ${rounds} rounds\n`,
    );
    console.log("| protocol | MB/s, median | least | most |\n| --- | ---: | ---: | ---: |");
    for (const [protocol, results] of runs) {
      const { median, least, most } = summarize(results.map((run) => run.rate));
      console.log(
        `| ${protocol} | ${median.toFixed(2)} | ${least.toFixed(2)} | ${most.toFixed(2)} |`,
      );
    }
  } finally {
    link.close();
  }
}

function command(program: string): readonly string[] {
  return [process.execPath, "--import", "tsx", new URL(program, import.meta.url).pathname];
}

function figure(name: "rounds" | "size" | "rate" | "delay"): number {
  const value = Number(values[name]);
  if (!Number.isSafeInteger(value) || value <= 0)
    throw new Failure(`--${name}: expected a positive whole number`);
  return value;
}
