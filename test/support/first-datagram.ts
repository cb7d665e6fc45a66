import { createSocket } from "node:dgram";
import type { Transport } from "../../src/transport/transport.ts";

/** The first datagram that a client of `transport` sends: an Initial packet (RFC 9000, section 17.2.2). */
export async function firstDatagram(transport: Transport): Promise<Uint8Array> {
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind({ address: "127.0.0.1", port: 0 }, resolve));
  const come = new Promise<Uint8Array>((resolve) => {
    socket.once("message", (datagram: Uint8Array) => resolve(Uint8Array.from(datagram)));
  });
  const dial = new AbortController();
  const dialling = transport.dial(
    { host: "127.0.0.1", port: socket.address().port },
    { signal: dial.signal },
  );
  dialling.catch(() => {});
  try {
    return await come;
  } finally {
    dial.abort();
    await dialling.catch(() => {});
    await new Promise<void>((resolve) => socket.close(() => resolve()));
  }
}

/** The same with a version that nobody speaks (RFC 9000, section 15), which a server answers by Version Negotiation. */
export function unknownVersion(datagram: Uint8Array): Uint8Array {
  const changed = Uint8Array.from(datagram);
  changed.set([0x1a, 0x2a, 0x3a, 0x4a], 1);
  return changed;
}
