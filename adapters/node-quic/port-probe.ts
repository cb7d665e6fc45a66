import { createSocket, type Socket } from "node:dgram";
import { isIPv6 } from "node:net";
import type { Guard } from "../shared/guard.ts";

/**
 * Detects whether a UDP port is closed, by ICMP errors. The module `node:quic` ignores ICMP errors,
 * so a dial to a closed port would last until the handshake timeout.
 *
 * Each probe is an empty datagram, which every QUIC implementation ignores. It is sent from a
 * separate connected socket, so that the kernel reports ICMP errors.
 */
export class PortProbe {
  readonly #host: string;
  readonly #port: number;
  readonly #guard: Guard;
  readonly #onRefused: (cause: unknown) => void;
  #socket: Socket | undefined;
  #connected = false;
  #closed = false;

  /**
   * @param host IP address of the peer
   * @param onRefused called with the socket's error for each ICMP error
   */
  constructor(host: string, port: number, guard: Guard, onRefused: (cause: unknown) => void) {
    this.#host = host;
    this.#port = port;
    this.#guard = guard;
    this.#onRefused = onRefused;
  }

  /**
   * Sends one probe. The first call also connects the socket. Without effect after {@link close}.
   */
  send(): void {
    if (this.#closed) return;
    if (this.#socket === undefined) this.#connect();
    else if (this.#connected) this.#socket.send(new Uint8Array(0), () => {});
  }

  /** Closes the socket. Later calls of {@link send} have no effect. */
  close(): void {
    this.#closed = true;
    this.#socket?.close();
  }

  #connect(): void {
    const socket = createSocket(isIPv6(this.#host) ? "udp6" : "udp4");
    this.#socket = socket;
    socket.unref();
    const onError = this.#guard.wrap((error: Error) => {
      if (!this.#closed) this.#onRefused(error);
    });
    socket.on("error", onError);
    // An event listener, since node:dgram calls the callback even when the connect fails, for
    // example to a broadcast address.
    const onConnect = this.#guard.wrap(() => {
      this.#connected = true;
      this.send();
    });
    socket.once("connect", onConnect);
    socket.connect(this.#port, this.#host);
  }
}
