import type { ProtocolEvent } from "../src/client/auto/downloader.ts";
import type { Clock } from "../src/runtime.ts";
import type { TaskEvent, TaskProgress, TaskReport } from "../src/task/task.ts";

/** Prints the progress, events and result of a download. */
export interface Reporter {
  /** Interval between calls of `progress`, in ms. Undefined disables them. */
  readonly interval: number | undefined;
  /** Reports the current progress. */
  progress(progress: TaskProgress): void;
  /** Reports an event of the download. */
  event(event: TaskEvent): void;
  /** Reports the protocol chosen for a peer. */
  protocol(event: ProtocolEvent): void;
  /** Reports a warning of one line, which begins with `vortex-peer: `. */
  warning(line: string): void;
  /** Reports success, after the content is complete at its target. Rejects with `StorageFailed`. */
  done(report: TaskReport): Promise<void>;
  /** Clears the progress output after a failure. `program.ts` prints the error itself. */
  failed(): void;
}

/** Calls `reporter.progress` at the reporter's interval. Returns a function that stops it. */
export function reportProgress(
  reporter: Reporter,
  progress: () => TaskProgress,
  clock: Clock,
): () => void {
  const { interval } = reporter;
  if (interval === undefined) return () => {};
  const report = (): void => {
    timer = clock.setTimer(report, interval);
    reporter.progress(progress());
  };
  let timer = clock.setTimer(report, interval);
  return () => timer.cancel();
}
