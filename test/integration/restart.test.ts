/** A QUIC server is killed and started again, with the same identity and port, under a client. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { selfSigned } from "../../adapters/tls.ts";
import type { Downloader } from "../../src/client/downloader.ts";
import { runtimeName } from "../support/fixtures.ts";
import { type RestartOrders, restartContent, restartTaskId } from "../support/restart.ts";
import { type Program, type RuntimeName, runners, startProgram } from "../support/run.ts";
import { runtimeFace } from "../support/runtime-face.ts";

/**
 * Milliseconds in which the client has to notice. It takes less than 4 seconds. A client that waits
 * for the timeouts of QUIC or of its requests takes 60 and more.
 */
const SOON = 25_000;
const HELD = 5;

const { createDownloader } = await runtimeFace();
const identity = await selfSigned();

interface Server {
  readonly program: Program;
  readonly addr: string;
}

for (const runtime of ["node", "bun", "deno"] as const) {
  const command = runners[runtime];
  // In the name, since not every runner prints the reason of a skip.
  const gap = typeof command === "string" ? ` [gap: ${command}]` : "";
  const options = { timeout: 120_000, skip: gap !== "" };
  describe(`a ${runtime} server restarts under a ${runtimeName} client, over QUIC${gap}`, options, () => {
    it("between two requests: the next one is answered soon", options, () =>
      withClient(async (downloader) => {
        const first = await start(runtime, {});
        await get(downloader, first, 0);
        const second = await restart(runtime, first);
        try {
          await within(SOON, get(downloader, second, 1));
        } finally {
          await stop(second);
        }
      }),
    );

    it("in the middle of requests: they are answered soon by the new one", options, () =>
      withClient(async (downloader) => {
        const first = await start(runtime, { slowPiece: HELD, delay: 600_000 });
        await get(downloader, first, 0);
        const held = Promise.all(Array.from({ length: 4 }, () => get(downloader, first, HELD)));
        held.catch(() => {});
        for (let asked = 0; asked < 4; ) if ((await first.program.line()) === `asked ${HELD}`) asked++;
        const second = await restart(runtime, first);
        try {
          await within(SOON, held);
          await get(downloader, second, 1);
        } finally {
          await stop(second);
        }
      }),
    );

    it("it does not, but is slow: it is asked once, and answers", options, () =>
      withClient(async (downloader) => {
        const server = await start(runtime, { slowPiece: HELD, delay: 4000 });
        try {
          await Promise.all([get(downloader, server, HELD), get(downloader, server, 0)]);
        } finally {
          await stop(server);
        }
        const { out } = await server.program.ended;
        assert.deepEqual(out.match(/asked \d/g)?.sort(), ["asked 0", `asked ${HELD}`]);
      }),
    );
  });
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
  const all: RestartOrders = { identity, port: 0, ...orders };
  const program = startProgram([...command, "test/support/restart-peer.ts", runtime, JSON.stringify(all)]);
  return { program, addr: await program.line() };
}

async function restart(runtime: RuntimeName, server: Server): Promise<Server> {
  await stop(server);
  return start(runtime, { port: Number(server.addr.split(":").pop()) });
}

async function stop({ program }: Server): Promise<void> {
  program.kill();
  await program.ended;
}

async function get(downloader: Downloader, { addr }: Server, number: number): Promise<void> {
  const piece = await downloader.downloadPiece({ addr, hostId: "host", taskId: restartTaskId, number });
  assert.deepEqual(await piece.bytes(), restartContent.subarray(number * 1000, (number + 1) * 1000));
}

async function within(milliseconds: number, promise: Promise<unknown>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`not answered within ${milliseconds} ms`)), milliseconds);
  });
  try {
    await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
