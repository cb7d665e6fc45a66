import { createSocket, type Socket } from "node:dgram";
import { isIP } from "node:net";
import { VortexError } from "../../src/errors.ts";
import { Guard } from "../shared/guard.ts";

/** Datagrams in a ring; more than a socket takes in one go. */
const RING = 256;
/** Buffers used since the start of the ring, from which on it is worth a look whether they are free again. */
const WORTH_A_LOOK = 8;

/**
 * Buffers for datagrams on their way out. quiche writes a packet into one and the socket sends it, without a copy or a
 * callback. The kernel takes a datagram over at once, except when its buffer is full: then node:dgram keeps a reference,
 * and the ring leaves those buffers to it and takes new ones.
 */
export class SendRing {
  readonly #socket: Socket;
  readonly #size: number;
  /** Made when first needed: most clients send little. */
  #buffers: Uint8Array[] = [];
  #next = 0;
  #unsent = 0;

  /** @param size bytes of the largest datagram */
  constructor(socket: Socket, size: number) {
    this.#socket = socket;
    this.#size = size;
  }

  /** The buffer for the next datagram. */
  get current(): Uint8Array {
    const existing = this.#buffers[this.#next];
    if (existing !== undefined) return existing;
    const buffer = new Uint8Array(this.#size);
    this.#buffers[this.#next] = buffer;
    return buffer;
  }

  /** Before a batch of datagrams: begins at the start of the ring, where that is free, so that few buffers do. */
  rewind(): void {
    if (this.#next >= WORTH_A_LOOK && this.#socket.getSendQueueCount() === 0) this.#next = 0;
  }

  /** Datagrams that the socket refused. */
  get unsent(): number {
    return this.#unsent;
  }

  /**
   * Sends the first `length` bytes of the current buffer; to `port` and `host` unless the socket is connected. Does not throw: a datagram
   * that the socket refuses is lost, like one lost on its way, and counted.
   */
  send(length: number, port?: number, host?: string): void {
    try {
      if (port === undefined) this.#socket.send(this.current, 0, length);
      else this.#socket.send(this.current, 0, length, port, host);
    } catch {
      // node:dgram throws for a destination that is none, and for a socket closed in the meantime.
      this.#unsent++;
      return;
    }
    this.#next++;
    if (this.#next < RING) return;
    this.#next = 0;
    if (this.#socket.getSendQueueCount() > 0) this.#buffers = [];
  }
}

/** A UDP socket for numeric addresses: a name lookup, and the extra turn of the event loop that it costs, is left out. */
export function udpSocket(family: 4 | 6, bufferSize: number): Socket {
  const socket = createSocket({
    type: family === 4 ? "udp4" : "udp6",
    lookup: (host, _options, done) => done(null, host, family),
  });
  // Some systems refuse what Linux would cut down; the default buffers work, only slower.
  const onListening = new Guard().wrap(() => {
    socket.setRecvBufferSize(bufferSize);
    socket.setSendBufferSize(bufferSize);
  });
  socket.once("listening", onListening);
  return socket;
}

/** 4 or 6. @throws `Unreachable` when `host` is no IP address */
export function familyOf(host: string): 4 | 6 {
  const family = isIP(host);
  if (family !== 4 && family !== 6)
    throw new VortexError("Unreachable", `${host} is no IP address`);
  return family;
}
