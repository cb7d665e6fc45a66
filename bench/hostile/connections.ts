/** Attacks by connections over TCP, against the Vortex protocol and gRPC alike. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { type Attack, inParallel, type Target } from "./attack.ts";

/** Connections at a time of those that are closed at once. */
const WIDTH = 32;

/** The attacks on a server over TCP. */
export function connectionAttacks(over: "tcp" | "grpc"): readonly Attack[] {
  return [
    {
      name: "connections closed at once, in good order or by a reset",
      over,
      unit: "connection",
      tries: 3_000,
      run: (target, tries) =>
        inParallel(tries, WIDTH, async (index) => {
          const socket = await connected(target);
          if (index % 3 === 0) socket.end();
          else if (index % 3 === 1) socket.destroy();
          else socket.resetAndDestroy();
          socket.resume();
          await gone(socket);
          return "closed";
        }),
    },
    {
      name: "a flood of connections that say nothing",
      over,
      unit: "connection",
      tries: 2_000,
      floods: true,
      run: (target, tries) =>
        // All that the server takes, and as many again.
        inParallel(tries, 2 * target.maxConnections, async () => {
          const socket = await connected(target);
          socket.resume();
          await gone(socket);
          return "cut off";
        }),
    },
  ];
}

/** A socket that is connected, or has failed, which its end tells. */
export async function connected({ host, port }: Target): Promise<Socket> {
  const socket = connect({ host, port, noDelay: true });
  socket.on("error", () => {});
  await Promise.race([once(socket, "connect").catch(() => {}), gone(socket)]);
  return socket;
}

/** Resolves when nothing is left of the socket. Whoever waits has to read it. */
export async function gone(socket: Socket): Promise<void> {
  if (!socket.closed) await new Promise<void>((resolve) => socket.once("close", () => resolve()));
}
