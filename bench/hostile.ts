/**
 * Runs a campaign of hostile peers: attacks on a server over QUIC, TCP and gRPC, and wrong answers
 * to a client. Honest peers run beside them.
 *
 *     npm run hostile -- --runtime node,bun --write
 *
 * The victim is a process of the chosen runtime. The attacker, or the peer with wrong answers, is a
 * process on Node. Before, during and after each attack, an honest client fetches piece after piece
 * over the same protocol, and compares every byte. It is a separate process while a server is
 * attacked, and part of the victim while a client is. The whole is repeated in rounds.
 *
 * Fails with exit code 1 on:
 *
 * - wrong bytes that are handed on as complete;
 * - an outcome that the attack or fault does not allow, such as a try that hangs;
 * - the end of the victim, an unhandled rejection, or an internal failure that its server reports;
 * - a count (descriptors, handles, timers, requests, QUIC connections) that does not return to its
 *   start within 30 s after the close;
 * - resident memory that keeps growing at rest, between the rounds;
 * - an honest client that gets no piece during an attack, or one of whose pieces fails.
 *
 * Options, with defaults:
 *
 * - `--exchanges 100000`: tries in total against each runtime; the table has their unit
 * - `--runtime node,bun,deno`: runtimes to attack, one after the other
 * - `--only TEXT`: only attacks and faults whose name contains this text
 * - `--rounds 3`: number of rounds; with 1, memory at rest is not checked
 * - `--seed N`, random by default: seed of the choices; their interleaving is not reproducible
 * - `--together`: attacks over different protocols at the same time, for a quick look
 * - `--write`: writes the tables into SECURITY.md
 */
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { selfSigned } from "../adapters/shared/tls.ts";
import { type Protocol, protocols } from "../src/transport/protocol.ts";
import type { TlsIdentity } from "../src/transport/tls.ts";
import { type FaultGroup, faultGroups } from "../test/support/hostile-vortex.ts";
import { type Outcomes, pause, type Target } from "./hostile/attack.ts";
import { type AttackOrder, attacks, runAttacker } from "./hostile/attacker.ts";
import { type ClientOrder, runClient } from "./hostile/client-victim.ts";
import {
  type ClientStatsByProtocol,
  type HonestOrder,
  runHonestClients,
} from "./hostile/honest.ts";
import { runHostilePeer } from "./hostile/hostile-peer.ts";
import {
  add,
  addClientStats,
  type Campaign,
  markdownOf,
  type Row,
  writeInto,
} from "./hostile/report.ts";
import {
  type Listening,
  LONG_TASK_ID,
  MAX_CONNECTIONS,
  runServer,
  type ServerOrder,
} from "./hostile/server-victim.ts";
import type { Ending } from "./hostile/victim.ts";
import { choices, positive } from "./options.ts";
import { Worker } from "./processes.ts";
import { commandFor, findRuntimes, type Runtime } from "./runtimes.ts";
import { seededRandom, TASK_ID } from "./soak/content.ts";
import { type Gauges, leftoversOf } from "./soak/gauges.ts";
import type { Addresses } from "./soak/load.ts";

/** Argument of a worker process of this program, as JSON. */
type Role = { readonly identity: TlsIdentity } & (
  | { readonly role: "server" | "client" | "attacker" | "hostile" }
  | { readonly role: "honest"; readonly addresses: Addresses }
);

interface Plan {
  /** Factor for the usual number of tries. */
  readonly scale: number;
  readonly rounds: number;
  readonly seed: number;
  readonly together: boolean;
  readonly wanted: (name: string) => boolean;
}

/** Attack or group of faults, with its row in the table. */
interface Job {
  readonly row: Row;
  /** Index into the list of attacks. */
  readonly index: number;
  readonly group: FaultGroup;
  readonly over: Protocol;
  /** Tries per round. */
  readonly tries: number;
  readonly secure: boolean;
}

/** Requests of a client to a hostile peer over one protocol, by group of faults. */
const CLIENT_REQUESTS: Record<FaultGroup, number> = {
  "cut short": 3_500,
  "reset or lost": 2_500,
  silent: 1_500,
  malformed: 3_500,
  wrong: 3_500,
};
const GROUP_NAMES: Record<FaultGroup, string> = {
  "cut short": "answers truncated after any byte",
  "reset or lost": "streams reset and connections lost at any byte",
  silent: "silence at any point",
  malformed: "malformed answers: garbage, broken frames, sizes up to 2^64 - 1, statuses",
  wrong: "answers with a wrong number, length, offset, digest or content",
};
/** Time of the honest client without an attack, before and after each attack, in ms. */
const BASELINE_MS = 250;
const BASELINE_TOGETHER_MS = 50;
/** Timeout for an answer of a worker process on a busy machine, in seconds. */
const ANSWER_TIMEOUT_S = 600;
/** Maximum number of wrong outcomes that are reported of one attack. */
const MAX_REPORTED = 5;
/** Growth of resident memory at rest that counts as no leak: a fraction, plus a number of bytes. */
const MEMORY_TOLERANCE = { part: 0.15, bytes: 24e6 };

