import {
  anyText,
  flag,
  implementing,
  invalid,
  requireOptions,
  text,
  toInteger,
} from "../arguments.ts";
import type { TaskStream } from "./task.ts";

/**
 * Answers an HTTP request with the content of a task. Waits until the lengths of the task are known
 * (`stream.layout`), and returns while the content is still being fetched.
 *
 * The status is 206 with `Content-Range` if the stream has only a part of the task, else 200. The
 * response has `Content-Length`, `Accept-Ranges`, the content type `application/octet-stream`, and
 * the digest of the task as strong `ETag` if it is known. For `HEAD` the stream is closed.
 *
 * If the download fails later, the body fails with its error. Cancelling the body cancels the
 * download.
 *
 * The response also has `init.headers`; a content type or `ETag` among them replaces the default.
 * Set `init.partial` if the request has a range. The status is then 206 also if the range is the
 * whole content.
 *
 * @param init `method` is the method of the request, default `GET`
 * @throws `InvalidArgument` if an argument is invalid. Rejects like `stream.layout` if the lengths
 * of the task cannot be found.
 *
 * @example
 * ```ts
 * import { createDownloader, taskResponse } from "vortex-peer";
 *
 * const downloader = createDownloader();
 * export async function answer(request: Request, taskId: string): Promise<Response> {
 *   const stream = downloader.streamTask({
 *     taskId,
 *     parents: [{ apiAddr: "10.0.0.7:4000" }],
 *     signal: request.signal,
 *   });
 *   return await taskResponse(stream, { method: request.method });
 * }
 * ```
 */
export async function taskResponse(
  stream: TaskStream,
  init: {
    readonly method?: string | undefined;
    readonly headers?: Headers | undefined;
    readonly partial?: boolean | undefined;
  } = {},
): Promise<Response> {
  implementing("a stream of streamTask", "bytes", "close")("stream", stream);
  requireOptions("taskResponse", init, {
    method: text,
    headers: implementing("Headers", "get"),
    partial: flag,
  });
  const { contentLength, start, length, digest } = await stream.layout;
  const headers = new Headers(init.headers);
  // Content-Range cannot express an empty range.
  const isPart = length > 0 && (init.partial === true || length < contentLength);
  if (!headers.has("content-type")) headers.set("content-type", "application/octet-stream");
  if (digest !== undefined && !headers.has("etag")) headers.set("etag", `"${digest}"`);
  headers.set("accept-ranges", "bytes");
  headers.set("content-length", String(length));
  if (isPart) headers.set("content-range", `bytes ${start}-${start + length - 1}/${contentLength}`);
  const status = isPart ? 206 : 200;
  if (init.method === "HEAD") {
    await stream.close();
    return new Response(null, { status, headers });
  }
  // Reading the stream to its end completes the download, and verifies the digest.
  if (length === 0) await stream.bytes();
  return new Response(length === 0 ? null : stream.content, { status, headers });
}

/**
 * Parses the headers `Range` and `If-Range` of a request (RFC 9110, section 14). Returns the
 * requested part of the content; its `end` is exclusive and at most `contentLength`.
 *
 * Returns `unsatisfiable` if the content has no byte of the range: answer with status 416. Returns
 * undefined if the request is for the whole content. That includes requests other than `GET`,
 * several ranges, invalid headers, and an `If-Range` other than `etag`.
 *
 * @param contentLength length of the whole content in bytes
 * @param etag value of the response's header `ETag`, with its quotes. Default: none, so that a
 * request with `If-Range` is for the whole content
 * @throws `InvalidArgument` if an argument is invalid
 *
 * @example
 * ```ts
 * import { requestedRange } from "vortex-peer";
 *
 * const headers = new Headers({ range: "bytes=-100" });
 * console.log(requestedRange(headers, 1_000)); // { start: 900, end: 1000 }
 * ```
 */
export function requestedRange(
  request: Request | Headers,
  contentLength: number | bigint,
  etag?: string,
): { readonly start: number; readonly end: number } | "unsatisfiable" | undefined {
  const length = toInteger("contentLength", contentLength, 0, Number.MAX_SAFE_INTEGER);
  if (etag !== undefined) anyText("etag", etag);
  if (typeof request !== "object" || request === null)
    throw invalid("request", "a Request or Headers", request);
  if ("method" in request && request.method !== "GET") return undefined;
  const headers = "headers" in request ? request.headers : request;
  const condition = headers.get("if-range");
  // Only strong tags may be compared, since the parts are combined by the client.
  if (condition !== null && (condition !== etag || !condition.startsWith('"'))) return undefined;
  const [, first = "", last = ""] =
    /^bytes=[ \t]*(\d*)-(\d*)$/i.exec(headers.get("range") ?? "") ?? [];
  if (first === "") {
    const suffix = Number(last);
    if (last === "" || (suffix > 0 && length === 0)) return undefined;
    return suffix > 0 ? { start: Math.max(0, length - suffix), end: length } : "unsatisfiable";
  }
  const start = Number(first);
  if (last !== "" && Number(last) < start) return undefined;
  if (start >= length) return "unsatisfiable";
  return { start, end: last === "" ? length : Math.min(Number(last) + 1, length) };
}
