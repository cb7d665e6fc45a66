/**
 * Sets options of UDP sockets through `bun:ffi`, since `node:quic` does not expose these options.
 * Works only with Bun on Linux. A failure leaves the system's default in place.
 */
import process from "node:process";

/** Constants from the C headers <asm-generic/socket.h>, <linux/in.h> and <linux/in6.h>. */
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SOCK_DGRAM = 2;
const IPPROTO_IP = 0;
const IP_RECVERR = 11;
const IPPROTO_IPV6 = 41;
const IPV6_RECVERR = 25;
/** Size in bytes of the largest socket address (`sockaddr_storage`). */
const ADDRESS_BYTES = 128;

/** Functions of the C library that this file calls. */
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

/** Reads and sets options of this process's sockets by file descriptor, through the C library. */
export class SocketOptions {
  readonly #libc: Libc;

  private constructor(libc: Libc) {
    this.#libc = libc;
  }

  /**
   * Loads the C library. Resolves to undefined on platforms other than Linux and on runtimes other
   * than Bun.
   */
  static async load(): Promise<SocketOptions | undefined> {
    loading ??= loadLibc();
    const libc = await loading;
    return libc && new SocketOptions(libc);
  }

  /**
   * Returns the file descriptor that the kernel will assign next, which is the lowest free number.
   */
  nextDescriptor(): number {
    const fd = this.#libc.dup(0);
    if (fd >= 0) this.#libc.close(fd);
    return fd;
  }

  /** Returns true if the file descriptor `fd` is a UDP socket that is bound to `port`. */
  isUdp(fd: number, port: number): boolean {
    const address = new Uint8Array(ADDRESS_BYTES);
    if (this.#libc.getsockname(fd, address, Uint32Array.of(ADDRESS_BYTES)) !== 0) return false;
    // The port follows the address family, in network byte order.
    const bound = (address[2] ?? 0) * 256 + (address[3] ?? 0);
    return bound === port && this.#get(fd, SOL_SOCKET, SO_TYPE) === SOCK_DGRAM;
  }

  /**
   * Makes the kernel discard ICMP errors for the socket `fd`. Otherwise an ICMP error from one
   * client makes the next send fail, whichever client that send is for. After the failure, Bun
   * sends nothing for a second.
   */
  ignoreNetworkErrors(fd: number): void {
    this.#set(fd, IPPROTO_IP, IP_RECVERR, 0);
    this.#set(fd, IPPROTO_IPV6, IPV6_RECVERR, 0);
  }

  /**
   * Returns true if the kernel reports ICMP errors for the socket `fd`, see
   * {@link ignoreNetworkErrors}.
   */
  reportsNetworkErrors(fd: number): boolean {
    return (
      this.#get(fd, IPPROTO_IP, IP_RECVERR) === 1 || this.#get(fd, IPPROTO_IPV6, IPV6_RECVERR) === 1
    );
  }

  /**
   * Sets the sizes of the kernel's receive and send buffers for the socket `fd`, to `bytes` each.
   * The kernel may grant less.
   */
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

/**
 * Imports `bun:ffi`. The module name is a parameter: with a literal, bundlers and other runtimes
 * would fail on the missing module.
 */
function importFfi(specifier = "bun:ffi"): Promise<{
  dlopen(library: string, symbols: object): { readonly symbols: Libc };
}> {
  return import(specifier);
}

/**
 * Loads the C library through `bun:ffi`. Resolves to undefined on platforms other than Linux and on
 * runtimes other than Bun.
 */
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
