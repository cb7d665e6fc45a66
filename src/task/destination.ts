import { invalid } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import type { TaskSink } from "./sink.ts";
import type { TaskDownloadOptions } from "./task.ts";
import { writableSink } from "./writable-sink.ts";

/** Creates a sink that writes to the file at a path or `file:` URL. */
export type OpenFileSink = (path: string | URL) => TaskSink;

/**
 * Returns the sink for the option `to` of a download.
 *
 * @param fileSink creates the sink of a file; undefined if the runtime has no files
 * @throws `InvalidArgument` if `to` is none of the allowed values
 * @throws `Unavailable` if `to` is a path and the runtime has no files
 */
export function sinkOf(
  to: TaskDownloadOptions["to"],
  fileSink: OpenFileSink | undefined,
): TaskSink {
  if (typeof to === "string" || to instanceof URL) {
    if (fileSink !== undefined) return fileSink(to);
    const message = `to: cannot write file ${to}: this runtime has no files; pass a WritableStream or a sink`;
    throw new VortexError("Unavailable", message);
  }
  const value: unknown = to;
  if (typeof value === "object" && value !== null) {
    // Not instanceof: streams of another realm or a polyfill work too.
    if ("getWriter" in to) return writableSink(to);
    if ("open" in to && typeof to.open === "function") return to;
  }
  throw invalid("to", "a path, a WritableStream or a sink", value);
}
