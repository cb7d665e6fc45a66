/** A server that is attacked, over all protocols at once, in a process of its own. */
import { type Face, faceOf } from "../../adapters/face.ts";
import { MemoryPieceStore } from "../../src/server/memory-store.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { obey } from "../program.ts";
import { CONTENT, DIGEST, PIECE_LENGTH, TASK_ID } from "../soak/content.ts";
import type { Gauges } from "../soak/gauges.ts";
import type { Addresses } from "../soak/load.ts";
import { quicOfRuntime } from "../soak/quic.ts";
import { Watch } from "./victim.ts";

/** A task of one piece, of more bytes than the buffers between two hosts hold. */
export const LONG_TASK_ID: string = "51".repeat(32);
const LONG = 24 * 1024 * 1024;

/** Its greatest number of connections: few, so that a flood is one. */
export const MAX_CONNECTIONS = 256;
/** Milliseconds for a request, and for a chunk to be taken: few, so that whoever is slow is cut off within the campaign. */
const REQUEST_TIMEOUT = 1_000;
const STALL_TIMEOUT = 1_000;

/** `listen` is answered with addresses and {@link Gauges}, `rest` with {@link Gauges}, `end` with a number of bytes, `stop` with an `Ending`. */
export type ServerOrder = "listen" | "begin" | "end" | "rest" | "stop";

/** Takes orders. */
export async function playServer(identity: TlsIdentity): Promise<void> {
  const watch = new Watch();
  const { counters } = watch;
  const face = faceOf(counters.quic(await quicOfRuntime()));
  let server: StorageServer | undefined;
  let start: Gauges | undefined;
  const close = async (): Promise<void> => {
    await server?.close({ grace: 0 });
    server = undefined;
  };
  obey<ServerOrder>(async (order) => {
    switch (order) {
      case "listen":
        // Once for what is loaded at first use and then kept.
        server = await serve(face, watch, identity);
        await close();
        start = await counters.settled();
        server = await serve(face, watch, identity);
        return { addresses: addressesOf(server), start };
      case "begin":
        return watch.begin();
      case "end":
        return watch.end();
      case "rest":
        return counters.gauges();
      case "stop":
        await close();
        return watch.ending(start);
    }
  }, close);
}

function serve(face: Face, watch: Watch, tls: TlsIdentity): Promise<StorageServer> {
  const store = new MemoryPieceStore();
  store.putTask(TASK_ID, CONTENT, { pieceLength: PIECE_LENGTH, digest: DIGEST });
  store.putTask(LONG_TASK_ID, long, { pieceLength: LONG });
  return face.startServer({
    store,
    host: "127.0.0.1",
    quic: { port: 0 },
    tcp: { port: 0 },
    grpc: { port: 0 },
    tls,
    maxConnections: MAX_CONNECTIONS,
    requestTimeout: REQUEST_TIMEOUT,
    stallTimeout: STALL_TIMEOUT,
    telemetry: watch.counters.telemetry,
    onError: (error) => watch.note(`${error.code}: ${error.message}`),
  });
}

const long = new Uint8Array(LONG);

function addressesOf({ addresses }: StorageServer): Addresses {
  return Object.fromEntries(Object.entries(addresses).map(([protocol, address]) => [protocol, formatAddress(address)]));
}
