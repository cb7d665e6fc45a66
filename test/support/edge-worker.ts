/**
 * Edge worker for the tests, which runs in workerd. `/fetch` downloads pieces. `/session` lets a
 * test control the worker's transport over `edge-wire.ts`. It uses only the package's entry for
 * workers, and web standards.
 */

import { workersTransport } from "../../adapters/workers/transport.ts";
import {
  type ByteStream,
  type Connection,
  parseAddress,
  portableHashers,
} from "../../entry/core.ts";
import {
  createDownloader,
  type Downloader,
  type DownloaderOptions,
  VortexError,
} from "../../entry/workers.ts";
import {
  type EdgeCall,
  type EdgeFailure,
  type EdgeReport,
  type EdgeSignal,
  FrameStream,
} from "./edge-wire.ts";

/** Body of an HTTP request to `/fetch`, which selects the pieces to download. */
export interface EdgeFetch {
  readonly addr: string;
  readonly taskId: string;
  /** Numbers of the pieces, in the order in which their content is hashed. */
  readonly pieces: readonly number[];
  readonly options?: Partial<DownloaderOptions>;
  /** Downloads all pieces concurrently. Default: one piece after the other. */
  readonly concurrent?: boolean;
  /** Uses the same downloader for all HTTP requests. Default: a new downloader for each request. */
  readonly shared?: boolean;
  /**
   * Point at which the download is aborted by its signal: before the call, 50 ms after the call
   * (`waiting`), or after the first chunk (`reading`). With `cancel`, the content is cancelled
   * after the first chunk instead.
   */
  readonly abortAt?: "before" | "waiting" | "reading" | "cancel";
}

/** Response to an {@link EdgeFetch}: length in bytes and digests of the received content. */
export interface EdgeResult {
  readonly length: number;
  readonly crc32: string;
  readonly sha256: string;
  readonly error?: {
    readonly code: string;
    readonly kind: string;
    readonly message: string;
    readonly addr?: string;
  };
}

let shared: Downloader | undefined;

export default {
  async fetch(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    switch (pathname) {
      case "/fetch":
        return Response.json(await fetchPieces((await request.json()) as EdgeFetch));
      case "/session":
        await serveConnection(searchParams.get("control") ?? "", searchParams.get("session") ?? "");
        return new Response();
      case "/globals":
        return Response.json(
          ["process", "Buffer", "require", "global"].filter((name) => name in globalThis),
        );
      default:
        return new Response(undefined, { status: 404 });
    }
  },
};

async function fetchPieces(task: EdgeFetch): Promise<EdgeResult> {
  const crc32 = portableHashers("crc32");
  const sha256 = portableHashers("sha256");
  let length = 0;
  const take = (chunk: Uint8Array): void => {
    crc32.update(chunk);
    sha256.update(chunk);
    length += chunk.length;
  };
  const done = (): EdgeResult => ({ length, crc32: crc32.encode(), sha256: sha256.encode() });
  const options = { protocol: "tcp" as const, ...task.options };
  const downloader = (task.shared ? shared : undefined) ?? createDownloader(options);
  if (task.shared) shared = downloader;
  try {
    if (task.concurrent) {
      const whole = await Promise.all(
        task.pieces.map((number) => fetchPiece(downloader, task, number)),
      );
      for (const bytes of whole) take(bytes);
    } else {
      for (const number of task.pieces) await streamPiece(downloader, task, number, take);
    }
    return done();
  } catch (error) {
    if (!(error instanceof VortexError)) throw error;
    const { code, kind, message, addr } = error;
    return { ...done(), error: { code, kind, message, ...(addr !== undefined && { addr }) } };
  } finally {
    if (!task.shared) await downloader.close();
  }
}

async function fetchPiece(
  downloader: Downloader,
  { addr, taskId }: EdgeFetch,
  number: number,
): Promise<Uint8Array> {
  const piece = await downloader.downloadPiece({ addr, taskId, number, hostId: "edge" });
  return piece.bytes();
}

async function streamPiece(
  downloader: Downloader,
  { addr, taskId, abortAt }: EdgeFetch,
  number: number,
  take: (chunk: Uint8Array) => void,
): Promise<void> {
  const abort = new AbortController();
  if (abortAt === "before") abort.abort();
  if (abortAt === "waiting") setTimeout(() => abort.abort(), 50);
  const piece = await downloader.downloadPiece({
    addr,
    taskId,
    number,
    hostId: "edge",
    signal: abort.signal,
  });
  const reader = piece.content.getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    if (value !== undefined) take(value);
    if (abortAt === "reading") abort.abort();
    if (abortAt === "cancel") return reader.cancel();
  }
}

/**
 * Connects to the test at the address `control`. Runs the calls of the test until it ends the
 * connection.
 */
