/**
 * Minimal HTTP/2 server (RFC 9113) over node:net for scripted responses. It can send invalid,
 * misplaced and truncated frames, which an HTTP/2 library would refuse.
 */
import { Buffer } from "node:buffer";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";

/** HTTP/2 frame types (RFC 9113, section 6). */
export const Frame = {
  Data: 0,
  Headers: 1,
  Priority: 2,
  Reset: 3,
  Settings: 4,
  PushPromise: 5,
  Ping: 6,
  GoAway: 7,
  WindowUpdate: 8,
  Continuation: 9,
} as const;

/**
 * HTTP/2 frame flags (RFC 9113, section 6). ACK (of SETTINGS and PING) and END_STREAM are the same
 * bit.
 */
export const Flag = { EndStream: 1, Ack: 1, EndHeaders: 4, Padded: 8 } as const;

/** HTTP/2 header fields, in the order in which they are sent. */
export type Fields = Readonly<Record<string, string>>;

/** HTTP/2 connection preface of a client (RFC 9113, section 3.4). */
export const PREFACE: Uint8Array = new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/**
 * Default SETTINGS_MAX_FRAME_SIZE, in bytes. Every peer accepts a frame payload of this length (RFC
 * 9113, section 4.2).
 */
const MAX_PAYLOAD_BYTES = 16_384;
const HEADER_BYTES = 9;

/**
 * Encodes an HTTP/2 frame without validation. `announced` is the payload length in the frame
 * header, which may be wrong.
 */
export function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Uint8Array = new Uint8Array(0),
  announced: number = payload.length,
): Uint8Array {
  const bytes = Buffer.alloc(HEADER_BYTES + payload.length);
  bytes.writeUIntBE(announced, 0, 3);
  bytes[3] = type;
  bytes[4] = flags;
  bytes.writeUInt32BE(stream, 5);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/**
 * Encodes header fields as literals without indexing (RFC 7541, section 6.2.2). So no compression
 * state is needed.
 */
export function headerBlock(fields: Fields): Uint8Array {
  return Buffer.concat(
    Object.entries(fields).flatMap(([name, value]) => [
      Buffer.of(0),
      stringLiteral(name),
      stringLiteral(value),
    ]),
  );
}

/** Encodes a HEADERS frame, and the CONTINUATION frames that a long field block needs. */
export function headerFrames(stream: number, block: Uint8Array, endStream: boolean): Uint8Array {
  const frames: Uint8Array[] = [];
  for (let at = 0; at === 0 || at < block.length; at += MAX_PAYLOAD_BYTES) {
    const last = at + MAX_PAYLOAD_BYTES >= block.length ? Flag.EndHeaders : 0;
    const first = at === 0 && endStream ? Flag.EndStream : 0;
    const type = at === 0 ? Frame.Headers : Frame.Continuation;
    frames.push(frame(type, first | last, stream, block.subarray(at, at + MAX_PAYLOAD_BYTES)));
  }
  return Buffer.concat(frames);
}

/** Encodes each value as a big-endian uint32. */
export function uint32s(...values: readonly number[]): Uint8Array {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [at, value] of values.entries()) bytes.writeUInt32BE(value, 4 * at);
  return bytes;
}

/** Request that a {@link ScriptedHttp2Server} has received, with methods to respond to it. */
export class Http2Exchange {
  /** Complete body of the request. */
  readonly body: Uint8Array;
  readonly stream: number;
  readonly socket: Socket;

  constructor(body: Uint8Array, stream: number, socket: Socket) {
    this.body = body;
    this.stream = stream;
    this.socket = socket;
  }

  /** Sends raw bytes on the connection. Does nothing if the connection is closed. */
  bytes(bytes: Uint8Array): void {
    if (!this.socket.destroyed) this.socket.write(bytes);
  }

  frame(type: number, flags: number, payload?: Uint8Array, stream: number = this.stream): void {
    this.bytes(frame(type, flags, stream, payload));
  }

  headers(fields: Fields, endStream = false): void {
    this.bytes(headerFrames(this.stream, headerBlock(fields), endStream));
  }

