import type { ProtocolEvent } from "../src/client/auto/downloader.ts";
import type { Clock } from "../src/runtime.ts";
import type { TaskEvent, TaskProgress, TaskReport } from "../src/task/task.ts";

/** Tells the user how a download goes. */
export interface Reporter {
  /** Milliseconds between two words on progress. Undefined: none are wanted. */
  readonly interval: number | undefined;
  progress(progress: TaskProgress): void;
  event(event: TaskEvent): void;
  /** A protocol was chosen for a peer. */
  protocol(event: ProtocolEvent): void;
  /** All is there and right, and has its name. Rejects with `StorageFailed` when that cannot be reported. */
  done(report: TaskReport): Promise<void>;
  /** The download failed: makes room for the message about it, which `program.ts` prints. */
  failed(): void;
}

/** Has a reporter tell of progress at its interval. Returns what ends that. */
export function reportProgress(
  reporter: Reporter,
  progress: () => TaskProgress,
  clock: Clock,
): () => void {
  const { interval } = reporter;
  if (interval === undefined) return () => {};
  const tell = (): void => {
    timer = clock.setTimer(tell, interval);
    reporter.progress(progress());
  };
  let timer = clock.setTimer(tell, interval);
  return () => timer.cancel();
}
