import { hasMethods, invalid } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import type { Destination, TaskSink } from "./sink.ts";
import type { TaskDownloadOptions } from "./task.ts";
import { writableSink } from "./writable-sink.ts";

/** Creates a sink that writes to the file at a path or `file:` URL. */
export type OpenFileSink = (path: string | URL) => TaskSink;

/**
 * Returns the destination for the option `to` of a download.
 *
 * @param fileSink creates the sink of a file; undefined if the runtime has no files
 * @throws `InvalidArgument` if `to` is none of the allowed values
 * @throws `Unavailable` if `to` is a path and the runtime has no files
 */
export function destinationOf(
  to: TaskDownloadOptions["to"],
  fileSink: OpenFileSink | undefined,
): Destination {
  if (typeof to === "string" || to instanceof URL) {
    if (fileSink !== undefined) return { sink: fileSink(to), fail() {} };
    const message = `to: cannot write file ${to}: this runtime has no files; pass a WritableStream or a sink`;
    throw new VortexError("Unavailable", message);
  }
  const value: unknown = to;
  if (typeof value === "object" && value !== null) {
    // Not instanceof: streams of another realm or a polyfill work too.
    if ("getWriter" in to) return writableSink(to);
    // A file stream of Node has a method `open` too.
    if (hasMethods(value as unknown, ["pipe", "write"]))
      throw new VortexError(
        "InvalidArgument",
        "to: expected a path, a WritableStream or a sink, got a Node.js stream; pass Writable.toWeb(stream)",
      );
    if ("open" in to && typeof to.open === "function") return { sink: to, fail() {} };
  }
  throw invalid("to", "a path, a WritableStream or a sink", value);
}

/**
 * Aborts the stream in the option `to` of a download that could not be started, so that its reader
 * does not wait. Does nothing if `to` is anything else, or a locked stream.
 */
export function abortUnopened(options: unknown, error: unknown): void {
  try {
    const { to } = options as Partial<TaskDownloadOptions>;
    if (typeof to === "object" && "getWriter" in to && !to.locked) to.abort(error).catch(() => {});
  } catch {
    // The options are not an object, or a getter throws: there is no stream to abort.
  }
}
