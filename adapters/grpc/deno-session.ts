import type { Http2Session } from "node:http2";
import process from "node:process";
import { setImmediate } from "node:timers";

/**
 * Deno 2.9 crashes in nghttp2, now and then, when a session is closed or destroyed while a frame for it is being read, as its own
 * handler of GOAWAY does (https://github.com/denoland/deno/issues/36788): any client that says goodbye can end a server. There
 * both are put off until the frame has been read. Other runtimes do so themselves.
 */
export function guardSession(session: Http2Session): void {
  if (!("deno" in process.versions)) return;
  const close = session.close.bind(session);
  const destroy = session.destroy.bind(session);
  session.close = (callback) => {
    setImmediate(() => close(callback));
  };
  session.destroy = (error, code) => {
    setImmediate(() => destroy(error, code));
  };
}
