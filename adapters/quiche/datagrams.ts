import { createSocket, type Socket } from "node:dgram";
import { isIP } from "node:net";
import { VortexError } from "../../src/errors.ts";
import { Guard } from "../shared/guard.ts";

/**
 * Number of buffers in a {@link SendRing}. After the last buffer, the ring continues with the
 * first.
 */
const RING_BUFFERS = 256;
/** Minimum number of buffers in use for {@link SendRing.rewind} to have an effect. */
const MIN_REWIND_BUFFERS = 8;

/**
 * Ring of reusable buffers for outgoing datagrams. quiche writes a packet into a buffer, and the
 * socket sends it without a copy or a callback.
 *
 * The kernel normally copies a datagram at once, so its buffer can be reused. When the kernel's
 * send buffer is full, node:dgram queues a reference to the buffer. The ring then allocates new
 * buffers instead of reusing the queued ones.
 */
export class SendRing {
  readonly #socket: Socket;
  readonly #size: number;
  /** Buffers of the ring. Each is allocated on first use, since most clients send few datagrams. */
  #buffers: Uint8Array[] = [];
  #next = 0;
  /** Number of datagrams that the socket refused to send. */
  #unsent = 0;

  /** @param size size of each buffer in bytes, which limits the length of a datagram */
  constructor(socket: Socket, size: number) {
    this.#socket = socket;
    this.#size = size;
  }

  /** Buffer for the next datagram to send. */
  get current(): Uint8Array {
    const existing = this.#buffers[this.#next];
    if (existing !== undefined) return existing;
    const buffer = new Uint8Array(this.#size);
    this.#buffers[this.#next] = buffer;
    return buffer;
  }

  /**
   * Continues with the first buffer if the socket's send queue is empty, so that few buffers are
   * allocated. Without effect while fewer than {@link MIN_REWIND_BUFFERS} buffers are used. Called
   * before each batch of datagrams.
   */
  rewind(): void {
    if (this.#next >= MIN_REWIND_BUFFERS && this.#socket.getSendQueueCount() === 0) this.#next = 0;
  }

  /** Number of datagrams that the socket refused to send. */
  get unsent(): number {
    return this.#unsent;
  }

  /**
   * Sends the first `length` bytes of {@link current} as a datagram to `host` and `port`. Both are
   * undefined if the socket is connected.
   *
   * Never throws. If the socket refuses the datagram, {@link unsent} is incremented, and the
   * datagram is lost like any datagram that the network drops.
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
 * Creates a UDP socket that sends only to numeric IP addresses. Its `lookup` returns the given
 * address without DNS and synchronously. This saves a turn of the event loop per datagram.
 *
 * @param bufferSize size in bytes of the kernel's send buffer, and also of its receive buffer
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
 * Returns the IP version of the address `host`: 4 or 6.
 *
 * @throws `Unreachable` if `host` is not an IP address
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
