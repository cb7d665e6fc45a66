/** Resources that a process holds, counted from inside, on every runtime. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import process from "node:process";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { QuicBinding } from "../../adapters/shared/fallback.ts";
import type { Telemetry } from "../../src/telemetry.ts";
import type { Connection, Transport } from "../../src/transport/transport.ts";

/** Resources held at one moment. */
export interface Gauges {
  /** JavaScript heap after a collection, in bytes. */
  readonly heap: number;
  /** Memory that the heap refers to, in bytes, as far as the runtime reports it. */
  readonly external: number;
  /** Resident memory in bytes, including native memory. */
  readonly resident: number;
  /** Number of open file descriptors; 0 where the system does not report it. */
  readonly descriptors: number;
  /**
   * Number of active event loop resources (process.getActiveResourcesInfo) without timers; 0 where
   * the runtime does not report them.
   */
  readonly handles: number;
  /** Number of timers of globalThis that have neither fired nor been cleared. */
  readonly timers: number;
  /** Number of requests in flight, on either side: one stream each. */
  readonly operations: number;
  /** Number of QUIC connections of both sides. On the dialling side they are entries of a pool. */
  readonly connections: number;
}

/** Gauges that are exact counts, and must return to their start. */
export const counts: readonly Exclude<keyof Gauges, "heap" | "external" | "resident">[] = [
  "descriptors",
  "handles",
  "timers",
  "operations",
  "connections",
];

/**
 * Time in which counts must return to their start, in ms. It is longer than QUIC's idle timeout:
 * Deno keeps the socket of a server that long when its client vanished during the handshake.
 */
const SETTLE_TIMEOUT_MS = 90_000;
/** Interval between two checks, in ms. */
const POLL_INTERVAL_MS = 300;

/**
 * Describes the open descriptors: files by name, sockets by protocol and addresses from
 * `/proc/net`. Empty where the system does not report them.
 */
export function openDescriptors(): readonly string[] {
  const sockets = new Map<string, string>();
  for (const protocol of ["udp", "udp6", "tcp", "tcp6"]) {
    for (const line of textOf(`/proc/net/${protocol}`).split("\n").slice(1)) {
      const [, local = "", remote = "", state = "", , , , , , inode = ""] = line
        .trim()
        .split(/\s+/);
      sockets.set(`socket:[${inode}]`, `${protocol} ${local} ${remote} ${state}`);
    }
  }
  try {
    return readdirSync("/proc/self/fd").map((name) => {
      const link = linkOf(`/proc/self/fd/${name}`);
      return sockets.get(link) ?? link;
    });
  } catch {
    return [];
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "closed";
  }
}

/** Counts resources that are opened and released in this process, from its construction on. */
export class Counters {
  /** Telemetry to pass to downloaders and servers. */
  readonly telemetry: Telemetry;
  readonly #timers = new Set<unknown>();
  #operations = 0;
  #connections = 0;

  constructor() {
    this.telemetry = {
      begin: () => {
        this.#operations++;
        return { end: () => void this.#operations--, run: (work) => work() };
      },
    };
    this.#countTimers();
  }

  /** Wraps a QUIC binding so that its connections are counted. */
  quic(binding: QuicBinding): QuicBinding {
    return async (options) => this.#counted(await binding(options));
  }

  /** Collects garbage, then returns the current gauges. */
  async gauges(): Promise<Gauges> {
    await collect();
    const { heapUsed, external, rss } = process.memoryUsage();
    return {
      heap: heapUsed,
      external,
      resident: rss,
      descriptors: descriptors(),
      handles: handles(),
      timers: this.#timers.size,
      operations: this.#operations,
      connections: this.#connections,
    };
  }

  /**
   * Waits until closed resources are released, then returns the gauges. Returns when the counts
   * equal `start`, or are stable if there is no start, or at the latest after {@link
   * SETTLE_TIMEOUT_MS}.
   */
  async settled(start?: Gauges): Promise<Gauges> {
    const until = performance.now() + SETTLE_TIMEOUT_MS;
    let before = await this.gauges();
    for (;;) {
      await new Promise<void>((resolve) => setTimeout(resolve, POLL_INTERVAL_MS));
      const gauges = await this.gauges();
      const idle = gauges.operations + gauges.connections + gauges.timers === 0;
      const stable = counts.every((name) => gauges[name] === before[name]);
      if (start === undefined ? idle && stable : leftoversOf(start, gauges).length === 0)
        return gauges;
      if (performance.now() > until) return gauges;
      before = gauges;
    }
  }

  #countTimers(): void {
    const timers = this.#timers;
    const { setTimeout, clearTimeout, setInterval, clearInterval } = globalThis;
    Object.assign(globalThis, {
      setTimeout(
        callback: (...args: unknown[]) => void,
        milliseconds?: number,
        ...args: unknown[]
      ) {
        const fire = (): void => {
          timers.delete(handle);
          callback(...args);
        };
        const handle = setTimeout(fire, milliseconds);
        timers.add(handle);
        return handle;
      },
      setInterval(
        callback: (...args: unknown[]) => void,
        milliseconds?: number,
        ...args: unknown[]
      ) {
        const handle = setInterval(callback, milliseconds, ...args);
        timers.add(handle);
        return handle;
      },
      clearTimeout(handle: ReturnType<typeof setTimeout> | undefined) {
        timers.delete(handle);
        clearTimeout(handle);
      },
      clearInterval(handle: ReturnType<typeof setInterval> | undefined) {
        timers.delete(handle);
        clearInterval(handle);
      },
    });
  }

  #counted(transport: Transport): Transport {
    const watch = (connection: Connection): Connection => {
      this.#connections++;
      void connection.closed.then(() => this.#connections--);
      return connection;
    };
    return {
      protocol: transport.protocol,
      close: async () => transport.close?.(),
      dial: async (...args) => watch(await transport.dial(...args)),
      async listen(...args) {
        const listener = await transport.listen(...args);
        return {
          get address() {
            return listener.address;
          },
          get fingerprint() {
            return listener.fingerprint;
          },
          setIdentity: (identity) => listener.setIdentity(identity),
          async *accept() {
            for await (const connection of listener.accept()) yield watch(connection);
          },
          close: (options) => listener.close(options),
        };
      },
    };
  }
}

/** Lists the gauges that exceed their start after everything was closed, one line each. */
export function leftoversOf(start: Gauges, end: Gauges): readonly string[] {
  return counts
    .filter((name) => end[name] > start[name])
    .map((name) => `${name}: ${start[name]} before, ${end[name]} after`);
}

/** Runs a full collection twice. Between them, a turn of the event loop runs finalizers. */
async function collect(): Promise<void> {
  const run = collector();
  for (let pass = 0; pass < 2; pass++) {
    run();
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

let found: (() => void) | undefined;

function collector(): () => void {
  found ??= findCollector();
  return found;
}

function findCollector(): () => void {
  const { Bun, gc } = globalThis as { Bun?: { gc(synchronous: boolean): void }; gc?: () => void };
  if (Bun !== undefined) return () => Bun.gc(true);
  if (gc !== undefined) return gc;
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
}

function descriptors(): number {
  try {
    // Minus the descriptor that reads the folder.
    return readdirSync("/proc/self/fd").length - 1;
  } catch {
    return 0;
  }
}

function handles(): number {
  const kinds = process.getActiveResourcesInfo?.() ?? [];
  return kinds.filter((kind) => kind !== "Timeout" && kind !== "Immediate").length;
}
