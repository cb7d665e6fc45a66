/**
 * Simulates two hosts on one link with two network namespaces and a pair of virtual devices.
 * Requires Linux and root.
 */
import { execFileSync, spawnSync } from "node:child_process";
import process from "node:process";

/** Reason why this process cannot create network namespaces; undefined if it can. */
export const noNamespaces: string | undefined = reason();

/** One of the two simulated hosts. */
export interface Host {
  /** Link-local IPv6 address of this host, without a zone. */
  readonly linkLocal: string;
  /** Name of this host's network device, which is the zone of its addresses. */
  readonly device: string;
  /** Start of a command line that runs a program on this host. */
  readonly prefix: readonly string[];
}

/** Two simulated hosts on one link, which exist until `close` is called. */
export class LinkedHosts {
  readonly near: Host;
  readonly far: Host;
  readonly #names: readonly string[];

  private constructor(near: Host, far: Host, names: readonly string[]) {
    this.near = near;
    this.far = far;
    this.#names = names;
  }

  /** Creates the network namespaces of the two hosts, and the link between them. */
  static make(): LinkedHosts {
    const names = ["a", "b"].map((side) => `vortex-peer-${process.pid}-${side}`);
    const hosts = names.map((name, at) => ({
      linkLocal: `fe80::${at + 1}`,
      device: `link${at}`,
      prefix: ["ip", "netns", "exec", name],
    }));
    const [near, far] = hosts;
    if (near === undefined || far === undefined) throw new TypeError("there are two hosts");
    const linked = new LinkedHosts(near, far, names);
    try {
      for (const name of names) ip("netns", "add", name);
      const [nearName = "", farName = ""] = names;
      ip(
        "-n",
        nearName,
        "link",
        "add",
        near.device,
        "type",
        "veth",
        "peer",
        "name",
        far.device,
        "netns",
        farName,
      );
      for (const [at, { linkLocal, device }] of hosts.entries()) {
        const name = names[at] ?? "";
        ip("-n", name, "link", "set", "lo", "up");
        // No second address by the kernel, which would become the source address of a running
        // connection.
        ip("-n", name, "link", "set", device, "addrgenmode", "none");
        // No duplicate address detection, which takes a second.
        ip("-n", name, "addr", "add", `${linkLocal}/64`, "dev", device, "nodad");
        ip("-n", name, "link", "set", device, "up");
      }
    } catch (error) {
      linked.close();
      throw error;
    }
    return linked;
  }

  /** Deletes the network namespaces and their devices. */
  close(): void {
    for (const name of this.#names) spawnSync("ip", ["netns", "del", name]);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function ip(...args: string[]): void {
  execFileSync("ip", args, { stdio: ["ignore", "ignore", "pipe"] });
}

function reason(): string | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0)
    return "a network namespace requires Linux and root";
  const name = `vortex-peer-${process.pid}-try`;
  if (spawnSync("ip", ["netns", "add", name]).status !== 0)
    return "network namespaces are not available";
  spawnSync("ip", ["netns", "del", name]);
  return undefined;
}
