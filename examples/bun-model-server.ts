/**
 * Bun: an HTTP service in front of Dragonfly peers. It fetches a model (a task) from all of its parents at once and streams it
 * while it comes, whole or in the range that the client asks for; nothing is stored.
 *
 *     bun examples/bun-model-server.ts --parent 10.0.0.7:4000 --parent 10.0.0.8:4000
 *     curl -O http://127.0.0.1:8080/TASK_ID
 *
 * A parent is named by its port for the Dragonfly API: there it tells which pieces it has, and where it serves them.
 */
import { parseArgs } from "node:util";
import { createDownloader, statTask, type TaskStat, VortexError } from "vortex-peer";

const { values: options } = parseArgs({
  options: {
    parent: { type: "string", multiple: true, default: ["127.0.0.1:4000"] },
    host: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "8080" },
  },
});
const downloader = createDownloader({ protocol: "tcp" });
/** What is known of a task does not change. */
const known = new Map<string, TaskStat>();

const server = Bun.serve({
  hostname: options.host,
  port: Number(options.port),
  // Seconds; a client that pauses for longer is given up.
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
  const headers = new Headers({
    "accept-ranges": "bytes",
    "content-type": "application/octet-stream",
  });
  if (etag !== undefined) headers.set("etag", etag);
  if (etag !== undefined && request.headers.get("if-none-match") === etag) {
    return new Response(null, { status: 304, headers });
  }

  const range =
    request.method === "GET" ? rangeOf(request.headers, contentLength, etag) : undefined;
  if (range === "unsatisfiable") {
    headers.set("content-range", `bytes */${contentLength}`);
    return new Response(null, { status: 416, headers });
  }
  const { start, end } = range ?? { start: 0, end: contentLength };
  // Bun sends a stream in chunks, and leaves this out then.
  headers.set("content-length", String(end - start));
  if (range !== undefined)
    headers.set("content-range", `bytes ${start}-${end - 1}/${contentLength}`);
  const status = range === undefined ? 200 : 206;
  if (request.method === "HEAD" || start === end) return new Response(null, { status, headers });

  const stream = downloader.streamTask(
    {
      taskId,
      hostId: "bun-model-server",
      parents: options.parent.map((apiAddr) => ({ apiAddr })),
      contentLength,
      pieceLength,
      ...(range && { range }),
      ...(!range && digest !== undefined && { digest }),
    },
    // Fires when the client leaves. While it does not read, no further pieces are fetched. A client
    // asks again sooner than it waits for parents that are gone.
    { signal: request.signal, patience: 0 },
  );
  // The status is sent by then: whoever reads sees the response break off, and the reason stands here.
  stream.done.then(
    ({ bytes, pieces }) => console.log(`${taskId}: ${bytes} bytes in ${pieces} pieces`),
    ({ code, message }: VortexError) => console.log(`${taskId}: ${code}: ${message}`),
  );
  return new Response(stream.content, { status, headers });
}

/** What the first parent to know it tells of a task. */
async function stat(taskId: string, signal: AbortSignal): Promise<TaskStat> {
  const before = known.get(taskId);
  if (before !== undefined) return before;
  try {
    const told = await Promise.any(
      options.parent.map((parent) => statTask(parent, taskId, { signal })),
    );
    known.set(taskId, told);
    return told;
  } catch (error) {
    throw error instanceof AggregateError ? error.errors[0] : error;
  }
}

/** The one range that is asked for, its end exclusive. Any other form of the header is ignored, as HTTP allows. */
function rangeOf(headers: Headers, length: number, etag: string | undefined) {
  const [, first = "", last = ""] =
    /^bytes=(\d{0,15})-(\d{0,15})$/.exec(headers.get("range") ?? "") ?? [];
  const condition = headers.get("if-range");
  if ((first === "" && last === "") || (condition !== null && condition !== etag)) return undefined;
  if (first === "") {
    const start = Math.max(0, length - Number(last));
    return start < length ? { start, end: length } : "unsatisfiable";
  }
  const start = Number(first);
  const end = last === "" ? length : Math.min(Number(last) + 1, length);
  if (last !== "" && Number(last) < start) return undefined;
  return start < length ? { start, end } : "unsatisfiable";
}
