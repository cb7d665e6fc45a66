import {
  anyText,
  flag,
  hasMethods,
  implementing,
  invalid,
  requireOptions,
  show,
  text,
  toInteger,
} from "../arguments.ts";
import { VortexError } from "../errors.ts";
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
 *
 * @throws `InvalidArgument` if an argument is invalid, or the content of the stream has a reader.
 * An invalid `init` closes the stream. Rejects like `stream.layout` if the lengths of the task
 * cannot be found.
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
    /** Method of the request. Default `GET`. */
    readonly method?: string | undefined;
    /** Further headers of the response. Default: none. */
    readonly headers?:
      | Headers
      | Readonly<Record<string, string>>
      | readonly (readonly [name: string, value: string])[]
      | undefined;
    /**
     * Digest of the whole task as `algorithm:encoded`, for the `ETag`. A stream of a range does
     * not know the digest; `statTask` returns it. Default: `digest` of `stream.layout`.
     */
    readonly digest?: string | undefined;
    /**
     * True if the request has a range. The status is then 206 also if the range is the whole
     * content. Default false.
     */
    readonly partial?: boolean | undefined;
  } = {},
): Promise<Response> {
  implementing("a stream of streamTask", "bytes", "close")("stream", stream);
  // Another reader has the content, so the stream stays open.
  requireUnlocked(stream);
  let headers: Headers;
  try {
    requireOptions("taskResponse", init, {
      method: text,
      // `headersOf` checks the headers.
      headers: () => {},
      digest: text,
      partial: flag,
    });
    headers = headersOf(init.headers);
  } catch (error) {
    await stream.close();
    throw error;
  }
  const { contentLength, start, length, digest = init.digest } = await stream.layout;
  requireUnlocked(stream);
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

/** @throws `InvalidArgument` if `stream` has no content, or its content has a reader */
function requireUnlocked(stream: TaskStream): void {
  const content: unknown = stream.content;
  if (!hasMethods(content, ["getReader"]))
    throw invalid("stream", "a stream of streamTask", stream);
  if (!stream.content.locked) return;
  throw new VortexError(
    "InvalidArgument",
    "stream: expected content without a reader, got a locked stream; start a stream for each response",
  );
}

/** @throws `InvalidArgument` if `init` is not a list of headers */
function headersOf(init: unknown): Headers {
  try {
    return new Headers(init as Headers | undefined);
  } catch (cause) {
    const message = `headers: expected Headers, an object or pairs of names and values, got ${show(init)}`;
    throw new VortexError("InvalidArgument", message, { cause });
  }
}

/**
 * Parses the headers `Range` and `If-Range` of a request (RFC 9110, section 14). Returns the
 * requested part of the content; its `end` is exclusive and at most `contentLength`.
 *
 * Returns `unsatisfiable` if the content has no byte of the range. Answer with status 416 then, and
 * with the content length in `Content-Range` (RFC 9110, section 15.5.17). Returns undefined if the
 * request is for the whole content. That includes requests other than `GET`, several ranges,
 * invalid headers, and an `If-Range` other than `etag`.
 *
 * @param request web `Request`, `Headers`, or `IncomingMessage` of `node:http`: an object with
 * `headers`, whose names are in lower case
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
  request:
    | Headers
    | {
        readonly method?: string | undefined;
        readonly headers:
          | Headers
          | Readonly<Record<string, string | readonly string[] | undefined>>;
      },
  contentLength: number | bigint,
  etag?: string,
): { readonly start: number; readonly end: number } | "unsatisfiable" | undefined {
  const length = toInteger("contentLength", contentLength, 0, Number.MAX_SAFE_INTEGER);
  if (etag !== undefined) anyText("etag", etag);
  const header = headerReader(request);
  if ("method" in request && request.method !== "GET") return undefined;
  const condition = header("if-range");
  // Only strong tags may be compared, since the parts are combined by the client.
  if (condition !== undefined && (condition !== etag || !condition.startsWith('"')))
    return undefined;
  const [, first = "", last = ""] = /^bytes=[ \t]*(\d*)-(\d*)$/i.exec(header("range") ?? "") ?? [];
  if (first === "") {
    const suffix = Number(last);
    if (last === "" || (suffix > 0 && length === 0)) return undefined;
    return suffix > 0 ? { start: Math.max(0, length - suffix), end: length } : "unsatisfiable";
  }
  // Numbers above 2^53 would be rounded.
  if (last !== "" && BigInt(last) < BigInt(first)) return undefined;
  const start = Number(first);
  if (start >= length) return "unsatisfiable";
  return { start, end: last === "" ? length : Math.min(Number(last) + 1, length) };
}

/**
 * Returns a function that reads a header of `request`; undefined if the request does not have it.
 *
 * @throws `InvalidArgument` if `request` has no headers
 */
function headerReader(request: unknown): (name: string) => string | undefined {
  const own = typeof request === "object" && request !== null && "headers" in request;
  const headers: unknown = own ? request.headers : request;
  const isWeb = hasMethods(headers, ["get"]);
  if (!isWeb && (!own || typeof headers !== "object" || headers === null))
    throw invalid("request", "a Request, an IncomingMessage or Headers", request);
  return (name) => {
    const value: unknown = isWeb
      ? (headers as Headers).get(name)
      : Reflect.get(headers as object, name);
    return typeof value === "string" ? value : undefined;
  };
}
