/** Server under attack over all protocols, in a separate process. */
import { type RuntimeApi, runtimeApi } from "../../entry/runtime-api.ts";
import type { VortexError } from "../../src/errors.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { carryOutOrders } from "../program.ts";
import { CONTENT, DIGEST, PIECE_LENGTH, TASK_ID } from "../soak/content.ts";
import type { Gauges } from "../soak/gauges.ts";
import type { Addresses } from "../soak/load.ts";
import { quicOfRuntime } from "../soak/quic.ts";
import { ProcessMonitor } from "./victim.ts";

/** Task of one piece, longer than the buffers between two hosts. */
export const LONG_TASK_ID: string = "51".repeat(32);
const LONG_PIECE_BYTES = 24 * 1024 * 1024;

/** Connection limit: small, so that few connections make a flood. */
export const MAX_CONNECTIONS = 256;
/**
 * Timeout for a request, and for a chunk to be accepted, in ms. Short, so that slow clients are cut
 * off within the campaign.
 */
const REQUEST_TIMEOUT_MS = 1_000;
const STALL_TIMEOUT_MS = 1_000;

/** Addresses of the server. `secure` is gRPC over TLS. */
export interface Listening {
  readonly addresses: Addresses;
  readonly secure: string;
  /** QUIC port of the server on all addresses. */
  readonly wildcardPort: number;
  readonly start: Gauges;
}

/**
 * Orders to the server. `listen` is answered with {@link Listening}, `rest` with {@link Gauges},
 * `end` with a number of bytes, `stop` with an `Ending`.
 */
export type ServerOrder = "listen" | "begin" | "end" | "rest" | "stop";

/** Runs the server process: carries out orders from standard input. */
export async function runServer(identity: TlsIdentity): Promise<void> {
  const monitor = new ProcessMonitor();
  const { counters } = monitor;
  const entry = runtimeApi(counters.quic(await quicOfRuntime()));
  let servers: readonly StorageServer[] = [];
  let start: Gauges | undefined;
  const close = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.close({ grace: 0 })));
    servers = [];
  };
  carryOutOrders<ServerOrder>(async (order) => {
    switch (order) {
      case "listen":
        // A first start, since some resources are loaded at first use and then kept.
        servers = await serve(entry, monitor, identity);
        await close();
        start = await counters.settled();
        servers = await serve(entry, monitor, identity);
        return listening(servers, start);
      case "begin":
        return monitor.begin();
      case "end":
        return monitor.end();
      case "rest":
        return counters.gauges();
      case "stop":
        await close();
        return monitor.ending(start);
    }
  }, close);
}

function serve(
  entry: RuntimeApi,
  monitor: ProcessMonitor,
  tls: TlsIdentity,
): Promise<readonly StorageServer[]> {
  const store = new MemoryPieceStore();
  store.putTask(TASK_ID, CONTENT, { pieceLength: PIECE_LENGTH, digest: DIGEST });
  store.putTask(LONG_TASK_ID, long, { pieceLength: LONG_PIECE_BYTES });
  const options = {
    store,
    host: "127.0.0.1",
    tls,
    maxConnections: MAX_CONNECTIONS,
    requestTimeout: REQUEST_TIMEOUT_MS,
    stallTimeout: STALL_TIMEOUT_MS,
    telemetry: monitor.counters.telemetry,
    onError: (error: VortexError) => monitor.report(`${error.code}: ${error.message}`),
  };
  return Promise.all([
    entry.startServer({ ...options, quic: { port: 0 }, tcp: { port: 0 }, grpc: { port: 0 } }),
    entry.startServer({ ...options, grpc: { port: 0, tls: true } }),
    entry.startServer({ ...options, host: "::", quic: { port: 0 } }),
  ]);
}

const long = new Uint8Array(LONG_PIECE_BYTES);

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
    wildcardPort: quic.port,
    start,
  };
}

function addressesOf({ addresses }: StorageServer): Addresses {
  return Object.fromEntries(
    Object.entries(addresses).map(([protocol, address]) => [protocol, formatAddress(address)]),
  );
}
