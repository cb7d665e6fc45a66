/** What `node:quic` does not let be set of its UDP sockets, set from outside by `bun:ffi`; on Linux, and as far as it goes. */
import process from "node:process";

/** <asm-generic/socket.h>, <linux/in.h>, <linux/in6.h>. */
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SOCK_DGRAM = 2;
const IPPROTO_IP = 0;
const IP_RECVERR = 11;
const IPPROTO_IPV6 = 41;
const IPV6_RECVERR = 25;
/** Bytes of the greatest socket address. */
const ADDRESS_LENGTH = 128;

interface Libc {
  dup(fd: number): number;
  close(fd: number): number;
  getsockname(fd: number, address: Uint8Array, length: Uint32Array): number;
  getsockopt(
    fd: number,
    level: number,
    name: number,
    value: Int32Array,
    length: Uint32Array,
  ): number;
  setsockopt(fd: number, level: number, name: number, value: Int32Array, length: number): number;
}

/** Sockets of this process, by file descriptor. */
export class SocketOptions {
  readonly #libc: Libc;

  private constructor(libc: Libc) {
    this.#libc = libc;
  }

  /** Undefined where there are no such means. */
  static async load(): Promise<SocketOptions | undefined> {
    loading ??= loadLibc();
    const libc = await loading;
    return libc && new SocketOptions(libc);
  }

  /** The file descriptor that the kernel will give next: the least that is free. */
  nextDescriptor(): number {
    const fd = this.#libc.dup(0);
    if (fd >= 0) this.#libc.close(fd);
    return fd;
  }

  /** Whether the descriptor is a UDP socket that is bound to this port. */
  isUdp(fd: number, port: number): boolean {
    const address = new Uint8Array(ADDRESS_LENGTH);
    if (this.#libc.getsockname(fd, address, Uint32Array.of(ADDRESS_LENGTH)) !== 0) return false;
    // The port stands behind the family, in the byte order of the network.
    const bound = (address[2] ?? 0) * 256 + (address[3] ?? 0);
    return bound === port && this.#get(fd, SOL_SOCKET, SO_TYPE) === SOCK_DGRAM;
  }

  /**
   * Has the kernel keep errors of the network to itself. Else the ICMP answer to a datagram for a client that has vanished
   * fails the next send, which is one to any client, and the runtime then sends nothing for a second.
   */
  ignoreNetworkErrors(fd: number): void {
    this.#set(fd, IPPROTO_IP, IP_RECVERR, 0);
    this.#set(fd, IPPROTO_IPV6, IPV6_RECVERR, 0);
  }

  /** Whether errors of the network are told of, see {@link ignoreNetworkErrors}. */
  heedsNetworkErrors(fd: number): boolean {
    return (
      this.#get(fd, IPPROTO_IP, IP_RECVERR) === 1 || this.#get(fd, IPPROTO_IPV6, IPV6_RECVERR) === 1
    );
  }

  /** Bytes for what comes and what goes; the kernel may grant less. */
  setBuffers(fd: number, bytes: number): void {
    this.#set(fd, SOL_SOCKET, SO_RCVBUF, bytes);
    this.#set(fd, SOL_SOCKET, SO_SNDBUF, bytes);
  }

  #get(fd: number, level: number, name: number): number | undefined {
    const value = new Int32Array(1);
    const failed = this.#libc.getsockopt(fd, level, name, value, Uint32Array.of(4)) !== 0;
    return failed ? undefined : value[0];
  }

  #set(fd: number, level: number, name: number, value: number): void {
    this.#libc.setsockopt(fd, level, name, Int32Array.of(value), 4);
  }
}

let loading: Promise<Libc | undefined> | undefined;

/** Not a literal: other runtimes and bundlers know no such module. */
function importFfi(specifier = "bun:ffi"): Promise<{
  dlopen(library: string, symbols: object): { readonly symbols: Libc };
}> {
  return import(specifier);
}

async function loadLibc(): Promise<Libc | undefined> {
  if (process.platform !== "linux" || !("bun" in process.versions)) return undefined;
  const ffi = await importFfi();
  const symbols = {
    dup: { args: ["i32"], returns: "i32" },
    close: { args: ["i32"], returns: "i32" },
    getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" },
    getsockopt: { args: ["i32", "i32", "i32", "ptr", "ptr"], returns: "i32" },
    setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
  };
  // glibc, musl
  for (const library of [
    "libc.so.6",
    `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`,
  ]) {
    try {
      return ffi.dlopen(library, symbols).symbols;
    } catch {
      // Another one, or none.
    }
  }
  return undefined;
}
