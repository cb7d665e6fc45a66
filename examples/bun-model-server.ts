/**
 * Bun: an HTTP service in front of Dragonfly peers. It fetches a model (a task) from all of its
 * parents at once and streams it meanwhile, whole or in the requested range. Nothing is stored.
 *
 *     bun examples/bun-model-server.ts --parent 10.0.0.7:4000 --parent 10.0.0.8:4000
 *     curl -O http://127.0.0.1:8080/TASK_ID
 *
 * Name a parent by the port of its Dragonfly API. It reports which pieces it has, and where it
 * serves them.
 */
import { parseArgs } from "node:util";
import {
  createDownloader,
  requestedRange,
  statTask,
  type TaskStat,
  taskResponse,
  VortexError,
} from "vortex-peer";

const { values: options } = parseArgs({
  options: {
    parent: { type: "string", multiple: true, default: ["127.0.0.1:4000"] },
    host: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "8080" },
  },
});
const downloader = createDownloader({ protocol: "tcp" });
/** Tasks that were asked for before. The metadata of a task never changes. */
const known = new Map<string, TaskStat>();

const server = Bun.serve({
  hostname: options.host,
  port: Number(options.port),
  // Timeout in seconds for a client that does not read.
  idleTimeout: 120,
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (!/^\/[!-.0-~]{64}$/.test(pathname))
      return new Response("expected /TASK_ID\n", { status: 404 });
    if (request.method !== "GET" && request.method !== "HEAD") {
      return new Response(null, { status: 405, headers: { allow: "GET, HEAD" } });
    }
    try {
      return await answer(request, pathname.slice(1));
    } catch (error) {
      if (!(error instanceof VortexError)) throw error;
      const status = error.code === "NotFound" ? 404 : error.kind === "timeout" ? 504 : 502;
      return new Response(`${error.code}: ${error.message}\n`, { status });
    }
  },
});
console.log(`listening on ${server.url}`);
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, async () => {
    await server.stop(true);
    await downloader.close();
  });
}

async function answer(request: Request, taskId: string): Promise<Response> {
  const { contentLength, pieceLength, digest } = await stat(taskId, request.signal);
  const etag = digest === undefined ? undefined : `"${digest}"`;
  const headers = { "accept-ranges": "bytes", ...(etag !== undefined && { etag }) };
  if (etag !== undefined && request.headers.get("if-none-match") === etag)
    return new Response(null, { status: 304, headers });
  if (request.method === "HEAD") {
    const type = "application/octet-stream";
    const length = String(contentLength);
    return new Response(null, {
      headers: { ...headers, "content-type": type, "content-length": length },
    });
  }
  const range = requestedRange(request, contentLength, etag);
  if (range === "unsatisfiable") {
    const unsatisfiable = { ...headers, "content-range": `bytes */${contentLength}` };
    return new Response(null, { status: 416, headers: unsatisfiable });
  }

  const stream = downloader.streamTask({
    taskId,
    hostId: "bun-model-server",
    parents: options.parent.map((apiAddr) => ({ apiAddr })),
    contentLength,
    pieceLength,
    range,
    digest: range === undefined ? digest : undefined,
    // The signal aborts when the client leaves. While the client does not read, no further pieces
    // are fetched. `patience: 0`, since the client retries sooner than a lost parent returns.
    signal: request.signal,
    patience: 0,
  });
  // The status has been sent by now, so a failure truncates the response. The reason is logged
  // here.
  stream.report.then(
    ({ bytes, pieces }) => console.log(`${taskId}: ${bytes} bytes in ${pieces} pieces`),
    ({ code, message }: VortexError) => console.log(`${taskId}: ${code}: ${message}`),
  );
  const partial = range !== undefined;
  return await taskResponse(stream, { digest, partial });
}

/** Returns the metadata of a task from the first parent that answers. */
async function stat(taskId: string, signal: AbortSignal): Promise<TaskStat> {
  const cached = known.get(taskId);
  if (cached !== undefined) return cached;
  try {
    const stats = await Promise.any(
      options.parent.map((parent) => statTask(parent, taskId, { signal })),
    );
    known.set(taskId, stats);
    return stats;
  } catch (error) {
    throw error instanceof AggregateError ? error.errors[0] : error;
  }
}
