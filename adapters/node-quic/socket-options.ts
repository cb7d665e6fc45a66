/**
 * Sets UDP socket options that `node:quic` does not expose, through `bun:ffi`. Linux only, best
 * effort.
 */
import process from "node:process";

/** Constants of <asm-generic/socket.h>, <linux/in.h> and <linux/in6.h>. */
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SOCK_DGRAM = 2;
const IPPROTO_IP = 0;
const IP_RECVERR = 11;
const IPPROTO_IPV6 = 41;
const IPV6_RECVERR = 25;
/** Size of the largest socket address in bytes. */
const ADDRESS_BYTES = 128;

/** Used functions of the C library. */
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

/** Reads and sets options of this process's sockets, by file descriptor. */
export class SocketOptions {
  readonly #libc: Libc;

  private constructor(libc: Libc) {
    this.#libc = libc;
  }

  /** Returns undefined on platforms without access to the C library. */
  static async load(): Promise<SocketOptions | undefined> {
    loading ??= loadLibc();
    const libc = await loading;
    return libc && new SocketOptions(libc);
  }

  /** Returns the descriptor that the kernel assigns next: the lowest free one. */
  nextDescriptor(): number {
    const fd = this.#libc.dup(0);
    if (fd >= 0) this.#libc.close(fd);
    return fd;
  }

  /** Tests whether a descriptor is a UDP socket bound to `port`. */
  isUdp(fd: number, port: number): boolean {
    const address = new Uint8Array(ADDRESS_BYTES);
    if (this.#libc.getsockname(fd, address, Uint32Array.of(ADDRESS_BYTES)) !== 0) return false;
    // The port follows the address family, in network byte order.
    const bound = (address[2] ?? 0) * 256 + (address[3] ?? 0);
    return bound === port && this.#get(fd, SOL_SOCKET, SO_TYPE) === SOCK_DGRAM;
  }

  /**
   * Makes the kernel discard ICMP errors. Otherwise the error caused by one vanished client fails
   * the next send, to any client, after which the runtime sends nothing for a second.
   */
  ignoreNetworkErrors(fd: number): void {
    this.#set(fd, IPPROTO_IP, IP_RECVERR, 0);
    this.#set(fd, IPPROTO_IPV6, IPV6_RECVERR, 0);
  }

  /** Tests whether the socket reports ICMP errors, see {@link ignoreNetworkErrors}. */
  reportsNetworkErrors(fd: number): boolean {
    return (
      this.#get(fd, IPPROTO_IP, IP_RECVERR) === 1 || this.#get(fd, IPPROTO_IPV6, IPV6_RECVERR) === 1
    );
  }

  /** Sets the receive and send buffers, in bytes. The kernel may grant less. */
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

/** Imports `bun:ffi`. Not a literal, since other runtimes and bundlers do not know the module. */
function importFfi(specifier = "bun:ffi"): Promise<{
  dlopen(library: string, symbols: object): { readonly symbols: Libc };
}> {
  return import(specifier);
}

/** Loads the C library; undefined on other platforms than Linux, and on other runtimes than Bun. */
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
      // Tries the other C library.
    }
  }
  return undefined;
}
