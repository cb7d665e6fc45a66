/**
 * A program that fetches over QUIC and does not close its downloader exits by itself, but only
 * after its requests are answered.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { IDLE_CLOSE_MS } from "../../adapters/shared/idle-close.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { runtimeName } from "../support/fixtures.ts";
import {
  type ForgetfulOrder,
  restartContent,
  restartTaskId as taskId,
} from "../support/restart.ts";
import { type Outcome, runner, startProgram } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";

const HELD_PIECE = 5;
const testOptions = { timeout: 120_000 };
const { startServer } = await runtimeEntry();
/** QUIC bindings available on this runtime. */
const clients = runtimeName === "bun" ? ["bun", "node:quic"] : [runtimeName];

for (const client of clients) {
  describe(`a downloader that is not closed, over QUIC: ${client}`, () => {
    it("does not keep its process alive", testOptions, async () => {
      assert.deepEqual(await fetched(client, [0, 1]), { code: 0, out: "1000\n1000\n", err: "" });
    });

    it(
      "keeps its process alive while a request is unanswered, beyond the idle timeout",
      testOptions,
      async () => {
        assert.deepEqual(await fetched(client, [0, HELD_PIECE]), {
          code: 0,
          out: "1000\n1000\n",
          err: "",
        });
      },
    );
  });
}

/** Runs a client process that fetches pieces from a server, which delays one of them. */
async function fetched(client: string, numbers: readonly number[]): Promise<Outcome> {
  const identity = await selfSigned();
  const store = new MemoryPieceStore();
  store.putTask(taskId, restartContent, { pieceLength: 1000 });
  const server = await startServer({
    host: "127.0.0.1",
    tls: identity,
    quic: { port: 0 },
    store: {
      getTask: (id) => store.getTask(id),
      async getPiece(request) {
        if (request.number === HELD_PIECE) {
          await new Promise<void>((resolve) => {
            setTimeout(resolve, IDLE_CLOSE_MS + 2000);
          });
        }
        return store.getPiece(request);
      },
    },
  });
  const address = server.addresses.quic;
  if (address === undefined) assert.fail("QUIC has no address");
  const order: ForgetfulOrder = {
    addr: formatAddress(address),
    ca: identity.cert,
    taskId,
    numbers,
  };
  const program = startProgram([
    ...runner,
    "test/support/forgetful-peer.ts",
    client,
    JSON.stringify(order),
  ]);
  try {
    return await Promise.race([program.ended, timeoutAfter(60_000)]);
  } finally {
    program.kill();
    await program.ended;
    await server.close({ grace: 0 });
  }
}

function timeoutAfter(milliseconds: number): Promise<never> {
  return new Promise((_resolve, reject) => {
    setTimeout(
      () => reject(new Error(`the process has not ended after ${milliseconds} ms`)),
      milliseconds,
    ).unref();
  });
}
