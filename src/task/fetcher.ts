import { requireOptions } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import { RateLimiter } from "../rate-limiter.ts";
import { abortUnopened, destinationOf, type OpenFileSink } from "./destination.ts";
import { Download, type DownloadOptions } from "./download.ts";
import type { Destination } from "./sink.ts";
import { ParentSlots } from "./slots.ts";
import type { SharedLimits, TaskSettings, TaskSource } from "./source.ts";
import { TaskStore } from "./store.ts";
import { StreamSink } from "./stream-sink.ts";
import type {
  StreamLayout,
  TaskDownload,
  TaskDownloadOptions,
  TaskReport,
  TaskStream,
  TaskStreamOptions,
} from "./task.ts";
import { taskDownloadChecks, taskStreamChecks } from "./task.ts";

/** Methods of a {@link Download} that its handles offer. */
type StartedDownload = Pick<Download, "store" | "progress" | "pause" | "resume" | "end">;

/** Starts the downloads of one downloader, and applies the limits that these downloads share. */
export class TaskFetcher {
  /** Transport that fetches pieces from parents. */
  readonly #source: TaskSource;
  /** Settings of all downloads. */
  readonly #settings: TaskSettings;
  /** Limits of concurrent requests and rate that all downloads share. */
  readonly #shared: SharedLimits;
  /** Creates the sink of a file; undefined if the runtime has no files. */
  readonly #fileSink: OpenFileSink | undefined;
  /** Downloads in progress. */
  readonly #downloads = new Set<Download>();
  /** True after `close`. */
  #closed = false;

  /** @throws `InvalidArgument` if the rate limit is out of range */
  constructor(source: TaskSource, settings: TaskSettings, fileSink?: OpenFileSink) {
    const { rateLimit, parentConcurrency, runtime } = settings;
    this.#source = source;
    this.#settings = settings;
    this.#fileSink = fileSink;
    this.#shared = {
      slots: new ParentSlots(parentConcurrency),
      limiter: rateLimit === undefined ? undefined : new RateLimiter(rateLimit, runtime.clock),
    };
  }

  /**
   * Starts a download of a task to a destination. The promise rejects with `InvalidArgument` if an
   * option is invalid, and with `Closed` if this fetcher is closed.
   */
  downloadTask(options: TaskDownloadOptions): TaskDownload {
    let destination: Destination | undefined;
    try {
      requireOptions("downloadTask", options, taskDownloadChecks);
      const to = destinationOf(options.to, this.#fileSink);
      destination = to;
      const download = this.#start({ ...options, to: to.sink });
      download.done.catch((error: unknown) => to.fail(error));
      // A derived promise: the original one never raises an unhandled rejection.
      return handleOf(
        download.done.then((report) => report),
        download,
      );
    } catch (error) {
      if (destination === undefined) abortUnopened(options, error);
      else destination.fail(error);
      return handleOf(Promise.reject(error), NEVER_STARTED);
    }
  }

  /**
   * Starts a download of a task whose content is read as a stream. Invalid options and a closed
   * fetcher fail the stream and its promises, as in {@link downloadTask}.
   */
  streamTask(options: TaskStreamOptions): TaskStream {
    let onLayout = (_: StreamLayout): void => {};
    const opened = new Promise<StreamLayout>((resolve) => {
      onLayout = resolve;
    });
    const sink = new StreamSink((layout) => onLayout(layout));
    let download: StartedDownload = NEVER_STARTED;
    let report: Promise<TaskReport>;
    try {
      requireOptions("streamTask", options, taskStreamChecks);
      const started = this.#start({ ...options, to: sink });
      download = started;
      report = started.done;
    } catch (error) {
      report = Promise.reject(error);
    }
    report.catch((error: unknown) => sink.fail(error));
    // The layout cannot arrive after the report.
    const layout = Promise.race([opened, report.then(() => opened)]);
    layout.catch(() => {});
    const close = async (): Promise<void> => {
      download.end(new VortexError("Aborted", "the stream of the task was closed"));
      await report.catch(() => {});
    };
    return {
      content: sink.content,
      report,
      layout,
      store: download.store,
      bytes: () => readAll(sink.content),
      progress: () => download.progress(),
      pause: () => download.pause(),
      resume: () => download.resume(),
      close,
      [Symbol.asyncDispose]: close,
    };
  }

  /** @throws `InvalidArgument` if an option is invalid; `Closed` if this fetcher is closed */
  #start(options: DownloadOptions): Download {
    if (this.#closed) throw new VortexError("Closed", "the downloader is closed");
    const download = new Download(options, this.#source, this.#settings, this.#shared);
    this.#downloads.add(download);
    const forget = (): void => {
      this.#downloads.delete(download);
    };
    download.done.then(forget, forget);
    return download;
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

/** Returns the promise of a report with the methods of the download. */
function handleOf(report: Promise<TaskReport>, download: StartedDownload): TaskDownload {
  return Object.assign(report, {
    store: download.store,
    progress: () => download.progress(),
    pause: () => download.pause(),
    resume: () => download.resume(),
  });
}

/** Stands for a download whose options are invalid, or whose downloader is closed. */
const NEVER_STARTED: StartedDownload = {
  store: unopenedStore(),
  progress: () => ({
    bytes: 0,
    totalBytes: undefined,
    pieces: 0,
    totalPieces: undefined,
    resumedBytes: 0,
    rate: 0,
    timeLeft: undefined,
    paused: false,
    patienceLeft: undefined,
    parents: [],
  }),
  pause() {},
  resume() {},
  end() {},
};

/** Creates a store that never has a task. */
function unopenedStore(): TaskStore {
  const store = new TaskStore("");
  store.fail(
    new VortexError("NotFound", "store of the download: expected a started download, got none"),
  );
  return store;
}

/**
 * Reads a stream to its end and returns all its bytes. Rejects with `InvalidArgument` if the stream
 * is locked.
 */
async function readAll(
  content: ReadableStream<Uint8Array<ArrayBuffer>>,
): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  if (content.locked)
    throw new VortexError(
      "InvalidArgument",
      "content of the task: expected one reader, got a second one; call bytes() once, and without another reader",
    );
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
