import type { Clock } from "../../src/runtime.ts";

/** A UDP payload that almost every path carries; QUIC's floor is 1,200 (RFC 9000, section 14). */
export const SAFE_SIZE = 1350;
/** What an Ethernet frame of 1,500 bytes has room for, behind the headers of IPv6 and UDP. */
const ETHERNET_SIZE = 1452;
/** What a datagram between two programs of one host may have: macOS's loopback takes 16,384 bytes, Linux's and Windows's more. */
export const SAME_HOST_SIZE = 16_000;

/** Probes before a path is held to be too narrow. */
const PROBES = 3;
/** Milliseconds by which a peer may put an acknowledgement off (RFC 9000, section 18.2), and some. */
const ACK_DELAY = 30;
/** Timers of loss recovery in a row, with no large datagram acknowledged between them, after which large ones are held to be swallowed. */
const SILENT_TIMERS = 3;
/** Milliseconds after silence in which safe datagrams must have passed before a large one is tried again. */
const REST = 5000;

/** What a path's state is read from; a part of quiche's connection. */
export interface PathMtuStats {
  /** Datagrams given up as lost so far. */
  readonly lost: number;
  /** Bytes of these. */
  readonly lostBytes: number;
  /** Round-trip time in milliseconds. */
  readonly rtt: number;
  /** Bytes. */
  readonly cwnd: number;
  /** Bytes a second; estimated anew with each acknowledgement, and so are the two before it. */
  readonly deliveryRate: number;
}

/**
 * How large a connection's datagrams are. What a packet costs hardly depends on its size, so larger ones are faster: on one host
 * by three times and more.
 *
 * A larger size than {@link SAFE_SIZE} is probed first, in the way of RFC 8899: one datagram of that size carries data, and others
 * follow when it was not lost. Between programs of one host there is nothing to find out. Large datagrams that vanish all of a
 * sudden show as timers of loss recovery, whatever small ones still pass; then the safe size is taken, and the large one is probed
 * again later, since a peer that was held up looks the same.
 */
export class PathMtu {
  readonly #largest: number;
  #state: "untried" | "probing" | "large" | "safe";
  #probes = 0;
  #probedAt = 0;
  #lostBefore = 0;
  #silentTimers = 0;
  /** Since when datagrams have passed again after silence. */
  #passingSince: number | undefined;
  /** Bytes in large datagrams since the last timer, and between that and the one before. */
  #largeSent = 0;
  #largeBefore = 0;
  #statsBefore: PathMtuStats | undefined;

  constructor(largest: number, trusted: boolean) {
    this.#largest = largest;
    this.#state = largest <= SAFE_SIZE ? "safe" : trusted ? "large" : "untried";
  }

  /** The largest datagram to make now, in bytes. */
  get limit(): number {
    return this.#state === "large" || this.#state === "untried"
      ? this.#largest
      : Math.min(this.#largest, SAFE_SIZE);
  }

  /** A datagram of `length` bytes went out. */
  onSent(length: number, clock: Clock, stats: () => PathMtuStats): void {
    if (length <= SAFE_SIZE) return;
    this.#largeSent += length;
    if (this.#state !== "untried") return;
    this.#state = "probing";
    this.#probes++;
    this.#probedAt = clock.now();
    this.#lostBefore = stats().lost;
  }

  /** Datagrams came in. */
  onReceived(now: number, stats: () => PathMtuStats): void {
    if (this.#state === "safe") {
      if (this.#silentTimers === 0 || this.#probes >= PROBES) return;
      this.#passingSince ??= now;
      if (now - this.#passingSince < REST) return;
      this.#silentTimers = 0;
      this.#state = "untried";
    } else if (this.#state === "probing") {
      const { lost, rtt } = stats();
      if (lost > this.#lostBefore) this.#state = this.#probes < PROBES ? "untried" : "safe";
      else if (now - this.#probedAt > 1.5 * rtt + ACK_DELAY) this.#state = "large";
    }
  }

  /** A timer of loss recovery ran out. */
  onTimer(stats: () => PathMtuStats): void {
    if (this.#state === "safe") {
      this.#passingSince = undefined;
      return;
    }
    const now = stats();
    const before = this.#statsBefore;
    this.#silentTimers =
      before === undefined || !this.#swallowed(before, now) ? 1 : this.#silentTimers + 1;
    this.#statsBefore = now;
    this.#largeBefore = this.#largeSent;
    this.#largeSent = 0;
    if (this.#silentTimers < SILENT_TIMERS) return;
    this.#state = "safe";
    this.#passingSince = undefined;
  }

  /**
   * Whether nothing shows that a large datagram arrived between two timers: nothing was acknowledged at all, or small ones were,
   * and of the large ones sent before, as much was lost as there was.
   */
  #swallowed(before: PathMtuStats, now: PathMtuStats): boolean {
    const { rtt, cwnd, deliveryRate } = now;
    if (rtt === before.rtt && cwnd === before.cwnd && deliveryRate === before.deliveryRate)
      return true;
    return this.#largeBefore > 0 && now.lostBytes - before.lostBytes >= this.#largeBefore;
  }
}

/** The largest datagram to try, for the setting `auto`. */
export function automaticSize(sameHost: boolean): number {
  return sameHost ? SAME_HOST_SIZE : ETHERNET_SIZE;
}
