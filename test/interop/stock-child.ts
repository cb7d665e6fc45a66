/**
 * Stand-in for what dfdaemon as a child, and a scheduler, ask a parent over gRPC. It speaks HTTP/2
 * with `node:http2` and shares no code with the clients of the library. Source: the Dragonfly
 * client 1.5 (`piece_collector.rs`, `parent_selector.rs`), tonic, and the scheduler 2.5.1.
 */
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from "node:http2";
import type { Clock } from "../../src/runtime.ts";

const UPLOAD = "/dfdaemon.v2.DfdaemonUpload";

/** Deadline that a child sets for a call to a parent, in ms. */
const CHILD_DEADLINE_MS = 10_000;

/** Piece that a parent has announced. */
export interface AnnouncedPiece {
  readonly number: number;
  readonly length: number;
}

/** Streamed call, as tonic handles it. */
export interface StockCall {
  /** Messages so far, without their prefix. */
  readonly messages: Uint8Array[];
  /** Resolves when the response headers have arrived. The deadline ends with them. */
  readonly started: Promise<void>;
  /** Resolves when there are `count` messages, or the call has ended. */
  received(count: number): Promise<void>;
  /** Resolves to the status, or to the text `timeout` if no headers came within the deadline. */
  readonly ended: Promise<string>;
  /** Ends the call, as a child that has all pieces does. */
  cancel(): void;
}

/** Child of a parent, or scheduler of a seed peer. */
export class StockChild {
  readonly #session: ClientHttp2Session;
  readonly #clock: Clock;

  /** @param clock measures the deadline of calls */
  constructor(addr: string, clock: Clock) {
    this.#clock = clock;
    this.#session = connect(`http://${addr}`);
    this.#session.on("error", () => {});
  }

  /** Asks for the pieces of a task. */
  syncPieces(taskId: string, numbers: readonly number[]): StockCall {
    const request = [
      ...textField(1, "10.0.0.1-child"),
      ...textField(2, taskId),
      // Packed, as prost encodes it.
      ...[(3 << 3) | 2, numbers.length, ...numbers],
    ];
    return this.#call(`${UPLOAD}/SyncPieces`, request);
  }

  /** Asks for the load of the host. A failure costs two errors in the log of a child. */
  syncHost(): StockCall {
    return this.#call(`${UPLOAD}/SyncHost`, [...textField(1, "10.0.0.1-child")]);
  }

  /** Asks a seed peer for its health, as a scheduler does. True if it would be used. */
  async isServing(): Promise<boolean> {
    if (this.#session.closed || this.#session.destroyed) return false;
    const call = this.#call("/grpc.health.v1.Health/Check", []);
    const status = await call.ended;
    const [message] = call.messages;
    // SERVING is 1, in field 1.
    return status === "0" && message?.join() === "8,1";
  }

  close(): void {
    this.#session.destroy();
  }

  #call(path: string, request: readonly number[]): StockCall {
    const stream = this.#session.request({
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
      "grpc-timeout": `${CHILD_DEADLINE_MS}m`,
    });
    stream.on("error", () => {});
    stream.end(Uint8Array.of(0, ...uint32(request.length), ...request));
    return readCall(stream, this.#clock);
  }
}

/** Returns the piece of a response to SyncPieces. */
export function announcedPiece(message: Uint8Array): AnnouncedPiece {
  const varints = new Map<number, number>();
  for (let at = 0; at < message.length; ) {
    const [tag = 0, afterTag] = varint(message, at);
    const [value = 0, after] = varint(message, afterTag);
    varints.set(tag >> 3, value);
    at = (tag & 7) === 2 ? after + value : after;
  }
  return { number: varints.get(1) ?? 0, length: varints.get(3) ?? 0 };
}

function readCall(stream: ClientHttp2Stream, clock: Clock): StockCall {
  const messages: Uint8Array[] = [];
  const waiting = new Set<() => void>();
  const wake = (): void => {
    for (const each of waiting) each();
  };
  let hasEnded = false;
  let status = "no status";
  let received = new Uint8Array(0);
  // tonic cancels a call whose response headers are late. The deadline ends with the headers.
  const deadline = clock.setTimer(() => {
    status = "timeout";
    stream.close();
  }, CHILD_DEADLINE_MS);
  const onHeaders = (headers: Readonly<Record<string, unknown>>): void => {
    deadline.cancel();
    if (headers["grpc-status"] !== undefined) status = String(headers["grpc-status"]);
  };
  const started = new Promise<void>((resolve) => stream.once("response", () => resolve()));
  stream.on("response", onHeaders);
  stream.on("trailers", onHeaders);
  stream.on("data", (chunk: Uint8Array) => {
    received = Uint8Array.of(...received, ...chunk);
    for (;;) {
      if (received.length < 5) break;
      const length = new DataView(received.buffer, received.byteOffset).getUint32(1);
      if (received.length < 5 + length) break;
      messages.push(received.slice(5, 5 + length));
      received = received.slice(5 + length);
    }
    wake();
  });
  const ended = new Promise<string>((resolve) => {
    stream.once("close", () => {
      deadline.cancel();
      hasEnded = true;
      wake();
      resolve(status);
    });
  });
  return {
    messages,
    started,
    received: (count) =>
      new Promise((resolve) => {
        const check = (): void => {
          if (messages.length < count && !hasEnded) return;
          waiting.delete(check);
          resolve();
        };
        waiting.add(check);
        check();
      }),
    ended,
    cancel: () => stream.close(),
  };
}

function* textField(field: number, text: string): Generator<number, void, void> {
  const bytes = new TextEncoder().encode(text);
  yield (field << 3) | 2;
  yield bytes.length;
  yield* bytes;
}

function uint32(value: number): number[] {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255);
}

/** Returns a varint, and the position after it. */
function varint(bytes: Uint8Array, from: number): [value: number, after: number] {
  let value = 0;
  for (let at = from, scale = 1; ; at++, scale *= 128) {
    const byte = bytes[at] ?? 0;
    value += (byte & 127) * scale;
    if (byte < 128) return [value, at + 1];
  }
}
