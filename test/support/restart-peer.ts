/**
 * Test program: runs a QUIC server, which tests kill and restart.
 *
 *     restart-peer.ts FACE ORDERS
 *
 * FACE names the package entry point: `node`, `bun` or `deno`. ORDERS is a `RestartOrders` in JSON.
 *
 * It prints its address. Then it prints `asked N` for each request for piece N that reaches its
 * store.
 */
import process from "node:process";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import type { RuntimeApi } from "../../entry/runtime-api.ts";
import { memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import {
  longContent,
  longTaskId,
  type RestartOrders,
  restartContent,
  restartTaskId,
} from "./restart.ts";

const [, , name, orders = "{}"] = process.argv;
const { identity, port, slowPiece, delay } = JSON.parse(orders) as RestartOrders;
const { startServer } = await faceOf(name);
const store = memoryPieceStoreWith(nativeHashers);
store.putTask(restartTaskId, restartContent, { pieceLength: 1000 });
store.putTask(longTaskId, longContent, { pieceLength: longContent.length });
const server = await startServer({
  host: "127.0.0.1",
  tls: identity,
  quic: { port },
  store: {
    getTask: (taskId) => store.getTask(taskId),
    async getPiece(request) {
      console.log(`asked ${request.number}`);
      if (request.number === slowPiece) {
        await new Promise<void>((resolve) => {
          setTimeout(resolve, delay);
        });
      }
      return store.getPiece(request);
    },
  },
});
const address = server.addresses.quic;
if (address === undefined) throw new Error("QUIC has no address");
console.log(formatAddress(address));

/**
 * Imports only the entry point of the given runtime, because other entry points may not load on it.
 */
function faceOf(runtime: string | undefined): Promise<Pick<RuntimeApi, "startServer">> {
  if (runtime === "bun") return import("../../entry/bun.ts");
  return runtime === "deno" ? import("../../entry/deno.ts") : import("../../entry/node.ts");
}