const program = fileURLToPath(import.meta.url);

const given = process.argv[2];
if (given?.startsWith("{")) await runWorker(JSON.parse(given) as Role);
else await hostile().catch(giveUp);

// --- the measuring process

async function hostile(): Promise<void> {
  const { values } = parseArgs({
    options: {
      exchanges: { type: "string", default: "100000" },
      runtime: { type: "string", default: "node,bun,deno" },
      only: { type: "string", default: "" },
      rounds: { type: "string", default: "3" },
      seed: { type: "string", default: String(1 + Math.floor(Math.random() * (2 ** 32 - 1))) },
      together: { type: "boolean", default: false },
      write: { type: "boolean", default: false },
    },
  });
  const usual =
    attacks.reduce((sum, { tries }) => sum + tries, 0) +
    protocols.length * Object.values(CLIENT_REQUESTS).reduce((sum, tries) => sum + tries, 0);
  const plan: Plan = {
    scale: positive("--exchanges", values.exchanges) / usual,
    rounds: positive("--rounds", values.rounds),
    seed: positive("--seed", values.seed),
    together: values.together,
    wanted: (name) => name.includes(values.only),
  };
  const names = choices("--runtime", values.runtime, ["node", "bun", "deno"]);
  const { list, missing } = await findRuntimes([]);
  for (const line of missing) console.log(`missing: ${line}`);
  const node = list.find(({ name }) => name === "node");
  if (node === undefined) throw new Error("the attacker needs Node, which was not found");
  const campaigns: Campaign[] = [];
  const problems: string[] = [];
  for (const name of names) {
    const runtime = list.find((each) => each.name === name);
    if (runtime === undefined) problems.push(`${name} is missing`);
    else campaigns.push(await campaignAgainst(runtime, node, plan, problems));
  }
  const tables = markdownOf(campaigns, "npm run hostile -- --write");
  console.log(tables);
  if (values.write) await writeInto(new URL("../SECURITY.md", import.meta.url), tables);
  for (const problem of problems) console.log(`FAILED: ${problem}`);
  console.log(
    problems.length === 0 ? "no wrong byte, no crash, no unhandled rejection, no leak" : "failed",
  );
  if (problems.length > 0) process.exitCode = 1;
}

