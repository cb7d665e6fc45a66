import type { Http2Session, Http2Stream } from "node:http2";
import process from "node:process";
import { setImmediate } from "node:timers";
import type { Guard } from "../shared/guard.ts";

/**
 * Defers `close` and `destroy` of an HTTP/2 session to the next event-loop turn, when the runtime
 * parses no frame. If they run while a frame is parsed, the process can crash. Any peer can cause
 * that:
 *
 * - Deno 2.9 sometimes crashes in nghttp2, for example when a client sends GOAWAY
 *   (https://github.com/denoland/deno/issues/36788).
 * - Node 20 aborts with the assertion `current_nghttp2_memory_ == 0` after header fields beyond its
 *   limits (https://github.com/nodejs/node/issues/35233).
 *
 * Bun defers both calls itself, so this function does nothing on Bun.
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
 * Defers `close` of an HTTP/2 stream, which sends RST_STREAM, to the next event-loop turn.
 *
 * A direct `close` makes Node first send all queued data, even while Node parses a frame. Then
 * nghttp2 may free the stream that it is processing. Connect closes a stream in the same turn in
 * which it finds invalid data.
 *
 * - Issue: https://github.com/nodejs/node/issues/64113
 * - Fix: https://github.com/nodejs/node/pull/64166, which Node 20 lacks
 */
export function guardStream(stream: Http2Stream, guard: Guard): void {
  if ("bun" in process.versions) return;
  const close = stream.close.bind(stream);
  stream.close = (code, callback) => {
    // The stream may be closed by the next turn, and then Node does not call the callback.
    if (callback !== undefined && !stream.closed) stream.once("close", guard.wrap(callback));
    setImmediate(guard.wrap(() => close(code)));
  };
}
