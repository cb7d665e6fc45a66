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
/** Timers in a row, with nothing received between them, after which large datagrams are held to be lost on the way. */
const SILENT_TIMERS = 3;

/** What a path's state is read from; a part of quiche's connection. */
export interface PathStats {
  /** Datagrams given up as lost so far. */
  readonly lost: number;
  /** Round-trip time in milliseconds. */
  readonly rtt: number;
}

/**
 * How large a connection's datagrams are. What a packet costs hardly depends on its size, so larger ones are faster: on one host
 * by three times and more.
 *
 * A larger size than {@link SAFE_SIZE} is probed first, in the way of RFC 8899: one datagram of that size carries data, and others
 * follow when it was not lost. Between programs of one host there is nothing to find out. Large datagrams that vanish all of a
 * sudden show as silence; then the safe size is taken for good.
 */
export class PathSize {
  readonly #largest: number;
  #state: "untried" | "probing" | "large" | "safe";
  #probes = 0;
  #probedAt = 0;
  #lostBefore = 0;
  #silentTimers = 0;

  constructor(largest: number, trusted: boolean) {
    this.#largest = largest;
    this.#state = largest <= SAFE_SIZE ? "safe" : trusted ? "large" : "untried";
  }

  /** The largest datagram to make now, in bytes. */
  get limit(): number {
    return this.#state === "large" || this.#state === "untried" ? this.#largest : Math.min(this.#largest, SAFE_SIZE);
  }

  /** Whether sizes may still change with what is sent and received. */
  get watching(): boolean {
    return this.#state === "untried" || this.#state === "probing";
  }

  /** A datagram of `length` bytes went out. */
  onSent(length: number, now: number, stats: () => PathStats): void {
    if (this.#state !== "untried" || length <= SAFE_SIZE) return;
    this.#state = "probing";
    this.#probes++;
    this.#probedAt = now;
    this.#lostBefore = stats().lost;
  }

  /** Datagrams came in. */
  onReceived(now: number, stats: () => PathStats): void {
    this.#silentTimers = 0;
    if (this.#state !== "probing") return;
    const { lost, rtt } = stats();
    if (lost > this.#lostBefore) this.#state = this.#probes < PROBES ? "untried" : "safe";
    else if (now - this.#probedAt > 1.5 * rtt + ACK_DELAY) this.#state = "large";
  }

  /** A timer of loss recovery ran out. */
  onTimer(): void {
    this.#silentTimers++;
    if (this.#silentTimers >= SILENT_TIMERS && this.#state !== "safe") this.#state = "safe";
  }
}

/** The largest datagram to try, for the setting `auto`. */
export function automaticSize(sameHost: boolean): number {
  return sameHost ? SAME_HOST_SIZE : ETHERNET_SIZE;
}
