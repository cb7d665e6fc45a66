import { readFile } from "node:fs/promises";
import {
  availableParallelism,
  cpus,
  freemem,
  networkInterfaces,
  platform,
  release,
  totalmem,
  type,
} from "node:os";
import process from "node:process";
import type { Clock } from "../../src/runtime.ts";
import type { HostFigures, HostProbe } from "../../src/server/grpc/host-probe.ts";
import { isGranted } from "./permission.ts";

/** Readings that a rate is the difference of. */
interface Counters {
  /** Time of the reading, in ms. */
  readonly at: number;
  /** Time that all cores together were busy, in ms. */
  readonly busy: number | undefined;
  /** Time that all cores together have existed, in ms. */
  readonly total: number | undefined;
  /** CPU time of this process, in ms. */
  readonly process: number | undefined;
  readonly received: number | undefined;
  readonly sent: number | undefined;
}

/**
 * Measures the load of this host with `node:os` and, on Linux, the files of the network interface
 * in `/sys`. Never asks for a permission: without it, the figure is absent.
 */
export class OsHostProbe implements HostProbe {
  readonly #clock: Clock;
  /** Latest counters of each network interface, by IP address. */
  readonly #last = new Map<string, Counters>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  async read(ip: string): Promise<HostFigures> {
    const name = interfaceOf(ip);
    const [speed, received, sent] = await Promise.all(
      ["speed", "statistics/rx_bytes", "statistics/tx_bytes"].map((file) =>
        interfaceFigure(name, file),
      ),
    );
    const counters: Counters = {
      at: this.#clock.now(),
      ...coreTimes(),
      process: attempt(processTime),
      received,
      sent,
    };
    const before = this.#last.get(ip);
    // Peers choose among the addresses of this host, which may be many.
    if (this.#last.size >= MAX_INTERFACES) this.#last.clear();
    this.#last.set(ip, counters);
    return {
      ...systemFigures(),
      ...loadBetween(before, counters),
      // The kernel reports -1 for an interface without a speed.
      linkSpeed: speed !== undefined && speed > 0 ? speed * 1_000_000 : undefined,
    };
  }
}

/** Number of addresses whose counters are kept. */
const MAX_INTERFACES = 16;

/** Returns the figures that need no earlier reading. */
function systemFigures(): HostFigures {
  return {
    os: attempt(type)?.toLowerCase(),
    platform: attempt(platform),
    kernelVersion: permitted("osRelease", release),
    cores: attempt(availableParallelism),
    memoryTotal: permitted("systemMemoryInfo", totalmem),
    memoryAvailable: permitted("systemMemoryInfo", availableMemory),
    processMemory: attempt(() => process.memoryUsage().rss),
  };
}

/** Returns the CPU time of this process, in ms. */
function processTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Returns the memory that programs can still allocate, in bytes. */
function availableMemory(): number {
  // Since Node 20.13 and 22. It respects the limit of a container, and Bun and Deno may lack it.
  return process.availableMemory?.() ?? freemem();
}

/** Returns the loads and rates of the time between two readings. */
function loadBetween(before: Counters | undefined, now: Counters): HostFigures {
  const seconds = before === undefined ? 0 : (now.at - before.at) / 1000;
  if (before === undefined || seconds <= 0) return {};
  const busy = difference(before.busy, now.busy);
  const total = difference(before.total, now.total);
  const ownTime = difference(before.process, now.process);
  const cores = attempt(availableParallelism) ?? 1;
  const rate = (bytes: number | undefined): number | undefined =>
    bytes === undefined ? undefined : (bytes * 8) / seconds;
  return {
    cpuPercent: total === undefined || total === 0 ? undefined : (100 * (busy ?? 0)) / total,
    processCpuPercent: ownTime === undefined ? undefined : ownTime / (10 * seconds * cores),
    receiveRate: rate(difference(before.received, now.received)),
    sendRate: rate(difference(before.sent, now.sent)),
  };
}

/** Returns the increase of a counter; undefined if it is unknown or was reset. */
function difference(before: number | undefined, now: number | undefined): number | undefined {
  return before === undefined || now === undefined || now < before ? undefined : now - before;
}

function coreTimes(): Pick<Counters, "busy" | "total"> {
  const all = permitted("cpus", cpus);
  if (all === undefined || all.length === 0) return { busy: undefined, total: undefined };
  let busy = 0;
  let idle = 0;
  for (const { times } of all) {
    idle += times.idle;
    busy += times.user + times.nice + times.sys + times.irq;
  }
  return { busy, total: busy + idle };
}

/** Returns the name of the network interface with an IP address; undefined if there is none. */
function interfaceOf(ip: string): string | undefined {
  const interfaces = permitted("networkInterfaces", networkInterfaces) ?? {};
  return Object.keys(interfaces).find((name) =>
    interfaces[name]?.some(({ address }) => address === ip),
  );
}

/** Reads a number from the files of a network interface. Undefined outside Linux. */
async function interfaceFigure(
  name: string | undefined,
  file: string,
): Promise<number | undefined> {
  // The name is a part of the path.
  if (name === undefined || !/^[\w.@:-]+$/.test(name) || platform() !== "linux") return undefined;
  const path = `/sys/class/net/${name}/${file}`;
  if (!isGranted({ name: "read", path })) return undefined;
  const text = await readFile(path, "utf8").catch(() => "");
  const figure = Number.parseInt(text, 10);
  return Number.isSafeInteger(figure) ? figure : undefined;
}

/** Calls `read` if Deno permits it without a prompt. Undefined if it does not, or `read` throws. */
function permitted<T>(kind: string, read: () => T): T | undefined {
  return attempt(() => (isGranted({ name: "sys", kind }) ? read() : undefined));
}

/** Calls `read`. Undefined if it throws, for example because the runtime lacks the function. */
function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
