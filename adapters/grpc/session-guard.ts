import type { Http2Session } from "node:http2";
import process from "node:process";
import { setImmediate } from "node:timers";

/**
 * Puts off what closes or destroys a session until the frame that is being read has been read. Else any peer can end the process:
 *
 * - Deno 2.9 crashes in nghttp2 now and then, as when a client says goodbye (https://github.com/denoland/deno/issues/36788);
 * - Node 20 aborts by an assertion, `current_nghttp2_memory_ == 0`, after header fields beyond its limits
 *   (https://github.com/nodejs/node/issues/35233).
 *
 * Bun does so itself.
 */
export function guardSession(session: Http2Session): void {
  if ("bun" in process.versions) return;
  const close = session.close.bind(session);
  const destroy = session.destroy.bind(session);
  session.close = (callback) => {
    setImmediate(() => close(callback));
  };
  session.destroy = (error, code) => {
    setImmediate(() => destroy(error, code));
  };
}
