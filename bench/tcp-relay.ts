import { connect, createServer, type Socket } from "node:net";
import type { Address } from "../src/transport/address.ts";

/** Relay between clients and one TCP server that simulates a long link. */
export interface TcpRelay {
  /** Address for clients to dial. */
  readonly address: Address;
  close(): void;
}

/**
 * Relays TCP on loopback to `target` with a simulated round-trip time in ms.
 *
 * The kernel completes handshakes on loopback at once. Over a link, a client is connected after one
 * round trip, and the server half a round trip later. So the server is dialled after one and a half
 * round trips. Bytes that the client sends before it receives anything are delayed as long.
 */
export async function tcpRelay(target: Address, roundTrip: number): Promise<TcpRelay> {
  const sockets = new Set<Socket>();
  const adopt = (socket: Socket): Socket => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    return socket;
  };
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (near) => {
    adopt(near);
    let heard = false;
    /** Due time of the last chunk for the server; chunks keep their order. */
    let last = 0;
    const far = new Promise<Socket>((resolve) => {
      setTimeout(() => {
        const socket = adopt(connect({ ...target, allowHalfOpen: true, noDelay: true }));
        const back = (write: () => void): void => {
          setTimeout(() => {
            heard = true;
            write();
          }, roundTrip / 2);
        };
        socket.on("data", (chunk) => back(() => near.write(chunk)));
        socket.once("end", () => back(() => near.end()));
        socket.on("error", () => back(() => near.destroy()));
        resolve(socket);
      }, 1.5 * roundTrip);
    });
    const forward = (write: (socket: Socket) => void): void => {
      const now = performance.now();
      last = Math.max(last, now + (heard ? 0.5 : 1.5) * roundTrip);
      setTimeout(() => void far.then(write), last - now);
    };
    near.on("data", (chunk) => forward((socket) => socket.write(chunk)));
    near.once("end", () => forward((socket) => socket.end()));
    near.on("error", () => forward((socket) => socket.destroy()));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: target.host, port: 0 }, resolve);
  });
  const address = server.address();
  return {
    address: {
      host: target.host,
      port: typeof address === "object" && address !== null ? address.port : 0,
    },
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}
