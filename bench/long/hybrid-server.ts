/**
 * Parent of `hybrid.ts`: serves one task over QUIC and TCP, and answers any order with its
 * addresses.
 */
import process from "node:process";
import { startServer } from "../../entry/node.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { PeerAddresses } from "../../src/transport/peer-address.ts";
import { carryOutOrders } from "../program.ts";

/** Arguments of the parent. */
export interface ParentArguments {
  readonly host: string;
  /** Length of the task, in bytes. */
  readonly contentLength: number;
}

const { host, contentLength } = JSON.parse(process.argv[2] ?? "") as ParentArguments;
const store = new MemoryPieceStore();
store.putTask("a1".repeat(32), new Uint8Array(contentLength).fill(7), { pieceLength: 1024 * 1024 });
const server = await startServer({ host, store, quic: { port: 0 }, tcp: { port: 0 } });

carryOutOrders<null>(
  async (): Promise<PeerAddresses> => {
    const { quic, tcp } = server.addresses;
    return { ...(quic && { quic: formatAddress(quic) }), ...(tcp && { tcp: formatAddress(tcp) }) };
  },
  () => server.close(),
);