async function serveConnection(control: string, session: string): Promise<void> {
  const connection = await workersTransport.dial(parseAddress(control));
  const frames = new FrameStream<EdgeCall, EdgeReport>(await connection.openStream());
  frames.send({ session });
  const remote = new RemoteControlledConnection(frames);
  for await (const { head, payload } of frames.frames()) remote.dispatch(head, payload);
  remote.end();
  connection.abort();
}

/** Runs the calls of a test on one connection of the workers' transport. */
class RemoteControlledConnection {
  readonly #frames: FrameStream<EdgeCall, EdgeReport>;
  readonly #signals = new Map<number, AbortController>();
  readonly #streams = new Map<number, ByteStream>();
  #connection: Connection | undefined;

  constructor(frames: FrameStream<EdgeCall, EdgeReport>) {
    this.#frames = frames;
  }

  /** Starts a call synchronously, so that calls take effect in the order in which they arrive. */
  dispatch(call: EdgeCall, payload: Uint8Array): void {
    switch (call.do) {
      case "dial":
        this.#answer(call.id, () => this.#dial(call));
        break;
      case "open":
        this.#answer(call.id, () => this.#open(call));
        break;
      case "read":
        this.#answer(call.id, () => this.#read(call));
        break;
      case "write":
        this.#answer(call.id, () => this.#stream(call.stream).writer.write(payload));
        break;
      case "end":
        this.#answer(call.id, () =>
          this.#stream(call.stream).writer.end(payload.length > 0 ? payload : undefined),
        );
        break;
      case "close":
        this.#answer(call.id, () =>
          this.#requireConnection().close(call.grace === undefined ? {} : { grace: call.grace }),
        );
        break;
      case "cancel":
        this.#stream(call.stream).reader.cancel(call.code);
        break;
      case "reset":
        this.#stream(call.stream).writer.abort(call.code);
        break;
      case "abort":
        this.#requireConnection().abort(call.code, call.reason);
        break;
      case "fire":
        this.#signal(call.signal);
    }
  }

  end(): void {
    this.#connection?.abort();
  }

  async #dial({ id, remote, signal }: EdgeCall & { do: "dial" }): Promise<true> {
    const connection = await workersTransport.dial(
      remote,
      signal && { signal: this.#signal(signal) },
    );
    this.#connection = connection;
    const { remote: found, resumed } = connection;
    this.#frames.send({ id, connection: { remote: found, resumed } });
    void this.#countAccepted(connection);
    void connection.closed.then(({ code, reason, remote, error }) => {
      this.#frames.send({ closed: { code, reason, remote, failure: this.#failure(error) } });
    });
    return true;
  }

  async #countAccepted(connection: Connection): Promise<void> {
    let accepted = 0;
    for await (const _ of connection.accept()) accepted++;
    this.#frames.send({ accepted });
  }

  async #open({ stream, signal }: EdgeCall & { do: "open" }): Promise<void> {
    const options = signal && { signal: this.#signal(signal) };
    this.#streams.set(stream, await this.#requireConnection().openStream(options));
  }

  async #read({ id, stream }: EdgeCall & { do: "read" | "write" | "end" }): Promise<true> {
    const chunk = await this.#stream(stream).reader.read();
    if (chunk === undefined) this.#frames.send({ id, ended: true });
    else this.#frames.send({ id }, chunk);
    return true;
  }

  /**
   * Sends the reply to a call when `run` settles. Sends no reply if `run` resolves with `true`:
   * then `run` has sent the reply itself.
   */
  #answer(id: number, run: () => Promise<unknown>): void {
    run().then(
      (replied) => replied === true || this.#frames.send({ id }),
      (error: unknown) => this.#frames.send({ id, failure: this.#failure(error) }),
    );
  }

  #failure(error: unknown): EdgeFailure {
    if (!(error instanceof VortexError))
      return { code: "Internal", message: `not a VortexError: ${error}` };
    const { code, message } = error;
    for (const [number, { signal }] of this.#signals) {
      if (signal.reason === undefined) continue;
      if (error === signal.reason) return { code, message, reasonOf: number };
      if (error.cause === signal.reason) return { code, message, causeOf: number };
    }
    return { code, message };
  }

  #signal({ number, reason }: EdgeSignal): AbortSignal {
    const controller = this.#signals.get(number) ?? new AbortController();
    this.#signals.set(number, controller);
    if (reason !== undefined) {
      const { code, message } = reason;
      controller.abort(code === undefined ? new Error(message) : new VortexError(code, message));
    }
    return controller.signal;
  }

  #stream(number: number): ByteStream {
    const stream = this.#streams.get(number);
    if (stream === undefined) throw new Error(`stream ${number} was not opened`);
    return stream;
  }

  #requireConnection(): Connection {
    if (this.#connection === undefined) throw new Error("no connection was dialled");
    return this.#connection;
  }
}
