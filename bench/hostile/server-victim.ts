/** A server that is attacked, over all protocols at once, in a process of its own. */
import { type Face, faceOf } from "../../entry/face.ts";
import type { VortexError } from "../../src/errors.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
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

/** Where it listens; with TLS for gRPC, too. */
export interface Listening {
  readonly addresses: Addresses;
  readonly secure: string;
  /** Port of QUIC on all addresses. */
  readonly everywhere: number;
  readonly start: Gauges;
}

/** `listen` is answered with {@link Listening}, `rest` with {@link Gauges}, `end` with a number of bytes, `stop` with an `Ending`. */
export type ServerOrder = "listen" | "begin" | "end" | "rest" | "stop";

/** Takes orders. */
export async function playServer(identity: TlsIdentity): Promise<void> {
  const watch = new Watch();
  const { counters } = watch;
  const face = faceOf(counters.quic(await quicOfRuntime()));
  let servers: readonly StorageServer[] = [];
  let start: Gauges | undefined;
  const close = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.close({ grace: 0 })));
    servers = [];
  };
  obey<ServerOrder>(async (order) => {
    switch (order) {
      case "listen":
        // Once for what is loaded at first use and then kept.
        servers = await serve(face, watch, identity);
        await close();
        start = await counters.settled();
        servers = await serve(face, watch, identity);
        return listening(servers, start);
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

function serve(face: Face, watch: Watch, tls: TlsIdentity): Promise<readonly StorageServer[]> {
  const store = new MemoryPieceStore();
  store.putTask(TASK_ID, CONTENT, { pieceLength: PIECE_LENGTH, digest: DIGEST });
  store.putTask(LONG_TASK_ID, long, { pieceLength: LONG });
  const options = {
    store,
    host: "127.0.0.1",
    tls,
    maxConnections: MAX_CONNECTIONS,
    requestTimeout: REQUEST_TIMEOUT,
    stallTimeout: STALL_TIMEOUT,
    telemetry: watch.counters.telemetry,
    onError: (error: VortexError) => watch.note(`${error.code}: ${error.message}`),
  };
  return Promise.all([
    face.startServer({ ...options, quic: { port: 0 }, tcp: { port: 0 }, grpc: { port: 0 } }),
    face.startServer({ ...options, grpc: { port: 0, tls: true } }),
    face.startServer({ ...options, host: "::", quic: { port: 0 } }),
  ]);
}

const long = new Uint8Array(LONG);

function listening(
  [plain, secure, everywhere]: readonly StorageServer[],
  start: Gauges,
): Listening {
  const [grpc, quic] = [secure?.addresses.grpc, everywhere?.addresses.quic];
  if (plain === undefined || grpc === undefined || quic === undefined)
    throw new TypeError("there are three servers");
  return {
    addresses: addressesOf(plain),
    secure: formatAddress(grpc),
    everywhere: quic.port,
    start,
  };
}

function addressesOf({ addresses }: StorageServer): Addresses {
  return Object.fromEntries(
    Object.entries(addresses).map(([protocol, address]) => [protocol, formatAddress(address)]),
  );
}
