/**
 * Test program: serves one task of seeded bytes over several protocols. Its argument is an {@link
 * AutoPeerOptions} as JSON. It prints its address for each protocol as JSON.
 */
import process from "node:process";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { PeerAddresses } from "../../src/transport/peer-address.ts";
import type { Protocol } from "../../src/transport/protocol.ts";
import { seededBytes } from "./random.ts";
import { runtimeEntry } from "./runtime-entry.ts";

/** Command-line argument of this test program, as JSON. */
export interface AutoPeerOptions {
  readonly taskId: string;
  readonly seed: number;
  readonly contentLength: number;
  readonly pieceLength: number;
  /** Port of each served protocol; 0 selects a free port. A missing protocol is not served. */
  readonly ports: Partial<Record<Protocol, number>>;
  readonly uploadRateLimit?: number;
  /** IP address to listen on. Default: 127.0.0.1. */
  readonly host?: string;
}

const {
  taskId,
  seed,
  contentLength,
  pieceLength,
  ports,
  uploadRateLimit,
  host = "127.0.0.1",
} = JSON.parse(process.argv[2] ?? "{}") as AutoPeerOptions;
const store = new MemoryPieceStore();
store.putTask(taskId, seededBytes(seed, contentLength), { pieceLength });
const { startServer } = await runtimeEntry();
const { addresses } = await startServer({
  host,
  store,
  ...(ports.quic !== undefined && { quic: { port: ports.quic } }),
  ...(ports.tcp !== undefined && { tcp: { port: ports.tcp } }),
  ...(ports.grpc !== undefined && { grpc: { port: ports.grpc } }),
  ...(uploadRateLimit !== undefined && { uploadRateLimit }),
});
const servedAddresses: PeerAddresses = {
  ...(addresses.quic && { quic: formatAddress(addresses.quic) }),
  ...(addresses.tcp && { tcp: formatAddress(addresses.tcp) }),
  ...(addresses.grpc && { grpc: formatAddress(addresses.grpc) }),
};
console.log(JSON.stringify(servedAddresses));
