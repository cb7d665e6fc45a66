/**
 * A campaign of hostile peers: attacks on a server over QUIC, TCP and gRPC, and wrong answers to a client, with honest peers beside
 * them.
 *
 *     npm run hostile -- --runtime node,bun --write
 *
 * The victim is a process of the runtime that is asked for. Who attacks it, or answers it wrongly, is a process on Node. An honest
 * client takes one piece after the other over the same protocol, before, during and after each attack, and compares every byte: in
 * a process of its own while a server is attacked, and within the victim while that is the client. All is done several times over.
 *
 * Fails (exit code 1) on
 *
 * - wrong bytes that are handed on, or an outcome that the attack or fault does not allow, such as a try that hangs;
 * - the end of the victim, a rejection that nobody handled, a failure inside that its server reports;
 * - a count (descriptors, handles, timers, requests, QUIC connections) that has not returned to its start within 30 s after all was
 *   closed; resident memory that at rest, between the rounds, keeps growing;
 * - an honest client that gets no piece during an attack, or one of whose pieces fails.
 *
 * | option | default | |
 * | --- | --- | --- |
 * | `--exchanges` | `100000` | tries in all, against each runtime; what a try is, the table says |
 * | `--runtime` | `node,bun,deno` | some of `node`, `bun`, `deno`, one after the other |
 * | `--only` | | attacks and faults whose name has this in it |
 * | `--rounds` | `3` | how often all is done; with one, memory at rest is not judged |
 * | `--seed` | by chance | of the choices; how they interleave is not repeated |
 * | `--together` | | attacks over different protocols at the same time, for a quick look |
 * | `--write` | | puts the tables into SECURITY.md |
 */
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { selfSigned } from "../adapters/shared/tls.ts";
import { type Protocol, protocols } from "../src/transport/protocol.ts";
import type { TlsIdentity } from "../src/transport/tls.ts";
import { type FaultGroup, faultGroups } from "../test/support/hostile-vortex.ts";
import { type Outcomes, pause, type Target } from "./hostile/attack.ts";
import { type AttackOrder, attacks, playAttacker } from "./hostile/attacker.ts";
import { type ClientOrder, playClient } from "./hostile/client-victim.ts";
import { type Fares, type HonestOrder, playHonest } from "./hostile/honest.ts";
import { playHostilePeer } from "./hostile/hostile-peer.ts";
import { add, addFared, type Campaign, markdownOf, type Row, writeInto } from "./hostile/report.ts";
import {
  type Listening,
  LONG_TASK_ID,
  MAX_CONNECTIONS,
  playServer,
  type ServerOrder,
} from "./hostile/server-victim.ts";
import type { Ending } from "./hostile/victim.ts";
import { choices, positive } from "./options.ts";
import { Worker } from "./processes.ts";
import { commandFor, findRuntimes, type Runtime } from "./runtimes.ts";
import { seededRandom, TASK_ID } from "./soak/content.ts";
import { type Gauges, leftoversOf } from "./soak/gauges.ts";
import type { Addresses } from "./soak/load.ts";

/** What a process of this program is started with, as JSON. */
type Role = { readonly identity: TlsIdentity } & (
  | { readonly role: "server" | "client" | "attacker" | "hostile" }
  | { readonly role: "honest"; readonly addresses: Addresses }
);

interface Plan {
  /** What the usual number of tries is multiplied with. */
  readonly scale: number;
  readonly rounds: number;
  readonly seed: number;
  readonly together: boolean;
  readonly wanted: (name: string) => boolean;
}

/** An attack or a group of faults, with its row in the table. */
interface Job {
  readonly row: Row;
  /** Place in the list of attacks. */
  readonly index: number;
  readonly group: FaultGroup;
  readonly over: Protocol;
  /** In each round. */
  readonly tries: number;
  readonly secure: boolean;
}

