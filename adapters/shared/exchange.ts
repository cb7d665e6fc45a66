import { VortexError } from "../../src/errors.ts";
import type {
  ByteReader,
  ByteStream,
  ByteWriter,
  KeptStream,
} from "../../src/transport/transport.ts";

/** Event of a socket, for the owner of its exchanges. */
export type SocketEvent = "received" | "ended" | "failed";

/** Byte stream on one TCP socket, which can carry several exchanges one after another. */
export interface SocketByteStream extends ByteStream {
  /** Number of received bytes that are not read yet. */
  readonly unread: number;
  /** Resolves when the socket is closed. Never rejects. */
  readonly finished: Promise<void>;
  /**
   * Called when bytes have arrived, when the peer has ended its direction, and when the socket has
   * failed. Default: no action.
   */
  onEvent: (event: SocketEvent) => void;
  /** Writes bytes, and resolves when the system has accepted them. Keeps the direction open. */
  send(last: Uint8Array): Promise<void>;
  /**
   * Marks the socket as idle, between two exchanges. It then reports events, does not keep the
   * process alive, and is closed without a reset.
   */
  park(): void;
  /** Marks the socket as in use by an exchange again. */
  unpark(): void;
  /**
   * Waits until the written data is delivered and the peer has ended its direction, but at most
   * `grace` ms. Returns at once if this side has not ended its sending direction.
   */
  drain(grace: number): Promise<void>;
  /** Ends both directions of the stream at once. Pending calls fail with `error`. */
  destroy(error: VortexError): void;
}

/**
 * Stream of one exchange on a socket. After {@link KeptStream.release} its methods do not affect
 * the socket, which may carry the next exchange then.
 */
export class Exchange implements ByteStream {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly kept: KeptStream;
  #released = false;

  /**
   * @param isStale returns the value of {@link KeptStream.stale}
   * @param release gives the socket back, and returns the result of {@link KeptStream.release}.
   * Called at most once
   */
  constructor(socket: SocketByteStream, isStale: () => boolean, release: () => number) {
    const { reader, writer } = socket;
    const over = (): Promise<never> => Promise.reject(releasedHere());
    this.reader = {
      read: (into) => (this.#released ? over() : reader.read(into)),
      cancel: (code) => this.#released || reader.cancel(code),
    };
    this.writer = {
      write: (chunk) => (this.#released ? over() : writer.write(chunk)),
      end: (last) => (this.#released ? over() : writer.end(last)),
      abort: (code) => this.#released || writer.abort(code),
    };
    this.kept = {
      get stale() {
        return isStale();
      },
      send: (last) => (this.#released ? over() : socket.send(last)),
      release: () => {
        if (this.#released) return 0;
        this.#released = true;
        return release();
      },
    };
  }
}

function releasedHere(): VortexError {
  return new VortexError("Closed", "the exchange on this stream has ended");
}
