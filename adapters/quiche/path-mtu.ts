import type { Clock } from "../../src/runtime.ts";

/**
 * UDP payload in bytes that nearly every network path carries. QUIC requires at least 1,200 (RFC
 * 9000, section 14).
 */
export const SAFE_UDP_PAYLOAD_BYTES = 1350;
/**
 * Largest UDP payload in bytes that fits an Ethernet frame of 1,500 bytes with the headers of IPv6
 * and UDP.
 */
const ETHERNET_UDP_PAYLOAD_BYTES = 1452;
/**
 * UDP payload in bytes between two programs on one host. The loopback interface carries 16,384
 * bytes on macOS, and more on Linux and Windows.
 */
export const SAME_HOST_UDP_PAYLOAD_BYTES = 16_000;

/** Number of failed probes after which {@link PathMtu} stays at the safe size. */
const MAX_PROBES = 3;
/**
 * Time in ms for which a peer may delay an acknowledgement (RFC 9000, section 18.2), plus a margin.
 */
const ACK_DELAY_MS = 30;
/**
 * Number of consecutive probe timeouts (PTO) without an acknowledged large datagram that indicate a
 * black hole.
 */
const BLACK_HOLE_PTOS = 3;
/**
 * Time in ms between the first datagram received after a black hole and the next probe with a large
 * datagram.
 */
const REPROBE_DELAY_MS = 5000;

/** Values of quiche's connection that {@link PathMtu} evaluates. */
export interface PathMtuStats {
  /** Number of datagrams that loss recovery has declared lost so far. */
  readonly lost: number;
  /** Total size in bytes of the datagrams that loss recovery has declared lost so far. */
  readonly lostBytes: number;
  /** Smoothed round-trip time in ms. */
  readonly rtt: number;
  /** Congestion window in bytes. */
  readonly cwnd: number;
  /**
   * Estimated delivery rate in bytes/s. Each acknowledgement updates it, together with `rtt` and
   * `cwnd`.
   */
  readonly deliveryRate: number;
}

/**
 * Path MTU discovery of one connection (RFC 8899). Each packet costs nearly the same CPU time
 * whatever its size. So large datagrams are faster: on one host by a factor of at least three.
 *
 * A size above {@link SAFE_UDP_PAYLOAD_BYTES} is first probed with one large datagram, which
 * carries data. If it is not lost, more large datagrams follow. Between programs on one host, no
 * probe is needed.
 *
 * A path that silently drops large datagrams is a black hole. Several probe timeouts (PTO) without
 * an acknowledged large datagram indicate one: then the safe size is used. A suspended peer causes
 * the same timeouts, so the large size is probed again later.
 */
export class PathMtu {
  readonly #maxBytes: number;
  #state: "untried" | "probing" | "large" | "safe";
  #probes = 0;
  #probedAt = 0;
  #lostBefore = 0;
  #lossyPtos = 0;
  /**
   * Time in ms, on the connection's clock, of the first datagram received after a black hole.
   * Undefined before that.
   */
  #recoveredSince: number | undefined;
  /**
   * Bytes sent in large datagrams since the last PTO. A datagram is large if it exceeds the safe
   * size.
   */
  #largeBytesSent = 0;
  /** Bytes sent in large datagrams between the last two PTOs. */
  #previousLargeBytes = 0;
  /** Values of quiche's connection at the last PTO. */
  #previousStats: PathMtuStats | undefined;

  /**
   * @param largest maximum UDP payload in bytes that the discovery may choose
   * @param trusted true if the path is known to carry `largest` bytes, so no probe is needed
   */
  constructor(largest: number, trusted: boolean) {
    this.#maxBytes = largest;
    this.#state = largest <= SAFE_UDP_PAYLOAD_BYTES ? "safe" : trusted ? "large" : "untried";
  }

  /** Maximum UDP payload of the next datagram, in bytes. */
  get limit(): number {
    return this.#state === "large" || this.#state === "untried"
      ? this.#maxBytes
      : Math.min(this.#maxBytes, SAFE_UDP_PAYLOAD_BYTES);
  }

  /**
   * Records that a datagram of `length` bytes was sent. The first datagram that is longer than
   * {@link SAFE_UDP_PAYLOAD_BYTES} becomes the probe for the maximum size of the path.
   *
   * @param stats returns the packet counters of the connection; called when the probe starts
   */
  onSent(length: number, clock: Clock, stats: () => PathMtuStats): void {
    if (length <= SAFE_UDP_PAYLOAD_BYTES) return;
    this.#largeBytesSent += length;
    if (this.#state !== "untried") return;
    this.#state = "probing";
    this.#probes++;
    this.#probedAt = clock.now();
    this.#lostBefore = stats().lost;
  }

  /**
   * Records that datagrams were received at time `now`, in ms. Evaluates a probe in progress.
   *
   * The first call after a black hole shows that the peer is reachable. It starts the delay
   * {@link REPROBE_DELAY_MS} before the next probe.
   */
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

  /**
   * Records a probe timeout (PTO) of loss recovery. Switches to the safe size after
   * {@link BLACK_HOLE_PTOS} without an acknowledged large datagram.
   */
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
   * Returns true if no large datagram was acknowledged between two PTOs. That is certain if nothing
   * was acknowledged. It is likely if at least as many bytes were lost as large datagrams had
   * carried.
   *
   * @param before values at the first PTO
   * @param now values at the second PTO
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

/**
 * Returns the maximum UDP payload in bytes for the option `udpPayloadSize: "auto"`.
 *
 * @param sameHost true if the peer runs on this host, where larger datagrams are possible
 */
export function defaultUdpPayload(sameHost: boolean): number {
  return sameHost ? SAME_HOST_UDP_PAYLOAD_BYTES : ETHERNET_UDP_PAYLOAD_BYTES;
}
