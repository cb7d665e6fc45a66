import { createSocket } from "node:dgram";
import type { Transport } from "../../src/transport/transport.ts";

/**
 * Returns the first datagram that a client of a QUIC transport sends: an Initial packet (RFC 9000,
 * section 17.2.2).
 */
export async function firstDatagram(transport: Transport): Promise<Uint8Array> {
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind({ address: "127.0.0.1", port: 0 }, resolve));
  const received = new Promise<Uint8Array>((resolve) => {
    socket.once("message", (datagram: Uint8Array) => resolve(Uint8Array.from(datagram)));
  });
  const dial = new AbortController();
  const dialling = transport.dial(
    { host: "127.0.0.1", port: socket.address().port },
    { signal: dial.signal },
  );
  dialling.catch(() => {});
  try {
    return await received;
  } finally {
    dial.abort();
    await dialling.catch(() => {});
    await new Promise<void>((resolve) => socket.close(() => resolve()));
  }
}

/**
 * Returns a copy of a client's first datagram, with an unsupported QUIC version (RFC 9000, section
 * 15). Servers answer it with Version Negotiation.
 */
export function unknownVersion(datagram: Uint8Array): Uint8Array {
  const changed = Uint8Array.from(datagram);
  changed.set([0x1a, 0x2a, 0x3a, 0x4a], 1);
  return changed;
}
