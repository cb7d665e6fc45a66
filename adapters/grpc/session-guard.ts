import type { Http2Session, Http2Stream } from "node:http2";
import process from "node:process";
import { setImmediate } from "node:timers";
import type { Guard } from "../shared/guard.ts";

/**
 * Puts off what closes or destroys a session until the frame that is being read has been read. Else any peer can end the process:
 *
 * - Deno 2.9 crashes in nghttp2 now and then, as when a client says goodbye (https://github.com/denoland/deno/issues/36788);
 * - Node 20 aborts by an assertion, `current_nghttp2_memory_ == 0`, after header fields beyond its limits
 *   (https://github.com/nodejs/node/issues/35233).
 *
 * Bun does so itself.
 */
export function guardSession(session: Http2Session, guard: Guard): void {
  if ("bun" in process.versions) return;
  const close = session.close.bind(session);
  const destroy = session.destroy.bind(session);
  session.close = (callback) => {
    setImmediate(guard.wrap(() => close(callback)));
  };
  session.destroy = (error, code) => {
    setImmediate(guard.wrap(() => destroy(error, code)));
  };
}

/**
 * The same for what closes a stream, which is a RST_STREAM. Node sends whatever waits to be sent before it, also while a frame is being
 * read, and with that nghttp2 may free a stream that it is working on (https://github.com/nodejs/node/issues/64113, mended in
 * https://github.com/nodejs/node/pull/64166, which Node 20 does not have). Connect closes a stream in the turn in which it finds
 * fault with what came.
 */
export function guardStream(stream: Http2Stream, guard: Guard): void {
  if ("bun" in process.versions) return;
  const close = stream.close.bind(stream);
  stream.close = (code, callback) => {
    // The stream may be closed by then, after which Node calls nobody back.
    if (callback !== undefined && !stream.closed) stream.once("close", guard.wrap(callback));
    setImmediate(guard.wrap(() => close(code)));
  };
}
