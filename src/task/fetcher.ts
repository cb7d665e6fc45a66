import { VortexError } from "../errors.ts";
import { RateLimiter } from "../rate-limiter.ts";
import { Download } from "./download.ts";
import { ParentSlots } from "./slots.ts";
import type { SharedLimits, TaskSettings, TaskSource } from "./source.ts";
import { StreamSink } from "./stream-sink.ts";
import type {
  TaskDownload,
  TaskDownloadOptions,
  TaskOptions,
  TaskRequest,
  TaskStream,
} from "./task.ts";

/** Starts the downloads of one downloader, and applies the limits that these downloads share. */
export class TaskFetcher {
  /** Transport that fetches pieces from parents. */
  readonly #source: TaskSource;
  /** Settings of all downloads. */
  readonly #settings: TaskSettings;
  /** Limits of concurrent requests and rate that all downloads share. */
  readonly #shared: SharedLimits;
  /** Downloads in progress. */
  readonly #downloads = new Set<Download>();
  /** True after `close`. */
  #closed = false;

  /** @throws `InvalidArgument` if the rate limit is out of range */
  constructor(source: TaskSource, settings: TaskSettings) {
    const { rateLimit, parentConcurrency, runtime } = settings;
    this.#source = source;
    this.#settings = settings;
    this.#shared = {
      slots: new ParentSlots(parentConcurrency),
      limiter: rateLimit === undefined ? undefined : new RateLimiter(rateLimit, runtime.clock),
    };
  }

  /**
   * Starts a download of a task to a sink.
   *
   * @throws `InvalidArgument` if the request or an option is invalid; `Closed` if the downloader is
   * closed
   */
  downloadTask(request: TaskRequest, options: TaskDownloadOptions): TaskDownload {
    if (this.#closed) throw new VortexError("Closed", "the downloader is closed");
    const download = new Download(request, options, this.#source, this.#settings, this.#shared);
    this.#downloads.add(download);
    const forget = (): void => {
      this.#downloads.delete(download);
    };
    download.done.then(forget, forget);
    return download;
  }

  /**
   * Starts a download of a task whose content is read as a stream.
   *
   * @throws `InvalidArgument` if the request or an option is invalid; `Closed` if the downloader is
   * closed
   */
  streamTask(request: TaskRequest, options: TaskOptions = {}): TaskStream {
    const sink = new StreamSink();
    const download = this.downloadTask(request, { ...options, to: sink });
    download.done.catch((error: unknown) => sink.fail(error));
    return {
      content: sink.content,
      done: download.done,
      store: download.store,
      bytes: () => readAll(sink.content),
      progress: () => download.progress(),
      pause: () => download.pause(),
      resume: () => download.resume(),
      cancel: (reason) => download.cancel(reason),
    };
  }

  /**
   * Ends all downloads with the error `Closed`, and resolves once they have ended. Idempotent. No
   * download can be started afterwards.
   */
  async close(): Promise<void> {
    this.#closed = true;
    const downloads = [...this.#downloads];
    for (const download of downloads)
      download.end(new VortexError("Closed", "the downloader is closed"));
    await Promise.allSettled(downloads.map(({ done }) => done));
  }
}

/** Reads a stream to its end and returns all its bytes. */
async function readAll(content: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  const reader = content.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    chunks.push(next.value);
    length += next.value.length;
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}