  data(bytes: Uint8Array, endStream = false): void {
    for (let at = 0; at === 0 || at < bytes.length; at += MAX_PAYLOAD_BYTES) {
      const last = at + MAX_PAYLOAD_BYTES >= bytes.length;
      this.frame(
        Frame.Data,
        endStream && last ? Flag.EndStream : 0,
        bytes.subarray(at, at + MAX_PAYLOAD_BYTES),
      );
    }
  }

  reset(code: number): void {
    this.frame(Frame.Reset, 0, uint32s(code));
  }

  goAway(code: number, lastStream: number): void {
    this.frame(Frame.GoAway, 0, uint32s(lastStream, code), 0);
  }
}

/**
 * Function by which a {@link ScriptedHttp2Server} responds to one request. The stream stays open
 * when the function returns.
 */
export type Http2Script = (exchange: Http2Exchange) => void;

/** HTTP/2 server without TLS. A script responds to each request, and may violate the protocol. */
export class ScriptedHttp2Server {
  readonly #server: Server;
  readonly #sockets: Set<Socket>;

  private constructor(server: Server, sockets: Set<Socket>) {
    this.#server = server;
    this.#sockets = sockets;
  }

  static async listen(script: Http2Script): Promise<ScriptedHttp2Server> {
    const sockets = new Set<Socket>();
    const server = createServer({ noDelay: true }, (socket) => {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.once("close", () => sockets.delete(socket));
      serve(socket, script);
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(0, "127.0.0.1", resolve);
    });
    return new ScriptedHttp2Server(server, sockets);
  }

  /** Address of the server, as `host:port`. */
  get addr(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

/**
 * Calls `onFrame` for every HTTP/2 frame that a socket receives, after the first `skipBytes` bytes.
 * The payload is valid only during the call.
 */
export function onEachFrame(
  socket: Socket,
  skipBytes: number,
  onFrame: (type: number, flags: number, stream: number, payload: Uint8Array) => void,
): void {
  let received: Buffer = Buffer.alloc(0);
  let skip = skipBytes;
  socket.on("data", (chunk: Uint8Array) => {
    received = received.length === 0 ? Buffer.from(chunk) : Buffer.concat([received, chunk]);
    let at = Math.min(skip, received.length);
    skip -= at;
    while (received.length >= at + HEADER_BYTES) {
      const start = at + HEADER_BYTES;
      const end = start + received.readUIntBE(at, 3);
      if (received.length < end) break;
      const [type = 0, flags = 0] = received.subarray(at + 3, at + 5);
      const stream = received.readUInt32BE(at + 5);
      at = end;
      onFrame(type, flags, stream, received.subarray(start, end));
    }
    received = received.subarray(at);
  });
}

function serve(socket: Socket, script: Http2Script): void {
  const bodies = new Map<number, Uint8Array[]>();
  socket.write(frame(Frame.Settings, 0, 0));
  onEachFrame(socket, PREFACE.length, (type, flags, stream, payload) => {
    if (type === Frame.Settings && (flags & Flag.Ack) === 0)
      socket.write(frame(Frame.Settings, Flag.Ack, 0));
    if (type === Frame.Ping && (flags & Flag.Ack) === 0)
      socket.write(frame(Frame.Ping, Flag.Ack, 0, payload));
    if (type === Frame.Data && payload.length > 0) {
      bodies.set(stream, [...(bodies.get(stream) ?? []), Uint8Array.from(payload)]);
      socket.write(frame(Frame.WindowUpdate, 0, 0, uint32s(payload.length)));
    }
    if ((type === Frame.Data || type === Frame.Headers) && (flags & Flag.EndStream) !== 0) {
      const body = Buffer.concat(bodies.get(stream) ?? []);
      bodies.delete(stream);
      script(new Http2Exchange(body, stream, socket));
    }
  });
}

/**
 * Encodes a string literal of HPACK (RFC 7541, section 5.2). Its length is an integer with a 7-bit
 * prefix (section 5.1).
 */
function stringLiteral(value: string): Uint8Array {
  const bytes = Buffer.from(value, "latin1");
  const length = [Math.min(bytes.length, 127)];
  if (bytes.length >= 127) {
    let rest = bytes.length - 127;
    for (; rest >= 128; rest >>= 7) length.push((rest & 127) | 128);
    length.push(rest);
  }
  return Buffer.concat([Buffer.from(length), bytes]);
}
