/** Attacks by TCP connections, on Vortex and on gRPC, and by TLS handshakes. */
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { type Attack, garbage, inParallel, pause, type Target } from "./attack.ts";

/** Concurrent connections of the attack that closes them immediately. */
const CONCURRENCY = 32;

/** Returns the attacks on a server over TCP. */
export function connectionAttacks(over: "tcp" | "grpc"): readonly Attack[] {
  return [
    {
      name: "connections closed immediately, gracefully or by a reset",
      over,
      unit: "connection",
      tries: 3_000,
      run: (target, tries) =>
        inParallel(tries, CONCURRENCY, async (index) => {
          const socket = await connected(target);
          if (index % 3 === 0) socket.end();
          else if (index % 3 === 1) socket.destroy();
          else socket.resetAndDestroy();
          socket.resume();
          await closed(socket);
          return "closed";
        }),
    },
    {
      name: "flood of silent connections",
      over,
      unit: "connection",
      tries: 6_000,
      run: (target, tries) =>
        // Twice as many as the server accepts.
        inParallel(tries, 2 * target.maxConnections, async () => {
          const socket = await connected(target);
          socket.resume();
          await closed(socket);
          return "cut off";
        }),
    },
  ];
}

/** Concurrent TLS handshakes. */
const HANDSHAKE_CONCURRENCY = 64;
/** Interval between two bytes of a slow drip, in ms, and the number of bytes. */
const DRIP_INTERVAL_MS = 100;
const DRIP_BYTES = 40;

/** Attacks on a server that expects TLS, here gRPC, before the end of the handshake. */
export const handshakeAttacks: readonly Attack[] = [
  {
    name: "half-open, slow-drip and broken TLS handshakes",
    over: "grpc",
    unit: "connection",
    tries: 1_500,
    secure: true,
    run: (target, tries, random) =>
      inParallel(tries, HANDSHAKE_CONCURRENCY, async (index) => {
        const socket = await connected(target);
        socket.resume();
        const hello = clientHello(random);
        const part = hello.subarray(0, Math.floor(random() * hello.length));
        if (index % 4 === 0) socket.write(part);
        else if (index % 4 === 1) await drip(socket, hello);
        else if (index % 4 === 2) socket.write(garbage(1 + Math.floor(random() * 300), random));
        // Plaintext after a whole or partial ClientHello.
        else socket.write(Buffer.concat([random() < 0.5 ? hello : part, garbage(200, random)]));
        await closed(socket);
        return "cut off";
      }),
  },
];

async function drip(socket: Socket, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < DRIP_BYTES && !socket.destroyed; at++) {
    socket.write(bytes.subarray(at, at + 1));
    await pause(DRIP_INTERVAL_MS);
  }
}

/**
 * Returns a ClientHello of TLS 1.2 in its record (RFC 5246, sections 6.2.1 and 7.4.1.2). A server
 * answers it and waits for the next message.
 */
function clientHello(random: () => number): Uint8Array {
  // TLS_ECDHE_ECDSA_ and TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256; supported_groups: x25519,
  // secp256r1; signature_algorithms.
  const ciphers = [0xc0, 0x2b, 0xc0, 0x2f];
  const groups = [0, 10, 0, 6, 0, 4, 0, 29, 0, 23];
  const algorithms = [0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1];
  const extensions = [...groups, ...algorithms];
  const body = [
    3,
    3,
    ...garbage(32, random),
    0,
    ...withLength(ciphers),
    1,
    0,
    ...withLength(extensions),
  ];
  return Uint8Array.from([22, 3, 1, ...withLength([1, 0, ...withLength(body)])]);
}

function withLength(bytes: readonly number[]): readonly number[] {
  return [bytes.length >> 8, bytes.length & 0xff, ...bytes];
}

/** Resolves to a socket that is connected or has failed. A failed one is closed. */
export async function connected({ host, port }: Target): Promise<Socket> {
  const socket = connect({ host, port, noDelay: true });
  socket.on("error", () => {});
  await Promise.race([once(socket, "connect").catch(() => {}), closed(socket)]);
  return socket;
}

/** Resolves when the socket is closed. The caller must read the socket to its end. */
export async function closed(socket: Socket): Promise<void> {
  if (!socket.closed) await new Promise<void>((resolve) => socket.once("close", () => resolve()));
}
