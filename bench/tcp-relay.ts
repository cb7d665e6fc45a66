import { connect, createServer, type Socket } from "node:net";
import type { Address } from "../src/transport/address.ts";

/** Stands between clients and one TCP server, as a link of some length. */
export interface TcpRelay {
  /** What clients dial. */
  readonly address: Address;
  close(): void;
}

/**
 * Relays TCP on loopback to `target`, as if a round trip took so many milliseconds.
 *
 * The kernel of loopback shakes hands at once. Over a link, a client is connected after one round trip, and the server hears of
 * it half a round trip later. So the server is dialled after one and a half, and what the client sends before it has heard a
 * byte is held for as long.
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
    /** When the last part for the server is due; none overtakes another. */
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
