/**
 * Long, thin, lossy link on one machine: two network namespaces with the program `link.c` between
 * them. Linux, as root.
 */
import { execFileSync, spawn } from "node:child_process";
import { accessSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Failure } from "../processes.ts";

/** Properties of a link, in each direction. */
export interface LinkOptions {
  /** Latency of a packet, in ms. */
  readonly delay: number;
  /** Fraction of lost packets, 0 to 1. */
  readonly loss: number;
  /** Rate in bits/s. */
  readonly rate: number;
  /** Queue length in bytes; packets beyond it are dropped. */
  readonly queue: number;
  /**
   * True to give UDP and TCP the rate and the queue separately. Default false: all packets share
   * them.
   */
  readonly perProtocol?: boolean;
}

/** One end of a link. */
export interface LinkEnd {
  readonly address: string;
  /** Returns the command that runs `command` at this end. */
  run(command: readonly string[]): readonly string[];
}

/** Link that exists until it is closed. */
export interface Link {
  readonly near: LinkEnd;
  readonly far: LinkEnd;
  /** Sets the congestion control of TCP at both ends. */
  setCongestionControl(name: string): void;
  close(): void;
}

/** From the range reserved for benchmarks (RFC 2544, appendix C.2.2). */
const ADDRESSES = { near: "198.18.0.1", far: "198.18.0.2" } as const;

/** Name of the device in `link.c`. */
const DEVICE = "long";

/** Lists the TCP congestion controls of the kernel. */
export function congestionControls(): readonly string[] {
  return readFileSync("/proc/sys/net/ipv4/tcp_available_congestion_control", "utf8")
    .trim()
    .split(" ");
}

/**
 * Prepares this machine, and returns a function that creates links.
 *
 * @throws {@link Failure} that names the missing tool or right
 */
export function prepareLinks(): (options: LinkOptions) => Promise<Link> {
  if (process.platform !== "linux" || process.getuid?.() !== 0)
    throw new Failure("the long link needs Linux and root");
  try {
    accessSync("/dev/net/tun");
  } catch {
    throw new Failure("the long link needs /dev/net/tun");
  }
  const directory = mkdtempSync(join(tmpdir(), "vortex-peer-bench-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  const program = join(directory, "link");
  run(
    "the long link needs gcc",
    "gcc",
    "-O2",
    "-o",
    program,
    fileURLToPath(new URL("link.c", import.meta.url)),
  );
  run("the long link needs iproute2", "ip", "-V");
  return (options) => openLink(program, options);
}

async function openLink(program: string, options: LinkOptions): Promise<Link> {
  const names = { near: `vortex-bench-${process.pid}-a`, far: `vortex-bench-${process.pid}-b` };
  const removals: (() => void)[] = [];
  const close = (): void => {
    for (const remove of removals.splice(0).reverse()) remove();
    process.off("exit", close);
  };
  process.once("exit", close);
  try {
    for (const name of Object.values(names)) {
      run("cannot make a network namespace", "ip", "netns", "add", name);
      removals.push(() => run("cannot remove a network namespace", "ip", "netns", "del", name));
    }
    const { delay, loss, rate, queue, perProtocol = false } = options;
    const figures = [delay * 1000, loss, rate, queue, perProtocol ? 2 : 1].map(String);
    const relay = spawn(program, [names.near, names.far, ...figures], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    relay.stdin.on("error", () => {});
    removals.push(() => relay.kill());
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: relay.stdout }).once("line", () => resolve());
      relay.once("error", reject);
      relay.once("exit", () => reject(new Failure("the link did not come up")));
    });
    for (const side of ["near", "far"] as const) {
      const peer = ADDRESSES[side === "near" ? "far" : "near"];
      const device = ["dev", DEVICE];
      run("cannot set the link up", "ip", "-n", names[side], "link", "set", "lo", "up");
      run(
        "cannot set the link up",
        "ip",
        "-n",
        names[side],
        "addr",
        "add",
        ADDRESSES[side],
        "peer",
        peer,
        ...device,
      );
      run(
        "cannot set the link up",
        "ip",
        "-n",
        names[side],
        "link",
        "set",
        ...device,
        "txqueuelen",
        "5000",
        "up",
      );
    }
  } catch (error) {
    close();
    throw error;
  }
  const end = (side: "near" | "far"): LinkEnd => ({
    address: ADDRESSES[side],
    run: (command) => ["ip", "netns", "exec", names[side], ...command],
  });
  return {
    near: end("near"),
    far: end("far"),
    setCongestionControl(name) {
      for (const side of ["near", "far"] as const) {
        const peer = ADDRESSES[side === "near" ? "far" : "near"];
        const route = [
          "route",
          "replace",
          peer,
          "dev",
          DEVICE,
          "src",
          ADDRESSES[side],
          "congctl",
          name,
        ];
        run(`cannot set ${name}`, "ip", "-n", names[side], ...route);
      }
    },
    close,
  };
}

function run(what: string, program: string, ...args: string[]): void {
  try {
    execFileSync(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  } catch (error) {
    throw new Failure(`${what}: ${error instanceof Error ? error.message : error}`);
  }
}
