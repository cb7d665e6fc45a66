/**
 * Node: an HTTP service in front of Dragonfly peers, with Node's own HTTP server. It fetches a task
 * from all of its parents at once and streams it meanwhile, whole or in the requested range.
 *
 *     node examples/node-http.ts --parent 10.0.0.7:4000 --parent 10.0.0.8:4000
 *     curl -O http://127.0.0.1:8080/TASK_ID
 *
 * Name a parent by the port of its Dragonfly API.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { parseArgs } from "node:util";
import { createDownloader, requestedRange, statTask, VortexError } from "vortex-peer";

const { values: options } = parseArgs({
  options: {
    parent: { type: "string", multiple: true, default: ["127.0.0.1:4000"] },
    host: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "8080" },
  },
});
const downloader = createDownloader({ protocol: "tcp" });

const server = createServer(async (request, response) => {
  // Emitted after the response, and also when the client leaves before it.
  const left = new AbortController();
  response.once("close", () => left.abort());
  try {
    await answer(request, response, left.signal);
  } catch (error) {
    console.log(`${request.url}: ${error instanceof VortexError ? error.code : error}`);
    // Half a task must not look whole, so a response that has begun is cut off.
    if (response.headersSent) response.destroy();
    else response.writeHead(statusOf(error)).end();
  }
});
server.listen(Number(options.port), options.host, () => {
  const { address, port } = server.address() as AddressInfo;
  console.log(`listening on http://${address}:${port}/`);
});
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, async () => {
    server.close();
    server.closeAllConnections();
    await downloader.close();
  });
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  signal: AbortSignal,
): Promise<void> {
  if (request.method !== "GET" && request.method !== "HEAD") {
    response.writeHead(405, { allow: "GET, HEAD" }).end();
    return;
  }
  const taskId = (request.url ?? "").slice(1);
  const { contentLength, pieceLength, digest } = await Promise.any(
    options.parent.map((parent) => statTask(parent, taskId, { signal })),
  );
  const etag = digest === undefined ? undefined : `"${digest}"`;
  response.setHeader("accept-ranges", "bytes");
  response.setHeader("content-type", "application/octet-stream");
  if (etag !== undefined) response.setHeader("etag", etag);
  const range = requestedRange(request, contentLength, etag);
  if (range === "unsatisfiable") {
    response.writeHead(416, { "content-range": `bytes */${contentLength}` }).end();
    return;
  }
  const { start, end } = range ?? { start: 0, end: contentLength };
  if (range !== undefined)
    response.setHeader("content-range", `bytes ${start}-${end - 1}/${contentLength}`);
  response.writeHead(range === undefined ? 200 : 206, { "content-length": end - start });
  if (request.method === "HEAD") {
    response.end();
    return;
  }
  const { content } = downloader.streamTask({
    taskId,
    parents: options.parent.map((apiAddr) => ({ apiAddr })),
    contentLength,
    pieceLength,
    range,
    digest: range === undefined ? digest : undefined,
    signal,
    patience: 0,
  });
  // While the client does not read, no further pieces are fetched.
  await pipeline(Readable.from(content), response);
}

/** Returns the status for a request whose task no parent could tell. */
function statusOf(error: unknown): number {
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error;
  return first instanceof VortexError && first.code === "NotFound" ? 404 : 502;
}