/** Requests of a client to a hostile peer, over each protocol, for each group of faults. */
const ASKED: Record<FaultGroup, number> = {
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
/** Milliseconds for which the honest client is alone, before and after each attack. */
const ALONE = 250;
const ALONE_TOGETHER = 50;
/** Seconds for an answer of a process, on a machine that is busy. */
const PATIENCE = 600;
/** Wrong outcomes of one attack that are told. */
const MAX_REPORTED = 5;
/** How much more resident memory at rest is no leak: a part of it, and so many bytes. */
const TOLERANCE = { part: 0.15, bytes: 24e6 };

const program = fileURLToPath(import.meta.url);

const given = process.argv[2];
if (given?.startsWith("{")) await play(JSON.parse(given) as Role);
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
    protocols.length * Object.values(ASKED).reduce((sum, tries) => sum + tries, 0);
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
  if (node === undefined) throw new Error("the attacking processes need Node");
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
    run: (tell: (problem: string) => void) => Promise<readonly Row[]>,
  ) => {
    const tell = (problem: string): void =>
      void problems.push(`${runtime.title}, ${what}: ${problem}`);
    return run(tell).catch((error): readonly Row[] => {
      tell(error instanceof Error ? error.message : String(error));
      return [];
    });
  };
  const rows = [
    ...(await against("the server", (tell) => attackServer(runtime, node, identity, plan, tell))),
    ...(await against("the client", (tell) => answerClient(runtime, node, identity, plan, tell))),
  ];
  return {
    title: runtime.title,
    seed: plan.seed,
    seconds: (performance.now() - started) / 1000,
    rows,
  };
}

/** Attacks a server of the runtime. */
async function attackServer(
  runtime: Runtime,
  node: Runtime,
  identity: TlsIdentity,
  plan: Plan,
  tell: (problem: string) => void,
): Promise<readonly Row[]> {
  const jobs = attacks.flatMap(({ name, over, unit, tries, secure = false }, index) =>
    plan.wanted(name)
      ? [jobOf({ name, over, unit, tries, secure, index, group: "wrong" }, plan)]
      : [],
  );
  if (jobs.length === 0) return [];
  const victim = worker<ServerOrder>(runtime, { identity, role: "server" });
  const attacker = worker<AttackOrder>(node, { identity, role: "attacker" });
  const { addresses, secure, everywhere, start } = await victim.ask<Listening>("listen", PATIENCE);
  const honest = worker<HonestOrder>(runtime, { identity, role: "honest", addresses });
  const random = seededRandom(plan.seed);
  try {
    await overRounds(jobs, plan, start, tell, {
      begin: () => victim.ask("begin", PATIENCE),
      end: () => victim.ask("end", PATIENCE),
      rest: () => victim.ask("rest", PATIENCE),
      start: (over) => honest.ask({ do: "start", over }, PATIENCE),
      stop: (over) => honest.ask({ do: "stop", over }, PATIENCE),
      attack: (phase) =>
        attacker.ask(
          {
            attacks: phase.map(({ index, over, tries, secure: overTls }) => ({
              index,
              target: overTls
                ? { ...targetAt(secure), secure: true }
                : { ...targetAt(addresses[over]), everywhere },
              tries,
              seed: random() * 2 ** 32,
            })),
          },
          PATIENCE,
        ),
    });
    judgeEnding(start, await victim.ask<Ending>("stop", PATIENCE), tell);
  } finally {
    await Promise.all([victim.end(), attacker.end(), honest.end()]);
  }
  return jobs.map(({ row }) => row);
}

/** Answers a client of the runtime wrongly. */
async function answerClient(
  runtime: Runtime,
  node: Runtime,
  identity: TlsIdentity,
  plan: Plan,
  tell: (problem: string) => void,
): Promise<readonly Row[]> {
  const jobs = protocols.flatMap((over) =>
    faultGroups.flatMap((group) => {
      const name = GROUP_NAMES[group];
      const usual = { name, over, unit: "request", tries: ASKED[group], secure: false } as const;
      return plan.wanted(name) ? [jobOf({ ...usual, index: 0, group }, plan)] : [];
    }),
  );
  if (jobs.length === 0) return [];
  const victim = worker<ClientOrder>(runtime, { identity, role: "client" });
  const hostile = worker<"listen">(node, { identity, role: "hostile" });
  const peer = worker<ServerOrder>(node, { identity, role: "server" });
  const random = seededRandom(plan.seed + 1);
  try {
    const { addresses } = await peer.ask<{ addresses: Addresses }>("listen", PATIENCE);
    const open = {
      do: "open",
      hostile: await hostile.ask<Addresses>("listen", PATIENCE),
      honest: addresses,
    } as const;
    const start = await victim.ask<Gauges>(open, PATIENCE);
    await overRounds(jobs, plan, start, tell, {
      begin: () => victim.ask({ do: "begin" }, PATIENCE),
      end: () => victim.ask({ do: "end" }, PATIENCE),
      rest: () => victim.ask({ do: "rest" }, PATIENCE),
      start: (over) => victim.ask({ do: "start", over }, PATIENCE),
      stop: (over) => victim.ask({ do: "stop", over }, PATIENCE),
      attack: (phase) =>
        victim.ask(
          {
            do: "ask",
            askings: phase.map(({ over, group, tries }) => ({
              over,
              group,
              tries,
              seed: random() * 2 ** 32,
            })),
          },
          PATIENCE,
        ),
    });
    judgeEnding(start, await victim.ask<Ending>({ do: "close" }, PATIENCE), tell);
  } finally {
    await Promise.all([victim.end(), hostile.end(), peer.end()]);
  }
  return jobs.map(({ row }) => row);
}

