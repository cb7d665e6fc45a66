import { createSocket, type Socket } from "node:dgram";
import { isIP } from "node:net";
import { VortexError } from "../../src/errors.ts";
import { Guard } from "../shared/guard.ts";

/** Buffers per ring: more than a socket accepts at once. */
const RING_BUFFERS = 256;
/** Used buffers from which {@link SendRing.rewind} checks whether the socket has sent them all. */
const MIN_REWIND_BUFFERS = 8;

/**
 * Ring of reusable buffers for outgoing datagrams. quiche writes a packet into a buffer and the
 * socket sends it, without a copy or a callback. The kernel normally takes a datagram at once. When
 * its send buffer is full, node:dgram queues a reference instead, and the ring replaces its
 * buffers.
 */
export class SendRing {
  readonly #socket: Socket;
  readonly #size: number;
  /** Buffers of the ring, each allocated on first use, since most clients send little. */
  #buffers: Uint8Array[] = [];
  #next = 0;
  /** Datagrams that the socket refused. */
  #unsent = 0;

  /** @param size bytes of the largest datagram */
  constructor(socket: Socket, size: number) {
    this.#socket = socket;
    this.#size = size;
  }

  /** Buffer for the next datagram. */
  get current(): Uint8Array {
    const existing = this.#buffers[this.#next];
    if (existing !== undefined) return existing;
    const buffer = new Uint8Array(this.#size);
    this.#buffers[this.#next] = buffer;
    return buffer;
  }

  /**
   * Returns to the first buffer if the socket has sent everything, so that few buffers are
   * allocated. Called before each batch of datagrams.
   */
  rewind(): void {
    if (this.#next >= MIN_REWIND_BUFFERS && this.#socket.getSendQueueCount() === 0) this.#next = 0;
  }

  /** Number of datagrams that the socket refused. */
  get unsent(): number {
    return this.#unsent;
  }

  /**
   * Sends the first `length` bytes of {@link current}, to `host` and `port` unless the socket is
   * connected. Never throws: a datagram that the socket refuses is counted in {@link unsent} and
   * lost, like one dropped by the network.
   */
  send(length: number, port?: number, host?: string): void {
    try {
      if (port === undefined) this.#socket.send(this.current, 0, length);
      else this.#socket.send(this.current, 0, length, port, host);
    } catch {
      // node:dgram throws for an invalid destination and for a closed socket.
      this.#unsent++;
      return;
    }
    this.#next++;
    if (this.#next < RING_BUFFERS) return;
    this.#next = 0;
    if (this.#socket.getSendQueueCount() > 0) this.#buffers = [];
  }
}

/**
 * Creates a UDP socket for numeric addresses. Its `lookup` answers synchronously, which saves a
 * turn of the event loop per datagram.
 *
 * @param bufferSize kernel send and receive buffers, in bytes
 */
export function udpSocket(family: 4 | 6, bufferSize: number): Socket {
  const socket = createSocket({
    type: family === 4 ? "udp4" : "udp6",
    lookup: (host, _options, done) => done(null, host, family),
  });
  // Linux silently caps the size, other systems throw. The default buffers work too, only slower.
  const onListening = new Guard().wrap(() => {
    socket.setRecvBufferSize(bufferSize);
    socket.setSendBufferSize(bufferSize);
  });
  socket.once("listening", onListening);
  return socket;
}

/**
 * Returns the IP version of a numeric address.
 *
 * @throws `Unreachable` when `host` is not an IP address
 */
export function familyOf(host: string): 4 | 6 {
  const family = isIP(host);
  if (family !== 4 && family !== 6)
    throw new VortexError(
      "Unreachable",
      `cannot open a UDP socket: expected an IP address, got ${host}`,
    );
  return family;
}
