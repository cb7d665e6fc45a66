/** What a process holds, counted from inside, on every runtime. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import process from "node:process";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { QuicBinding } from "../../adapters/shared/fallback.ts";
import type { Telemetry } from "../../src/telemetry.ts";
import type { Connection, Transport } from "../../src/transport/transport.ts";

/** What is held at one moment. */
export interface Gauges {
  /** Bytes of the JavaScript heap, after a collection. */
  readonly heap: number;
  /** Bytes of memory that the heap refers to, as far as the runtime tells. */
  readonly external: number;
  /** Bytes that are resident, native memory with them. */
  readonly resident: number;
  /** Open file descriptors; 0 where the system does not tell. */
  readonly descriptors: number;
  /** What the event loop waits for (process.getActiveResourcesInfo), without timers; 0 where the runtime does not tell. */
  readonly handles: number;
  /** Timers of globalThis that have neither fired nor been cleared. */
  readonly timers: number;
  /** Requests that are made or answered: a stream each. */
  readonly operations: number;
  /** QUIC connections, of both sides; those of the dialling side are entries of a pool. */
  readonly connections: number;
}

/** What can be counted exactly, and has to return to its start. */
export const counts: readonly Exclude<keyof Gauges, "heap" | "external" | "resident">[] = [
  "descriptors",
  "handles",
  "timers",
  "operations",
  "connections",
];

/**
 * Milliseconds in which counts have to return to their start: more than QUIC's idle timeout, for which Deno keeps the socket of a
 * server whose client has vanished in its handshake.
 */
const SETTLING = 90_000;
/** Milliseconds between two looks. */
const PAUSE = 300;

/** What the open descriptors are: files by name, sockets by protocol and addresses as `/proc/net` has them. None where the system does not tell. */
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

/** Counts what begins and ends in this process, from when it is made. */
export class Counters {
  /** For downloaders and servers. */
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

  /** A QUIC binding whose connections count. */
  quic(binding: QuicBinding): QuicBinding {
    return async (options) => this.#counted(await binding(options));
  }

  /** Collects garbage, and looks. */
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
   * What is held once everything that was closed is gone: when the counts are as at the start or, without one, do not change any
   * more; or else when their time is over.
   */
  async settled(start?: Gauges): Promise<Gauges> {
    const until = performance.now() + SETTLING;
    let before = await this.gauges();
    for (;;) {
      await new Promise<void>((resolve) => setTimeout(resolve, PAUSE));
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

/** What exceeds its start after all was closed, in words; empty when nothing does. */
export function leftoversOf(start: Gauges, end: Gauges): readonly string[] {
  return counts
    .filter((name) => end[name] > start[name])
    .map((name) => `${name}: ${start[name]} before, ${end[name]} after`);
}

/** Runs a full collection, twice, with a turn of the event loop between, in which finalizers run. */
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
    // The one that reads the folder is among them.
    return readdirSync("/proc/self/fd").length - 1;
  } catch {
    return 0;
  }
}

function handles(): number {
  const kinds = process.getActiveResourcesInfo?.() ?? [];
  return kinds.filter((kind) => kind !== "Timeout" && kind !== "Immediate").length;
}
