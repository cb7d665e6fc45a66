import type { Clock } from "../../src/runtime.ts";

/**
 * UDP payload in bytes that nearly every path carries. QUIC's minimum is 1,200 (RFC 9000, section
 * 14).
 */
export const SAFE_UDP_PAYLOAD_BYTES = 1350;
/** UDP payload in bytes that fits an Ethernet frame of 1,500 bytes with IPv6 and UDP headers. */
const ETHERNET_UDP_PAYLOAD_BYTES = 1452;
/**
 * UDP payload in bytes between programs on one host. The loopback of macOS carries 16,384 bytes,
 * that of Linux and Windows more.
 */
export const SAME_HOST_UDP_PAYLOAD_BYTES = 16_000;

/** Failed probes after which the path is taken to be too narrow. */
const MAX_PROBES = 3;
/** Time a peer may delay an acknowledgement (RFC 9000, section 18.2) plus a margin, in ms. */
const ACK_DELAY_MS = 30;
/** Consecutive PTOs without an acknowledged large datagram that indicate a black hole. */
const BLACK_HOLE_PTOS = 3;
/**
 * Time in ms that safe datagrams must pass after a black hole before a large one is probed again.
 */
const REPROBE_DELAY_MS = 5000;

/** Counters and estimates of quiche's connection that the MTU search reads. */
export interface PathMtuStats {
  /** Datagrams declared lost so far. */
  readonly lost: number;
  /** Bytes of all datagrams declared lost so far. */
  readonly lostBytes: number;
  /** Round-trip time in ms. */
  readonly rtt: number;
  /** Congestion window in bytes. */
  readonly cwnd: number;
  /** Delivery rate in bytes/s. Each acknowledgement updates it, together with `rtt` and `cwnd`. */
  readonly deliveryRate: number;
}

/**
 * Path MTU discovery of a connection (RFC 8899). CPU cost is per packet, almost whatever its size,
 * so larger datagrams are faster: on one host by a factor of three and more.
 *
 * A size above {@link SAFE_UDP_PAYLOAD_BYTES} is probed first: one datagram of that size carries
 * data, and more follow unless it is lost. On one host no probe is needed. A black hole shows as
 * PTOs while large datagrams go unacknowledged, whether small ones pass or not. The safe size is
 * used then. The large one is probed again later, since a suspended peer looks the same.
 */
export class PathMtu {
  readonly #maxBytes: number;
  #state: "untried" | "probing" | "large" | "safe";
  #probes = 0;
  #probedAt = 0;
  #lostBefore = 0;
  #lossyPtos = 0;
  /** Time since when datagrams have been received again after a black hole, in ms. */
  #recoveredSince: number | undefined;
  /** Bytes sent in large datagrams since the last PTO. */
  #largeBytesSent = 0;
  /** Bytes sent in large datagrams between the last two PTOs. */
  #previousLargeBytes = 0;
  /** Counters at the last PTO. */
  #previousStats: PathMtuStats | undefined;

  /**
   * @param largest UDP payload to search up to, in bytes
   * @param trusted the path is known to carry it, so no probe is needed
   */
  constructor(largest: number, trusted: boolean) {
    this.#maxBytes = largest;
    this.#state = largest <= SAFE_UDP_PAYLOAD_BYTES ? "safe" : trusted ? "large" : "untried";
  }

  /** Maximum size of the next datagram, in bytes. */
  get limit(): number {
    return this.#state === "large" || this.#state === "untried"
      ? this.#maxBytes
      : Math.min(this.#maxBytes, SAFE_UDP_PAYLOAD_BYTES);
  }

  /** Records a sent datagram of `length` bytes. The first large one becomes the probe. */
  onSent(length: number, clock: Clock, stats: () => PathMtuStats): void {
    if (length <= SAFE_UDP_PAYLOAD_BYTES) return;
    this.#largeBytesSent += length;
    if (this.#state !== "untried") return;
    this.#state = "probing";
    this.#probes++;
    this.#probedAt = clock.now();
    this.#lostBefore = stats().lost;
  }

  /** Records received datagrams: evaluates a probe, or schedules a new one after a black hole. */
  onReceived(now: number, stats: () => PathMtuStats): void {
    if (this.#state === "safe") {
      if (this.#lossyPtos === 0 || this.#probes >= MAX_PROBES) return;
      this.#recoveredSince ??= now;
      if (now - this.#recoveredSince < REPROBE_DELAY_MS) return;
      this.#lossyPtos = 0;
      this.#state = "untried";
    } else if (this.#state === "probing") {
      const { lost, rtt } = stats();
      if (lost > this.#lostBefore) this.#state = this.#probes < MAX_PROBES ? "untried" : "safe";
      else if (now - this.#probedAt > 1.5 * rtt + ACK_DELAY_MS) this.#state = "large";
    }
  }

  /** Records a timeout of loss recovery (PTO) and detects black holes. */
  onPto(stats: () => PathMtuStats): void {
    if (this.#state === "safe") {
      this.#recoveredSince = undefined;
      return;
    }
    const now = stats();
    const before = this.#previousStats;
    this.#lossyPtos =
      before === undefined || !this.#largeAllLost(before, now) ? 1 : this.#lossyPtos + 1;
    this.#previousStats = now;
    this.#previousLargeBytes = this.#largeBytesSent;
    this.#largeBytesSent = 0;
    if (this.#lossyPtos < BLACK_HOLE_PTOS) return;
    this.#state = "safe";
    this.#recoveredSince = undefined;
  }

  /**
   * Returns true when no large datagram was seen to arrive between two PTOs. Either nothing was
   * acknowledged, or at least as many bytes were lost as large datagrams had carried before.
   */
  #largeAllLost(before: PathMtuStats, now: PathMtuStats): boolean {
    const { rtt, cwnd, deliveryRate } = now;
    if (rtt === before.rtt && cwnd === before.cwnd && deliveryRate === before.deliveryRate)
      return true;
    return (
      this.#previousLargeBytes > 0 && now.lostBytes - before.lostBytes >= this.#previousLargeBytes
    );
  }
}

/** Returns the UDP payload in bytes to search up to for `udpPayloadSize: "auto"`. */
export function defaultUdpPayload(sameHost: boolean): number {
  return sameHost ? SAME_HOST_UDP_PAYLOAD_BYTES : ETHERNET_UDP_PAYLOAD_BYTES;
}
