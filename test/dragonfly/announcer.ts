/**
 * Announces a host and its tasks to a scheduler, which then names the host to dfdaemons as a
 * parent. Only what a host that merely serves has to say.
 */
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from "node:http2";
import { framed, message } from "./protobuf.ts";

/** Timeout of a call in ms. */
const CALL_TIMEOUT_MS = 20_000;
/** Bandwidth that the host reports, in bits/s. Without it, the scheduler prefers other parents. */
const BANDWIDTH = 10_000_000_000;

/** Host that serves pieces. */
export interface AnnouncedHost {
  readonly ip: string;
  readonly hostname: string;
  /** Port of the Dragonfly API over gRPC. Its answers to SyncPieces name the other ports. */
  readonly port: number;
}

/** Task that the host has completely. */
export interface AnnouncedTask {
  readonly taskId: string;
  readonly url: string;
  readonly contentLength: number;
  readonly pieceLength: number;
}

/** Connection to a scheduler. */
export class Announcer {
  readonly #session: ClientHttp2Session;
  readonly #hostId: string;
  readonly #host: AnnouncedHost;

  private constructor(session: ClientHttp2Session, host: AnnouncedHost) {
    this.#session = session;
    this.#host = host;
    this.#hostId = `${host.ip}-${host.hostname}`;
  }

  /** Connects to the scheduler at `address`, and announces the host. */
  static async connect(address: string, host: AnnouncedHost): Promise<Announcer> {
    const session = connect(`http://${address}`);
    // Calls reject when the session fails.
    session.on("error", () => {});
    const announcer = new Announcer(session, host);
    await announcer.#announceHost();
    return announcer;
  }

  /** Registers a task that the host has, as dfdaemon does for a complete task. */
  async announceTask({ taskId, url, contentLength, pieceLength }: AnnouncedTask): Promise<void> {
    const download = message(
      [1, url],
      [26, pieceLength],
      [27, contentLength],
      [28, Math.ceil(contentLength / pieceLength)],
      // metadata_only: the scheduler answers at once, and looks for no parents.
      [33, true],
    );
    const peerId = `${this.#hostId}-${crypto.randomUUID()}`;
    const request = (field: number, content: Uint8Array): Uint8Array =>
      framed(message([1, this.#hostId], [2, taskId], [3, peerId], [field, content]));
    await this.#call("AnnouncePeer", [
      request(4, message([1, download])),
      request(5, message()),
      request(8, message()),
    ]);
  }

  /** Makes the scheduler forget the host, and disconnects. */
  async close(): Promise<void> {
    try {
      await this.#call("DeleteHost", [framed(message([1, this.#hostId]))]);
    } finally {
      this.#session.destroy();
    }
  }

  #announceHost(): Promise<void> {
    const { ip, hostname, port } = this.#host;
    const network = message([9, BANDWIDTH], [11, BANDWIDTH], [12, 1]);
    const host = message(
      [1, this.#hostId],
      [2, 0],
      [3, hostname],
      [4, ip],
      [5, port],
      [6, port],
      // The scheduler reads the CPU of a first announcement.
      [12, message([1, 1], [2, 1])],
      [14, network],
    );
    return this.#call("AnnounceHost", [framed(message([1, host]))]);
  }

  /** Sends requests, and resolves when the scheduler has ended the call with the status OK. */
  async #call(method: string, requests: readonly Uint8Array[]): Promise<void> {
    const stream = this.#session.request({
      ":method": "POST",
      ":path": `/scheduler.v2.Scheduler/${method}`,
      "content-type": "application/grpc",
      te: "trailers",
    });
    const ended = statusOf(stream);
    for (const request of requests) stream.write(request);
    stream.end();
    const status = await ended;
    if (status !== "0") throw new Error(`${method} failed: expected status 0, got ${status}`);
  }
}

function statusOf(stream: ClientHttp2Stream): Promise<string> {
  let status = "no status";
  const onHeaders = (headers: Readonly<Record<string, unknown>>): void => {
    if (headers["grpc-status"] === undefined) return;
    const text = decodeURIComponent(String(headers["grpc-message"] ?? ""));
    status = text === "" ? String(headers["grpc-status"]) : `${headers["grpc-status"]}: ${text}`;
  };
  return new Promise((resolve, reject) => {
    stream.setTimeout(CALL_TIMEOUT_MS, () => {
      status = `no answer within ${CALL_TIMEOUT_MS} ms`;
      stream.close();
    });
    stream.on("response", onHeaders);
    stream.on("trailers", onHeaders);
    stream.on("error", reject);
    stream.on("close", () => resolve(status));
    stream.resume();
  });
}
