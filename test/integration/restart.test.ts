/**
 * A QUIC server is killed and started again, with the same identity and address, under a client. A
 * relay has the address: while a server starts, its port answers by ICMP, which would end the
 * connection earlier than what is tested here.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { selfSigned } from "../../adapters/shared/tls.ts";
import type { Downloader } from "../../src/client/downloader.ts";
import { type Address, formatAddress, parseAddress } from "../../src/transport/address.ts";
import { runtimeName } from "../support/fixtures.ts";
import { type RestartOrders, restartContent, restartTaskId } from "../support/restart.ts";
import { type Program, type RuntimeName, runners, startProgram } from "../support/run.ts";
import { runtimeFace } from "../support/runtime-face.ts";
import { udpRelay } from "../support/udp-relay.ts";

/**
 * Milliseconds in which the client has to notice. It takes less than 4 seconds. A client that waits
 * for the timeouts of QUIC or of its requests takes 60 and more.
 */
const SOON = 25_000;
const HELD = 5;

const { createDownloader } = await runtimeFace();
const identity = await selfSigned();

interface Server extends AsyncDisposable {
  /** The process that serves now. */
  program(): Program;
  /** The same for every process. */
  readonly addr: string;
  /** Kills the process, and has another one serve. */
  restart(orders: Partial<RestartOrders>): Promise<void>;
}

for (const runtime of ["node", "bun", "deno"] as const) {
  const command = runners[runtime];
  // In the name, since not every runner prints the reason of a skip.
  const gap = typeof command === "string" ? ` [gap: ${command}]` : "";
  const options = { timeout: 120_000, skip: gap !== "" };
  describe(
    `a ${runtime} server restarts under a ${runtimeName} client, over QUIC${gap}`,
    options,
    () => {
      it("between two requests: the next one is answered soon", options, () =>
        withClient(async (downloader) => {
          await using server = await start(runtime, {});
          await get(downloader, server, 0);
          await server.restart({});
          await within(SOON, get(downloader, server, 1));
        }),
      );

      it("in the middle of requests: they are answered soon by the new one", options, () =>
        withClient(async (downloader) => {
          await using server = await start(runtime, { slowPiece: HELD, delay: 600_000 });
          await get(downloader, server, 0);
          const held = Promise.all(Array.from({ length: 4 }, () => get(downloader, server, HELD)));
          held.catch(() => {});
          for (let asked = 0; asked < 4; ) {
            if ((await server.program().line()) === `asked ${HELD}`) asked++;
          }
          await server.restart({});
          await within(SOON, held);
          await get(downloader, server, 1);
        }),
      );

      it("it does not, but is slow: it is asked once, and answers", options, () =>
        withClient(async (downloader) => {
          await using server = await start(runtime, { slowPiece: HELD, delay: 4000 });
          await Promise.all([get(downloader, server, HELD), get(downloader, server, 0)]);
          server.program().kill();
          const { out } = await server.program().ended;
          assert.deepEqual(out.match(/asked \d/g)?.sort(), ["asked 0", `asked ${HELD}`]);
        }),
      );
    },
  );
}

async function withClient(use: (downloader: Downloader) => Promise<void>): Promise<void> {
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

async function get(downloader: Downloader, { addr }: Server, number: number): Promise<void> {
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

async function within(milliseconds: number, promise: Promise<unknown>): Promise<void> {
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