/** The processes of a campaign. */
interface Field {
  /** Looks at the victim's memory from here on. */
  begin(): Promise<void>;
  /** The greatest that it was, in bytes. */
  end(): Promise<number>;
  rest(): Promise<Gauges>;
  /** Honest clients of these protocols. */
  start(over: readonly Protocol[]): Promise<void>;
  stop(over: readonly Protocol[]): Promise<Fares>;
  /** All of them at the same time. */
  attack(phase: readonly Job[]): Promise<readonly Outcomes[]>;
}

/** Carries all out, several times over, and fills the rows in. */
async function overRounds(
  jobs: readonly Job[],
  plan: Plan,
  start: Gauges,
  tell: (problem: string) => void,
  field: Field,
): Promise<void> {
  const phases = phasesOf(jobs, plan.together);
  const rests: number[] = [];
  for (let round = 0; round < plan.rounds; round++) {
    for (const phase of phases) await carryOut(phase, plan, start, field);
    rests.push((await field.rest()).resident);
  }
  for (const { row } of jobs) judge(row, tell);
  const [first = 0, last = 0] = [rests[0], rests.at(-1)];
  if (plan.rounds > 1 && last - first > first * TOLERANCE.part + TOLERANCE.bytes) {
    tell(
      `resident memory at rest grows: ${rests.map((bytes) => Math.round(bytes / 1e6)).join(", ")} MB`,
    );
  }
}

async function carryOut(
  phase: readonly Job[],
  { together }: Plan,
  start: Gauges,
  field: Field,
): Promise<void> {
  const over = phase.map((job) => job.over);
  const alone = together ? ALONE_TOGETHER : ALONE;
  const fares: (readonly [Fares, "during" | "without"])[] = [];
  const withoutAttack = async (): Promise<void> => {
    await field.start(over);
    await pause(alone);
    fares.push([await field.stop(over), "without"]);
  };
  await withoutAttack();
  await field.begin();
  await field.start(over);
  const began = performance.now();
  const outcomes = await field.attack(phase);
  console.error(
    `${((performance.now() - began) / 1000).toFixed(1)} s ${phase.map(({ row }) => `${row.over}: ${row.name}`).join("; ")}`,
  );
  fares.push([await field.stop(over), "during"]);
  const growth = (await field.end()) - start.resident;
  await withoutAttack();
  for (const [index, { row, over: protocol, tries }] of phase.entries()) {
    row.tries += tries;
    row.growth = Math.max(row.growth, growth);
    add(row.outcomes, outcomes[index] ?? {});
    for (const [fared, when] of fares) addFared(row, fared[protocol], when);
  }
}

/** One job after the other, or those of different protocols together. */
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
  tell: (problem: string) => void,
): void {
  const where = `${name}, over ${over}`;
  const wrong = Object.entries(outcomes).filter(([outcome]) => outcome.startsWith("wrong"));
  for (const [outcome, count] of wrong.slice(0, MAX_REPORTED))
    tell(`${where}: ${count} × ${outcome}`);
  if (wrong.length > MAX_REPORTED)
    tell(`${where}: ${wrong.length - MAX_REPORTED} outcomes more that are wrong`);
  if (during.length === 0) tell(`${where}: the honest client got no piece`);
  for (const [failure, count] of Object.entries(failures)) {
    tell(`${where}: ${count} pieces of the honest client ended in ${failure}`);
  }
}

function judgeEnding(
  start: Gauges,
  { gauges, surprises }: Ending,
  tell: (problem: string) => void,
): void {
  for (const problem of [...surprises, ...leftoversOf(start, gauges)]) tell(problem);
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

function worker<Order>(runtime: Runtime, role: Role): Worker<Order> {
  return new Worker<Order>(commandFor(runtime, program), role);
}

// --- the other processes

async function play(role: Role): Promise<void> {
  switch (role.role) {
    case "server":
      return playServer(role.identity);
    case "client":
      return playClient(role.identity);
    case "attacker":
      return playAttacker();
    case "hostile":
      return playHostilePeer(role.identity);
    case "honest":
      return playHonest(role.identity, role.addresses);
  }
}
