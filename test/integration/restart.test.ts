/**
 * A QUIC server is killed and restarted with the same identity and address while a client is
 * connected. The address belongs to a relay. Without it, the closed port would answer with ICMP
 * errors while the server starts, and these would end the connection earlier.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { selfSigned } from "../../adapters/shared/tls.ts";
import type { PieceDownloader } from "../../src/client/downloader.ts";
import { type Address, formatAddress, parseAddress } from "../../src/transport/address.ts";
import { runtimeName } from "../support/fixtures.ts";
import { type RestartOrders, restartContent, restartTaskId } from "../support/restart.ts";
import { type Program, type RuntimeName, runners, startProgram } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";
import { udpRelay } from "../support/udp-relay.ts";

/**
 * Time in ms for an answer after the restart. It takes less than 4 s. A client that waits for the
 * timeouts of QUIC or of its requests takes 60 s or more.
 */
const ANSWER_TIMEOUT_MS = 25_000;
const HELD_PIECE = 5;

const { createDownloader } = await runtimeEntry();
const identity = await selfSigned();

interface Server extends AsyncDisposable {
  /** Returns the current server process. */
  program(): Program;
  /** Address of the relay, the same for every process. */
  readonly addr: string;
  /** Kills the server process and starts another one. */
  restart(orders: Partial<RestartOrders>): Promise<void>;
}

for (const runtime of ["node", "bun", "deno"] as const) {
  const command = runners[runtime];
  // In the name, because some runners do not print skip reasons.
  const gap = typeof command === "string" ? ` [gap: ${command}]` : "";
  const options = { timeout: 120_000, skip: gap !== "" };
  describe(
    `a ${runtime} server restarts under a ${runtimeName} client, over QUIC${gap}`,
    options,
    () => {
      it("between two requests: the next request is answered soon", options, () =>
        withClient(async (downloader) => {
          await using server = await start(runtime, {});
          await get(downloader, server, 0);
          await server.restart({});
          await withTimeout(ANSWER_TIMEOUT_MS, get(downloader, server, 1));
        }),
      );

      it("in the middle of requests: the new server answers them soon", options, () =>
        withClient(async (downloader) => {
          await using server = await start(runtime, { slowPiece: HELD_PIECE, delay: 600_000 });
          await get(downloader, server, 0);
          const held = Promise.all(
            Array.from({ length: 4 }, () => get(downloader, server, HELD_PIECE)),
          );
          held.catch(() => {});
          for (let asked = 0; asked < 4; ) {
            if ((await server.program().line()) === `asked ${HELD_PIECE}`) asked++;
          }
          await server.restart({});
          await withTimeout(ANSWER_TIMEOUT_MS, held);
          await get(downloader, server, 1);
        }),
      );

      it("control: without a restart, a slow server is asked once and answers", options, () =>
        withClient(async (downloader) => {
          await using server = await start(runtime, { slowPiece: HELD_PIECE, delay: 4000 });
          await Promise.all([get(downloader, server, HELD_PIECE), get(downloader, server, 0)]);
          server.program().kill();
          const { out } = await server.program().ended;
          assert.deepEqual(out.match(/asked \d/g)?.sort(), ["asked 0", `asked ${HELD_PIECE}`]);
        }),
      );
    },
  );
}

async function withClient(use: (downloader: PieceDownloader) => Promise<void>): Promise<void> {
  const downloader = createDownloader({
    protocol: "quic",
    tls: { ca: identity.cert },
    connectTimeout: 20_000,
    stallTimeout: 300_000,
  });
  try {
    await use(downloader);
  } finally {
    await downloader.close();
  }
}

async function start(runtime: RuntimeName, orders: Partial<RestartOrders>): Promise<Server> {
  const command = runners[runtime];
  if (typeof command === "string") throw new Error(command);
  const spawn = async (given: Partial<RestartOrders>): Promise<[Program, Address]> => {
    const all: RestartOrders = { identity, port: 0, ...given };
    const words = ["test/support/restart-peer.ts", runtime, JSON.stringify(all)];
    const started = startProgram([...command, ...words]);
    return [started, parseAddress(await started.line())];
  };
  const stop = async (): Promise<void> => {
    program.kill();
    await program.ended;
  };
  const [first, address] = await spawn(orders);
  let program = first;
  const relay = await udpRelay(address);
  return {
    program: () => program,
    addr: formatAddress(relay.address),
    async restart(given) {
      const [next, there] = await spawn(given);
      await stop();
      relay.retarget(there);
      program = next;
    },
    async [Symbol.asyncDispose]() {
      await stop();
      await relay.close();
    },
  };
}

async function get(downloader: PieceDownloader, { addr }: Server, number: number): Promise<void> {
  const piece = await downloader.downloadPiece({
    addr,
    hostId: "host",
    taskId: restartTaskId,
    number,
  });
  assert.deepEqual(
    await piece.bytes(),
    restartContent.subarray(number * 1000, (number + 1) * 1000),
  );
}

async function withTimeout(milliseconds: number, promise: Promise<unknown>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new Error(`not answered within ${milliseconds} ms`)),
      milliseconds,
    );
  });
  try {
    await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
