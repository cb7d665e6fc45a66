/** What a process under attack has in common, be it a server or a client: it is watched from inside. */
import process from "node:process";
import { Counters, type Gauges } from "../soak/gauges.ts";

/** Milliseconds between two looks at the memory. */
const LOOK = 20;

/** How a process under attack stood at its end. */
export interface Ending {
  readonly gauges: Gauges;
  /** Of what must not be: rejections that nobody handled, failures inside. */
  readonly surprises: readonly string[];
}

/** Watches the process that it is made in. */
export class Watch {
  readonly counters: Counters = new Counters();
  readonly #surprises: string[] = [];
  #looking: ReturnType<typeof setInterval> | undefined;
  #greatest = 0;

  constructor() {
    for (const event of ["unhandledRejection", "uncaughtException"] as const) {
      process.on(event, (error: unknown) => {
        this.note(`${event}: ${error instanceof Error ? error.stack : error}`);
      });
    }
  }

  /** Something that must not be. */
  note(surprise: string): void {
    if (this.#surprises.length < 20) this.#surprises.push(surprise);
  }

  /** Begins to look at the memory. */
  begin(): void {
    this.#greatest = process.memoryUsage.rss();
    this.#looking = setInterval(() => {
      this.#greatest = Math.max(this.#greatest, process.memoryUsage.rss());
    }, LOOK);
  }

  /** The greatest resident memory since it began, in bytes. */
  end(): number {
    clearInterval(this.#looking);
    return Math.max(this.#greatest, process.memoryUsage.rss());
  }

  /** Once all is closed: waits for what is left to go. */
  async ending(start: Gauges | undefined): Promise<Ending> {
    return { gauges: await this.counters.settled(start), surprises: this.#surprises };
  }
}
