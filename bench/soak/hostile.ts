/** Peers that send wrong answers and clients that send wrong requests, beside honest ones. */
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import type { PieceStore, StoredPiece } from "../../src/store/store.ts";
import { noise } from "./content.ts";

/** Duration of a stalled answer, in ms. */
const STALL_MS = 2_500;

/** Faults of the pieces of {@link faulty}. */
type SuppliedPiece = StoredPiece<number | bigint>;

const faults: readonly ((piece: SuppliedPiece) => SuppliedPiece)[] = [
  (piece) => piece,
  // One wrong byte.
  (piece) =>
    reading(piece, async function* () {
      for await (const chunk of piece.read()) {
        const copy = chunk.slice();
        copy[0] = (copy[0] ?? 0) ^ 1;
        yield copy;
      }
    }),
  // Truncated.
  (piece) =>
    reading(piece, () => piece.read({ start: 0, end: Number(piece.metadata.length) >> 1 })),
  // Longer than announced.
  (piece) =>
    reading(piece, async function* () {
      yield* piece.read();
      yield new Uint8Array(100);
    }),
  // Fails in the middle.
  (piece) =>
    reading(piece, async function* () {
      yield* piece.read({ start: 0, end: Number(piece.metadata.length) >> 1 });
      throw new Error("the disk is gone");
    }),
  // Stalls in the middle.
  (piece) =>
    reading(piece, async function* () {
      yield* piece.read({ start: 0, end: 100 });
      await new Promise<void>((resolve) => setTimeout(resolve, STALL_MS));
    }),
  // Another piece, another digest, a length beyond all limits.
  (piece) => ({ ...piece, metadata: { ...piece.metadata, number: piece.metadata.number + 1 } }),
  (piece) => ({ ...piece, metadata: { ...piece.metadata, digest: "crc32:1" } }),
  (piece) => ({ ...piece, metadata: { ...piece.metadata, length: Number.MAX_SAFE_INTEGER } }),
];

/** Wraps a store so that its pieces have a random fault. */
export function faulty(store: PieceStore, random: () => number): PieceStore {
  return {
    getTask: (taskId) => store.getTask(taskId),
    async getPiece(request) {
      const piece = await store.getPiece(request);
      return piece && pick(faults, random)(piece);
    },
  };
}

/**
 * Peer that speaks no protocol. It answers all input over TCP and UDP with noise, silence or a
 * reset.
 */
export class GarbagePeer {
  readonly tcp: string;
  readonly quic: string;
  readonly #server: Server;
  readonly #udp: UdpSocket;
  readonly #sockets: Set<Socket>;

  private constructor(server: Server, udp: UdpSocket, sockets: Set<Socket>) {
    this.#server = server;
    this.#udp = udp;
    this.#sockets = sockets;
    this.tcp = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    this.quic = `127.0.0.1:${udp.address().port}`;
  }

  static async start(random: () => number): Promise<GarbagePeer> {
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.once("close", () => sockets.delete(socket));
      socket.once("data", () => {
        const choice = random();
        if (choice < 0.3) socket.end(noise(200, random() * 2 ** 32));
        else if (choice < 0.5) socket.resetAndDestroy();
        else if (choice < 0.7) socket.end();
        // The silence lasts until the other side closes.
      });
    });
    server.listen(0, "127.0.0.1");
    const udp = createSocket("udp4");
    udp.on("error", () => {});
    udp.on("message", (_message, { address, port }) =>
      udp.send(noise(60, random() * 2 ** 32), port, address, () => {}),
    );
    udp.bind(0, "127.0.0.1");
    await Promise.all([once(server, "listening"), once(udp, "listening")]);
    return new GarbagePeer(server, udp, sockets);
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all([
      new Promise<void>((resolve) => this.#server.close(() => resolve())),
      new Promise<void>((resolve) => this.#udp.close(() => resolve())),
    ]);
  }
}

/** Sends noise to a server over TCP or UDP, then closes gracefully or by a reset. */
export async function disturb(
  addr: string,
  over: "tcp" | "udp",
  random: () => number,
): Promise<void> {
  const [host = "", port = ""] = addr.split(":");
  const bytes = noise(1 + Math.floor(random() * 1200), random() * 2 ** 32);
  if (over === "udp") {
    const socket = createSocket("udp4");
    await new Promise<void>((resolve) => socket.send(bytes, Number(port), host, () => resolve()));
    await new Promise<void>((resolve) => socket.close(() => resolve()));
    return;
  }
  const socket = connect({ host, port: Number(port) });
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  socket.on("error", () => {});
  socket.once("connect", () => {
    if (random() < 0.5) socket.end(bytes);
    else socket.write(bytes, () => socket.destroy());
  });
  socket.resume();
  // In case the server does not close the connection.
  const timer = setTimeout(() => socket.destroy(), STALL_MS);
  await closed;
  clearTimeout(timer);
}

/** Returns a random element. */
export function pick<T>(choices: readonly T[], random: () => number): T {
  const choice = choices[Math.floor(random() * choices.length)];
  if (choice === undefined) throw new RangeError("nothing to choose from");
  return choice;
}

function reading(piece: SuppliedPiece, read: SuppliedPiece["read"]): SuppliedPiece {
  return { ...piece, read };
}
