/**
 * Edge worker (Cloudflare Workers, workerd): serves pieces of a peer over HTTP, whole or in ranges.
 *
 *     GET /<task id>/<piece number>
 *
 * `PEER` is the peer's `host:port` for TCP, the only protocol in workers. In wrangler.toml: `vars =
 * { PEER = "…:4005" }`.
 */
import { createDownloader, type Piece, VortexError } from "vortex-peer";

interface Env {
  readonly PEER: string;
}

interface Context {
  waitUntil(promise: Promise<unknown>): void;
}

export default {
  async fetch(request: Request, env: Env, context: Context): Promise<Response> {
    const [, taskId, number] =
      /^\/([!-.0-~]{64})\/(\d{1,9})$/.exec(new URL(request.url).pathname) ?? [];
    if (taskId === undefined || number === undefined)
      return new Response("expected /TASK/NUMBER\n", { status: 404 });
    if (request.method !== "GET")
      return new Response(null, { status: 405, headers: { allow: "GET" } });

    // One downloader per request: workerd ties a socket to the request that opened it.
    const downloader = createDownloader({ protocol: "tcp" });
    const ask = (range?: { start: number; end?: number }): Promise<Piece> =>
      downloader.downloadPiece({
        addr: env.PEER,
        hostId: "edge-worker",
        taskId,
        number: Number(number),
        ...(range && { range }),
      });
    const range = rangeOf(request.headers.get("range"));
    try {
      // The peer announces the length of the piece. A range that ends beyond the piece ends with
      // it.
      const piece = await ask(range).catch((error: unknown) => {
        if (range === undefined || !isBeyond(error)) throw error;
        return ask({ start: range.start });
      });
      const start = range?.start ?? 0;
      if (range !== undefined && start >= piece.length) {
        piece.cancel();
        await downloader.close();
        return new Response(null, {
          status: 416,
          headers: { "content-range": `bytes */${piece.length}` },
        });
      }
      const end = Math.min(range?.end ?? piece.length, piece.length);
      const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
      // A wrong piece, or a client that leaves, breaks the pipe and truncates the response.
      const sent = piece.content
        .pipeTo(writable)
        .catch((error: unknown) => console.warn(String(error)));
      context.waitUntil(sent.then(() => downloader.close()));
      return new Response(readable, {
        status: range === undefined ? 200 : 206,
        headers: {
          "accept-ranges": "bytes",
          "content-type": "application/octet-stream",
          etag: `"${piece.digest}"`,
          ...(range && { "content-range": `bytes ${start}-${end - 1}/${piece.length}` }),
        },
      });
    } catch (error) {
      await downloader.close();
      if (!(error instanceof VortexError)) throw error;
      if (range !== undefined && isBeyond(error)) return new Response(null, { status: 416 });
      return new Response(`${error.code}: ${error.message}\n`, { status: statusOf(error) });
    }
  },
};

/**
 * Parses `bytes=a-b` and `bytes=a-` to a range with an exclusive end. Other forms are ignored, as
 * HTTP allows.
 */
function rangeOf(header: string | null): { start: number; end?: number } | undefined {
  const [, first, last] = /^bytes=(\d{1,15})-(\d{0,15})$/.exec(header ?? "") ?? [];
  if (first === undefined) return undefined;
  if (last === undefined || last === "") return { start: Number(first) };
  return Number(last) < Number(first) ? undefined : { start: Number(first), end: Number(last) + 1 };
}

/** Returns true if the error means that the piece does not have the range. */
function isBeyond(error: unknown): boolean {
  return error instanceof VortexError && error.code === "InvalidArgument";
}

function statusOf({ code, kind }: VortexError): number {
  if (code === "NotFound") return 404;
  return kind === "timeout" ? 504 : 502;
}
