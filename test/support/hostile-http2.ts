/**
 * A server that speaks as much HTTP/2 (RFC 9113) as a scripted answer needs, over node:net: it sends whatever frames it is told
 * to, at any place, cut anywhere. An API for HTTP/2 would not.
 */
import { Buffer } from "node:buffer";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";

/** Types of frames (RFC 9113, section 6). */
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

/** Flags of frames. ACK of SETTINGS and PING is the same bit as END_STREAM. */
export const Flag = { EndStream: 1, Ack: 1, EndHeaders: 4, Padded: 8 } as const;

/** Header fields, in their order. */
export type Fields = Readonly<Record<string, string>>;

/** What a client sends first (section 3.4). */
export const PREFACE: Uint8Array = new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/** Payload bytes of a frame that every peer takes (section 4.2). */
const GREATEST_PAYLOAD = 16_384;
const HEADER_LENGTH = 9;

/** A frame, whatever its payload is worth. `announced` is the length in its header. */
export function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Uint8Array = new Uint8Array(0),
  announced: number = payload.length,
): Uint8Array {
  const bytes = Buffer.alloc(HEADER_LENGTH + payload.length);
  bytes.writeUIntBE(announced, 0, 3);
  bytes[3] = type;
  bytes[4] = flags;
  bytes.writeUInt32BE(stream, 5);
  bytes.set(payload, HEADER_LENGTH);
  return bytes;
}

/** Header fields as a block that refers to no table: literals without indexing (RFC 7541, section 6.2.2). */
export function headerBlock(fields: Fields): Uint8Array {
  return Buffer.concat(
    Object.entries(fields).flatMap(([name, value]) => [Buffer.of(0), text(name), text(value)]),
  );
}

/** HEADERS, with as many CONTINUATION as the block needs. */
export function headerFrames(stream: number, block: Uint8Array, endStream: boolean): Uint8Array {
  const frames: Uint8Array[] = [];
  for (let at = 0; at === 0 || at < block.length; at += GREATEST_PAYLOAD) {
    const last = at + GREATEST_PAYLOAD >= block.length ? Flag.EndHeaders : 0;
    const first = at === 0 && endStream ? Flag.EndStream : 0;
    const type = at === 0 ? Frame.Headers : Frame.Continuation;
    frames.push(frame(type, first | last, stream, block.subarray(at, at + GREATEST_PAYLOAD)));
  }
  return Buffer.concat(frames);
}

/** 32 bits, big-endian, each. */
export function words(...values: readonly number[]): Uint8Array {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [at, value] of values.entries()) bytes.writeUInt32BE(value, 4 * at);
  return bytes;
}

/** One request in the hands of a {@link Http2Script}. */
export class Http2Exchange {
  /** The request's body, to its end. */
  readonly body: Uint8Array;
  readonly stream: number;
  readonly socket: Socket;

  constructor(body: Uint8Array, stream: number, socket: Socket) {
    this.body = body;
    this.stream = stream;
    this.socket = socket;
  }

  /** Sends bytes as they are. */
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
    for (let at = 0; at === 0 || at < bytes.length; at += GREATEST_PAYLOAD) {
      const last = at + GREATEST_PAYLOAD >= bytes.length;
      this.frame(
        Frame.Data,
        endStream && last ? Flag.EndStream : 0,
        bytes.subarray(at, at + GREATEST_PAYLOAD),
      );
    }
  }

  reset(code: number): void {
    this.frame(Frame.Reset, 0, words(code));
  }

  goAway(code: number, lastStream: number): void {
    this.frame(Frame.GoAway, 0, words(lastStream, code), 0);
  }
}

/** What a server does with a request. It stays silent after what it did. */
export type Http2Script = (exchange: Http2Exchange) => void;

/** An HTTP/2 server in the clear that answers every request by a script, and knows no rule of the protocol. */
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

  /** `host:port`. */
  get addr(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

/**
 * Tells of every frame that comes on a socket, behind so many bytes of something else. The payload is to be used at once.
 */
export function eachFrame(
  socket: Socket,
  behind: number,
  take: (type: number, flags: number, stream: number, payload: Uint8Array) => void,
): void {
  let received: Buffer = Buffer.alloc(0);
  let skip = behind;
  socket.on("data", (chunk: Uint8Array) => {
    received = received.length === 0 ? Buffer.from(chunk) : Buffer.concat([received, chunk]);
    let at = Math.min(skip, received.length);
    skip -= at;
    while (received.length >= at + HEADER_LENGTH) {
      const start = at + HEADER_LENGTH;
      const end = start + received.readUIntBE(at, 3);
      if (received.length < end) break;
      const [type = 0, flags = 0] = received.subarray(at + 3, at + 5);
      const stream = received.readUInt32BE(at + 5);
      at = end;
      take(type, flags, stream, received.subarray(start, end));
    }
    received = received.subarray(at);
  });
}

function serve(socket: Socket, script: Http2Script): void {
  const bodies = new Map<number, Uint8Array[]>();
  socket.write(frame(Frame.Settings, 0, 0));
  eachFrame(socket, PREFACE.length, (type, flags, stream, payload) => {
    if (type === Frame.Settings && (flags & Flag.Ack) === 0)
      socket.write(frame(Frame.Settings, Flag.Ack, 0));
    if (type === Frame.Ping && (flags & Flag.Ack) === 0)
      socket.write(frame(Frame.Ping, Flag.Ack, 0, payload));
    if (type === Frame.Data && payload.length > 0) {
      bodies.set(stream, [...(bodies.get(stream) ?? []), Uint8Array.from(payload)]);
      socket.write(frame(Frame.WindowUpdate, 0, 0, words(payload.length)));
    }
    if ((type === Frame.Data || type === Frame.Headers) && (flags & Flag.EndStream) !== 0) {
      const body = Buffer.concat(bodies.get(stream) ?? []);
      bodies.delete(stream);
      script(new Http2Exchange(body, stream, socket));
    }
  });
}

/** A string literal (RFC 7541, section 5.2), its length as an integer with a prefix of 7 bits (section 5.1). */
function text(value: string): Uint8Array {
  const bytes = Buffer.from(value, "latin1");
  const length = [Math.min(bytes.length, 127)];
  if (bytes.length >= 127) {
    let rest = bytes.length - 127;
    for (; rest >= 128; rest >>= 7) length.push((rest & 127) | 128);
    length.push(rest);
  }
  return Buffer.concat([Buffer.from(length), bytes]);
}
