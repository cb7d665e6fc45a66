/**
 * Runs a QUIC server in a separate process, which tests kill and restart:
 *
 *     restart-peer.ts FACE ORDERS
 *
 * FACE is `node`, `bun` or `deno`; ORDERS is a `RestartOrders` in JSON.
 *
 * Prints its address, then `asked N` for each request for piece N that reaches its store.
 */
import process from "node:process";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import type { Face } from "../../entry/face.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
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
const store = new MemoryPieceStore(nativeHashers);
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

/** Imports the entry point of one runtime only, since those of other runtimes may not load. */
function faceOf(runtime: string | undefined): Promise<Pick<Face, "startServer">> {
  if (runtime === "bun") return import("../../entry/bun.ts");
  return runtime === "deno" ? import("../../entry/deno.ts") : import("../../entry/node.ts");
}
