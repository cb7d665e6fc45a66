/**
 * Every runtime as a client of every runtime as a server, over every protocol, in separate
 * processes. Also the edge client with each server, over TCP. Prints a table of the results.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, it } from "node:test";
import type { Protocol } from "../../src/transport/protocol.ts";
import { type EdgeClient, startEdgeClient } from "../support/edge-peer.ts";
import { runtimeName } from "../support/fixtures.ts";
import {
  contentOf,
  longPiece,
  type MatrixRequest,
  type MatrixResult,
  type MatrixServer,
  type MatrixTask,
  manyPieces,
  oddTask,
} from "../support/matrix.ts";
import { type Program, type RuntimeName, runners, startProgram } from "../support/run.ts";

const runtimes: readonly RuntimeName[] = ["node", "bun", "deno"];
const protocols: readonly Protocol[] = ["quic", "tcp", "grpc"];

/** Results in the table, by row and column. */
const table = new Map<string, Map<string, string>>();
const servers = new Map<
  RuntimeName,
  Promise<{ readonly program: Program; readonly told: MatrixServer }>
>();
const clients = new Map<RuntimeName, Program>();
let edge: Promise<EdgeClient> | undefined;

// Under one runtime only, because it starts processes of all runtimes.
if (runtimeName === "bun") describe("matrix", defineCells);
else
  it("matrix [skipped: it runs once, under Bun, and starts processes of all runtimes]", {
    skip: true,
  }, () => {});

function defineCells(): void {
  for (const client of runtimes) {
    for (const server of runtimes) {
      for (const protocol of protocols) {
        defineCell(client, server, protocol, "a task of several pieces and a shorter last one", {
          tasks: [oddTask],
          repeats: 1,
        });
      }
      // Pairs of HTTP/2 implementations that work with one call at a time have failed at eight or
      // more.
      defineCell(client, server, "grpc", "32 pieces of 4 MiB at a time, then one of 64 MiB", {
        tasks: [manyPieces, longPiece],
        repeats: 1,
      });
    }
    it(`${client} as a client exits by itself, without output`, {
      timeout: 60_000,
    }, async () => {
      const program = clients.get(client);
      program?.end();
      assertQuiet(await program?.ended);
    });
  }
  for (const server of runtimes) {
    it(
      `edge client, ${server} server, tcp: a task of several pieces and a shorter last one`,
      { timeout: 60_000 },
      () =>
        recorded("edge", server, "tcp", async () => {
          edge ??= startEdgeClient();
          const addr = await addrOf(server, "tcp");
          const { length, sha256, error } = await (await edge).fetchTask(
            addr,
            oddTask.taskId,
            oddTask.plan,
          );
          assert.equal(error, undefined);
          assert.deepEqual([length, sha256], [oddTask.plan.contentLength, digestOf(oddTask)]);
        }),
    );
  }
  for (const server of runtimes) {
    it(`${server} as a server exits by itself, without output`, {
      timeout: 60_000,
    }, async () => {
      const program = (await servers.get(server))?.program;
      program?.end();
      assertQuiet(await program?.ended);
    });
  }
  it("the table", { timeout: 60_000 }, async () => {
    await (await edge)?.close();
    console.log(tableText());
  });
}

function defineCell(
  client: RuntimeName,
  server: RuntimeName,
  protocol: Protocol,
  what: string,
  request: Pick<MatrixRequest, "tasks" | "repeats">,
): void {
  const name = `${client} client, ${server} server, ${protocol}: ${what}`;
  const missing = [runners[client], runners[server]].find((command) => typeof command === "string");
  if (missing !== undefined) {
    setCell(client, server, protocol, "-");
    // In the name, because some runtimes do not print skip reasons.
    it(`${name} [gap: ${missing}]`, { skip: true }, () => {});
    return;
  }
  it(name, { timeout: 120_000 }, () =>
    recorded(client, server, protocol, async () => {
      const { fingerprint } = (await startServerOnce(server)).told;
      const result = await fetched(client, {
        ...request,
        protocol,
        addr: await addrOf(server, protocol),
        ...(protocol === "quic" && fingerprint !== undefined && { fingerprint }),
      });
      const expected = request.tasks.flatMap((task) =>
        Array<string>(request.repeats).fill(digestOf(task)),
      );
      assert.deepEqual(result, { digests: expected });
    }),
  );
}

/** Starts the server of a runtime once, for all clients. */
function startServerOnce(
  runtime: RuntimeName,
): Promise<{ readonly program: Program; readonly told: MatrixServer }> {
  const existing = servers.get(runtime);
  if (existing !== undefined) return existing;
  const starting = (async () => {
    const program = peer("server", runtime);
    return { program, told: JSON.parse(await program.line()) as MatrixServer };
  })();
  servers.set(runtime, starting);
  return starting;
}

async function addrOf(server: RuntimeName, protocol: Protocol): Promise<string> {
  const addr = (await startServerOnce(server)).told.addrs[protocol];
  assert.ok(
    typeof addr === "string",
    `${server} does not serve ${protocol}: ${JSON.stringify(addr)}`,
  );
  return addr;
}

async function fetched(client: RuntimeName, order: MatrixRequest): Promise<MatrixResult> {
  const program = clients.get(client) ?? peer("client", client);
  clients.set(client, program);
  program.send(JSON.stringify(order));
  return JSON.parse(await program.line()) as MatrixResult;
}

function peer(role: "server" | "client", runtime: RuntimeName): Program {
  const command = runners[runtime];
  if (typeof command === "string") throw new Error(command);
  return startProgram([...command, "test/support/matrix-peer.ts", role, runtime]);
}

function assertQuiet(outcome: Awaited<Program["ended"]> | undefined): void {
  if (outcome === undefined) return;
  assert.deepEqual([outcome.code, outcome.err], [0, ""]);
}

const digests = new Map<string, string>();

function digestOf(task: MatrixTask): string {
  const digest =
    digests.get(task.taskId) ?? createHash("sha256").update(contentOf(task)).digest("hex");
  digests.set(task.taskId, digest);
  return digest;
}

/** Runs a cell's test and records its result in the table. */
async function recorded(
  row: string,
  server: RuntimeName,
  protocol: Protocol,
  run: () => Promise<void>,
): Promise<void> {
  try {
    await run();
    setCell(row, server, protocol, "ok");
  } catch (error) {
    setCell(row, server, protocol, "FAILED");
    throw error;
  }
}

function setCell(row: string, server: RuntimeName, protocol: Protocol, word: string): void {
  const cells = table.get(row) ?? new Map<string, string>();
  const key = `${server} ${protocol}`;
  // A cell of several tests shows a failure of any of them.
  if (cells.get(key) !== "FAILED") cells.set(key, word);
  table.set(row, cells);
}

function tableText(): string {
  const lines = [
    "",
    "client \\ server".padEnd(16) + runtimes.map((server) => server.padEnd(24)).join(""),
  ];
  lines.push(
    "".padEnd(16) + runtimes.map(() => protocols.map((one) => one.padEnd(8)).join("")).join(""),
  );
  for (const [row, cells] of table) {
    const words = runtimes.flatMap((server) =>
      protocols.map((one) => cells.get(`${server} ${one}`) ?? ""),
    );
    lines.push(row.padEnd(16) + words.map((word) => word.padEnd(8)).join(""));
  }
  return lines.join("\n");
}
