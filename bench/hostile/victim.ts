/** Monitoring of a process under attack, server or client, from inside. */
import process from "node:process";
import { Counters, type Gauges } from "../soak/gauges.ts";

/** Interval between two samples of the memory, in ms. */
const SAMPLE_INTERVAL_MS = 20;

/** State of a process under attack at its end. */
export interface Ending {
  readonly gauges: Gauges;
  /** Events that must not happen: unhandled rejections and internal failures. */
  readonly unexpected: readonly string[];
}

/** Monitors the process in which it is created. */
export class ProcessMonitor {
  readonly counters: Counters = new Counters();
  readonly #unexpected: string[] = [];
  #sampling: ReturnType<typeof setInterval> | undefined;
  #maxMemory = 0;

  constructor() {
    for (const event of ["unhandledRejection", "uncaughtException"] as const) {
      process.on(event, (error: unknown) => {
        this.report(`${event}: ${error instanceof Error ? error.stack : error}`);
      });
    }
  }

  /** Records an event that must not happen. */
  report(event: string): void {
    if (this.#unexpected.length < 20) this.#unexpected.push(event);
  }

  /** Starts to sample the memory. */
  begin(): void {
    this.#maxMemory = process.memoryUsage.rss();
    this.#sampling = setInterval(() => {
      this.#maxMemory = Math.max(this.#maxMemory, process.memoryUsage.rss());
    }, SAMPLE_INTERVAL_MS);
  }

  /** Returns the maximum resident memory since `begin`, in bytes. */
  end(): number {
    clearInterval(this.#sampling);
    return Math.max(this.#maxMemory, process.memoryUsage.rss());
  }

  /** Waits, after everything is closed, until the remaining resources are released. */
  async ending(start: Gauges | undefined): Promise<Ending> {
    return { gauges: await this.counters.settled(start), unexpected: this.#unexpected };
  }
}
