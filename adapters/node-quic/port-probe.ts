import { createSocket, type Socket } from "node:dgram";
import { isIPv6 } from "node:net";
import type { Guard } from "../shared/guard.ts";

/**
 * Asks whether anybody listens at a UDP port. `node:quic` does not hear of ICMP answers, so a dial to a port where nobody listens
 * would last as long as the handshake may. Here an empty datagram goes there, which no implementation of QUIC looks at, from a
 * socket that is connected: the kernel tells it of such answers.
 */
export class PortProbe {
  readonly #host: string;
  readonly #port: number;
  readonly #guard: Guard;
  readonly #onRefused: (cause: unknown) => void;
  #socket: Socket | undefined;
  #connected = false;
  #closed = false;

  /** @param onRefused is called with the native error of each answer */
  constructor(host: string, port: number, guard: Guard, onRefused: (cause: unknown) => void) {
    this.#host = host;
    this.#port = port;
    this.#guard = guard;
    this.#onRefused = onRefused;
  }

  send(): void {
    if (this.#closed) return;
    if (this.#socket === undefined) this.#connect();
    else if (this.#connected) this.#socket.send(new Uint8Array(0), () => {});
  }

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
    // By its event, since a callback would be called too when there is no way to the address: a broadcast address, say.
    const onConnect = this.#guard.wrap(() => {
      this.#connected = true;
      this.send();
    });
    socket.once("connect", onConnect);
    socket.connect(this.#port, this.#host);
  }
}