function giveUp(error: unknown): void {
  console.error(`hostile: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}

async function campaignAgainst(
  runtime: Runtime,
  node: Runtime,
  plan: Plan,
  problems: string[],
): Promise<Campaign> {
  const identity = await selfSigned();
  const started = performance.now();
  console.error(`${runtime.title}, seed ${plan.seed}`);
  const against = async (
    what: string,
    run: (report: (problem: string) => void) => Promise<readonly Row[]>,
  ) => {
    const report = (problem: string): void =>
      void problems.push(`${runtime.title}, ${what}: ${problem}`);
    return run(report).catch((error): readonly Row[] => {
      report(error instanceof Error ? error.message : String(error));
      return [];
    });
  };
  const rows = [
    ...(await against("the server", (report) =>
      attackServer(runtime, node, identity, plan, report),
    )),
    ...(await against("the client", (report) =>
      answerClient(runtime, node, identity, plan, report),
    )),
  ];
  return {
    title: runtime.title,
    seed: plan.seed,
    seconds: (performance.now() - started) / 1000,
    rows,
  };
}

/** Attacks a server on `runtime`. */
async function attackServer(
  runtime: Runtime,
  node: Runtime,
  identity: TlsIdentity,
  plan: Plan,
  report: (problem: string) => void,
): Promise<readonly Row[]> {
  const jobs = attacks.flatMap(({ name, over, unit, tries, secure = false }, index) =>
    plan.wanted(name)
      ? [jobOf({ name, over, unit, tries, secure, index, group: "wrong" }, plan)]
      : [],
  );
  if (jobs.length === 0) return [];
  const victim = startWorker<ServerOrder>(runtime, { identity, role: "server" });
  const attacker = startWorker<AttackOrder>(node, { identity, role: "attacker" });
  const { addresses, secure, wildcardPort, start } = await victim.ask<Listening>(
    "listen",
    ANSWER_TIMEOUT_S,
  );
  const honest = startWorker<HonestOrder>(runtime, { identity, role: "honest", addresses });
  const random = seededRandom(plan.seed);
  try {
    await runRounds(jobs, plan, start, report, {
      begin: () => victim.ask("begin", ANSWER_TIMEOUT_S),
      end: () => victim.ask("end", ANSWER_TIMEOUT_S),
      rest: () => victim.ask("rest", ANSWER_TIMEOUT_S),
      start: (over) => honest.ask({ do: "start", over }, ANSWER_TIMEOUT_S),
      stop: (over) => honest.ask({ do: "stop", over }, ANSWER_TIMEOUT_S),
      attack: (phase) =>
        attacker.ask(
          {
            attacks: phase.map(({ index, over, tries, secure: overTls }) => ({
              index,
              target: overTls
                ? { ...targetAt(secure), secure: true }
                : { ...targetAt(addresses[over]), wildcardPort },
              tries,
              seed: random() * 2 ** 32,
            })),
          },
          ANSWER_TIMEOUT_S,
        ),
    });
    judgeEnding(start, await victim.ask<Ending>("stop", ANSWER_TIMEOUT_S), report);
  } finally {
    await Promise.all([victim.end(), attacker.end(), honest.end()]);
  }
  return jobs.map(({ row }) => row);
}

/** Gives wrong answers to a client on `runtime`. */
async function answerClient(
  runtime: Runtime,
  node: Runtime,
  identity: TlsIdentity,
  plan: Plan,
  report: (problem: string) => void,
): Promise<readonly Row[]> {
  const jobs = protocols.flatMap((over) =>
    faultGroups.flatMap((group) => {
      const name = GROUP_NAMES[group];
      const usual = {
        name,
        over,
        unit: "request",
        tries: CLIENT_REQUESTS[group],
        secure: false,
      } as const;
      return plan.wanted(name) ? [jobOf({ ...usual, index: 0, group }, plan)] : [];
    }),
  );
  if (jobs.length === 0) return [];
  const victim = startWorker<ClientOrder>(runtime, { identity, role: "client" });
  const hostile = startWorker<"listen">(node, { identity, role: "hostile" });
  const peer = startWorker<ServerOrder>(node, { identity, role: "server" });
  const random = seededRandom(plan.seed + 1);
  try {
    const { addresses } = await peer.ask<{ addresses: Addresses }>("listen", ANSWER_TIMEOUT_S);
    const open = {
      do: "open",
      hostile: await hostile.ask<Addresses>("listen", ANSWER_TIMEOUT_S),
      honest: addresses,
    } as const;
    const start = await victim.ask<Gauges>(open, ANSWER_TIMEOUT_S);
    await runRounds(jobs, plan, start, report, {
      begin: () => victim.ask({ do: "begin" }, ANSWER_TIMEOUT_S),
      end: () => victim.ask({ do: "end" }, ANSWER_TIMEOUT_S),
      rest: () => victim.ask({ do: "rest" }, ANSWER_TIMEOUT_S),
      start: (over) => victim.ask({ do: "start", over }, ANSWER_TIMEOUT_S),
      stop: (over) => victim.ask({ do: "stop", over }, ANSWER_TIMEOUT_S),
      attack: (phase) =>
        victim.ask(
          {
            do: "ask",
            batches: phase.map(({ over, group, tries }) => ({
              over,
              group,
              tries,
              seed: random() * 2 ** 32,
            })),
          },
          ANSWER_TIMEOUT_S,
        ),
    });
    judgeEnding(start, await victim.ask<Ending>({ do: "close" }, ANSWER_TIMEOUT_S), report);
  } finally {
    await Promise.all([victim.end(), hostile.end(), peer.end()]);
  }
  return jobs.map(({ row }) => row);
}

/** Operations on the processes of a campaign. */
interface Operations {
  /** Starts to sample the victim's memory. */
  begin(): Promise<void>;
  /** Resolves to the maximum of the victim's memory, in bytes. */
  end(): Promise<number>;
  rest(): Promise<Gauges>;
  /** Starts the honest clients of these protocols. */
  start(over: readonly Protocol[]): Promise<void>;
  stop(over: readonly Protocol[]): Promise<ClientStatsByProtocol>;
  /** Runs the jobs of a phase at the same time. */
  attack(phase: readonly Job[]): Promise<readonly Outcomes[]>;
}

/** Runs all jobs in every round, and fills in their rows. */
async function runRounds(
  jobs: readonly Job[],
  plan: Plan,
  start: Gauges,
  report: (problem: string) => void,
  field: Operations,
): Promise<void> {
  const phases = phasesOf(jobs, plan.together);
  const rests: number[] = [];
  for (let round = 0; round < plan.rounds; round++) {
    for (const phase of phases) await runPhase(phase, plan, start, field);
    rests.push((await field.rest()).resident);
  }
  for (const { row } of jobs) judge(row, report);
  const [first = 0, last = 0] = [rests[0], rests.at(-1)];
  if (plan.rounds > 1 && last - first > first * MEMORY_TOLERANCE.part + MEMORY_TOLERANCE.bytes) {
    report(
      `resident memory at rest grows: ${rests.map((bytes) => Math.round(bytes / 1e6)).join(", ")} MB`,
    );
  }
}

async function runPhase(
  phase: readonly Job[],
  { together }: Plan,
  start: Gauges,
  field: Operations,
): Promise<void> {
  const over = phase.map((job) => job.over);
  const alone = together ? BASELINE_TOGETHER_MS : BASELINE_MS;
  const stats: (readonly [ClientStatsByProtocol, "during" | "without"])[] = [];
  const withoutAttack = async (): Promise<void> => {
    await field.start(over);
    await pause(alone);
    stats.push([await field.stop(over), "without"]);
  };
  await withoutAttack();
  await field.begin();
  await field.start(over);
  const began = performance.now();
  const outcomes = await field.attack(phase);
  console.error(
    `${((performance.now() - began) / 1000).toFixed(1)} s ${phase.map(({ row }) => `${row.over}: ${row.name}`).join("; ")}`,
  );
  stats.push([await field.stop(over), "during"]);
  const growth = (await field.end()) - start.resident;
  await withoutAttack();
  for (const [index, { row, over: protocol, tries }] of phase.entries()) {
    row.tries += tries;
    row.growth = Math.max(row.growth, growth);
    add(row.outcomes, outcomes[index] ?? {});
    for (const [clientStats, when] of stats) addClientStats(row, clientStats[protocol], when);
  }
}

/** Groups jobs into phases: one job each, or one job of each protocol. */
function phasesOf(jobs: readonly Job[], together: boolean): readonly (readonly Job[])[] {
  if (!together) return jobs.map((job) => [job]);
  const lanes = protocols.map((over) => jobs.filter((job) => job.over === over));
  const longest = Math.max(...lanes.map(({ length }) => length));
  return Array.from({ length: longest }, (_, at) => lanes.flatMap((lane) => lane[at] ?? []));
}

function jobOf(
  {
    name,
    over,
    unit,
    tries,
    ...job
  }: Omit<Job, "row"> & { readonly name: string; readonly unit: string },
  { scale, rounds }: Plan,
): Job {
  const row = {
    name,
    over,
    unit,
    tries: 0,
    outcomes: {},
    growth: 0,
    during: [],
    without: [],
    failures: {},
  };
  return { ...job, over, row, tries: Math.max(1, Math.ceil((tries * scale) / rounds)) };
}

function judge(
  { name, over, outcomes, during, failures }: Row,
  report: (problem: string) => void,
): void {
  const where = `${name}, over ${over}`;
  const wrong = Object.entries(outcomes).filter(([outcome]) => outcome.startsWith("wrong"));
  for (const [outcome, count] of wrong.slice(0, MAX_REPORTED))
    report(`${where}: ${count} × ${outcome}`);
  if (wrong.length > MAX_REPORTED)
    report(`${where}: ${wrong.length - MAX_REPORTED} more wrong outcomes`);
  if (during.length === 0) report(`${where}: the honest client got no piece`);
  for (const [failure, count] of Object.entries(failures)) {
    report(`${where}: ${count} pieces of the honest client failed with ${failure}`);
  }
}

function judgeEnding(
  start: Gauges,
  { gauges, unexpected }: Ending,
  report: (problem: string) => void,
): void {
  for (const problem of [...unexpected, ...leftoversOf(start, gauges)]) report(problem);
}

function targetAt(addr: string | undefined): Target {
  const [host = "", port = ""] = addr?.split(":") ?? [];
  return {
    host,
    port: Number(port),
    taskId: TASK_ID,
    longTaskId: LONG_TASK_ID,
    maxConnections: MAX_CONNECTIONS,
  };
}

function startWorker<Order>(runtime: Runtime, role: Role): Worker<Order> {
  return new Worker<Order>(commandFor(runtime, program), role);
}

// --- the worker processes

async function runWorker(role: Role): Promise<void> {
  switch (role.role) {
    case "server":
      return runServer(role.identity);
    case "client":
      return runClient(role.identity);
    case "attacker":
      return runAttacker();
    case "hostile":
      return runHostilePeer(role.identity);
    case "honest":
      return runHonestClients(role.identity, role.addresses);
  }
}
