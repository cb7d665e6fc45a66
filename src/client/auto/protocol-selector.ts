import type { Clock } from "../../runtime.ts";
import type { Protocol } from "../../transport/protocol.ts";

/**
 * Number of content bytes to receive over each of two protocols before their transfer rates are
 * compared.
 */
const MIN_COMPARED_BYTES = 8 * 1024 * 1024;
/**
 * Time in ms with at least one request in progress over each of two protocols, before their
 * transfer rates are compared.
 */
const MIN_COMPARED_MS = 20;
/**
 * Ratio of transfer rates: the selected protocol is replaced if its rate is below this share of the
 * other protocol's rate.
 */
const MIN_RATE_RATIO = 0.5;
/**
 * Maximum number of peers with a selected protocol. Beyond it, the least recently used is deleted.
 */
const MAX_PEERS = 4096;

/** Protocol selected for a peer. */
export interface SelectedProtocol {
  readonly protocol: Protocol;
  /** Reason for the selection, as one line of text. */
  readonly reason: string;
}

/**
 * Bytes and time of all transfers from one peer over one protocol, to compute the rate. Time during
 * which several requests overlap counts once, so the rate is that of all requests together.
 */
interface Traffic {
  /** Number of bytes of content that successful requests received. */
  bytes: number;
  /** Time in ms, up to `since`, in which at least one request was in progress. */
  activeMs: number;
  /** Number of requests in progress. */
  running: number;
  /** Time up to which `activeMs` has been counted, in ms of the clock. */
  since: number;
}

/** Selected protocol of one peer, and the measurements that may change it. */
interface PeerRecord {
  selected: SelectedProtocol;
  /** Time at which this record expires, in ms of the clock. */
  readonly expiresAt: number;
  /** Protocols that the peer has an address for and that may be used, in order of preference. */
  readonly candidates: readonly Protocol[];
  readonly traffic: Map<Protocol, Traffic>;
  /**
   * Protocol to which new requests go while its transfer rate is measured, to compare it with the
   * selected protocol. Undefined outside of such a comparison.
   */
  trial: Protocol | undefined;
  /**
   * True once a comparison of the selected protocol with another one has started. There is one
   * comparison per record.
   */
  compared: boolean;
}

/** Request whose transfer is measured, see {@link ProtocolSelector.measure}. */
export interface MeasuredRequest {
  /**
   * Ends the measurement of a request that received `bytes` bytes of content. Idempotent: only the
   * first call counts.
   */
  end(bytes: number): void;
}

/**
 * Stores the selected protocol of each peer until it expires, and may replace it by a faster one.
 *
 * Transfer rates are measured on regular requests. After {@link MIN_COMPARED_BYTES} over the
 * selected protocol, new requests use another one, QUIC or TCP, until the rates can be compared.
 * This happens once per lifetime of a selection. When a selection expires, its measurements are
 * deleted too, because the network may have changed.
 */
export class ProtocolSelector {
  readonly #clock: Clock;
  readonly #expiry: number;
  readonly #onChange: (peer: string, selected: SelectedProtocol) => void;
  /** Selection and measurements by peer key, the least recently used first. */
  readonly #peers = new Map<string, PeerRecord>();

  /**
   * @param expiry lifetime of a selected protocol in ms
   * @param onChange called when measured transfer rates have changed the protocol selected for
   * `peer`
   */
  constructor(
    clock: Clock,
    expiry: number,
    onChange: (peer: string, selected: SelectedProtocol) => void,
  ) {
    this.#clock = clock;
    this.#expiry = expiry;
    this.#onChange = onChange;
  }

  /**
   * Number of peers with a selected protocol. An expired selection counts until its next lookup.
   */
  get size(): number {
    return this.#peers.size;
  }

  /** Returns the protocol for the next request to the peer, or undefined if none is selected. */
  get(peer: string): SelectedProtocol | undefined {
    const record = this.#peers.get(peer);
    if (record === undefined) return undefined;
    this.#peers.delete(peer);
    if (record.expiresAt <= this.#clock.now()) return undefined;
    this.#peers.set(peer, record);
    const { trial, selected } = record;
    return trial === undefined
      ? selected
      : { protocol: trial, reason: `compared with ${selected.protocol}` };
  }

  /**
   * Selects a protocol for the peer, until its lifetime ends.
   *
   * @param candidates protocols that may be used with the peer, in order of preference
   */
  select(peer: string, selected: SelectedProtocol, candidates: readonly Protocol[]): void {
    this.#peers.delete(peer);
    this.#peers.set(peer, {
      selected,
      expiresAt: this.#clock.now() + this.#expiry,
      candidates,
      traffic: new Map(),
      trial: undefined,
      compared: false,
    });
    const [oldest] = this.#peers.keys();
    if (this.#peers.size > MAX_PEERS && oldest !== undefined) this.#peers.delete(oldest);
  }

  /**
   * Handles the failure of `protocol` with the peer. If it is the selected protocol, deletes the
   * selection. If it is only being compared with the selected protocol, ends the comparison.
   *
   * @returns true if the peer still has a selected protocol
   */
  reportFailure(peer: string, protocol: Protocol): boolean {
    const record = this.#peers.get(peer);
    if (record === undefined) return false;
    if (record.selected.protocol === protocol) {
      this.#peers.delete(peer);
      return false;
    }
    if (record.trial === protocol) record.trial = undefined;
    return true;
  }

  /**
   * Starts to measure the transfer of a request. Measures nothing if no protocol is selected for
   * the peer.
   */
  measure(peer: string, protocol: Protocol): MeasuredRequest {
    const record = this.#peers.get(peer);
    if (record === undefined) return { end: () => {} };
    const traffic = record.traffic.get(protocol) ?? {
      bytes: 0,
      activeMs: 0,
      running: 0,
      since: 0,
    };
    record.traffic.set(protocol, traffic);
    if (traffic.running++ === 0) traffic.since = this.#clock.now();
    let ended = false;
    return {
      end: (bytes) => {
        if (ended) return;
        ended = true;
        const now = this.#clock.now();
        traffic.bytes += bytes;
        traffic.activeMs += now - traffic.since;
        traffic.since = now;
        traffic.running--;
        // A newer record may have replaced this one while the request ran.
        if (this.#peers.get(peer) === record) this.#compareRates(peer, record);
      },
    };
  }

  /**
   * Compares the transfer rates of the selected protocol and another one, once per selection. First
   * sends new requests over the other protocol. When both rates are known, replaces the selected
   * protocol if its rate is below {@link MIN_RATE_RATIO} of the other rate.
   */
  #compareRates(peer: string, record: PeerRecord): void {
    const { selected, traffic, trial, compared, candidates } = record;
    const selectedRate = rateOf(traffic.get(selected.protocol));
    if (selectedRate === undefined) return;
    if (trial === undefined) {
      if (compared) return;
      record.compared = true;
      record.trial = candidates.find((one) => one !== selected.protocol && one !== "grpc");
      return;
    }
    const trialRate = rateOf(traffic.get(trial));
    if (trialRate === undefined) return;
    record.trial = undefined;
    if (selectedRate >= MIN_RATE_RATIO * trialRate) return;
    const reason = `${selected.protocol} made ${megabytes(selectedRate)}, ${trial} ${megabytes(trialRate)}`;
    record.selected = { protocol: trial, reason };
    this.#onChange(peer, record.selected);
  }
}

/**
 * Returns the transfer rate in bytes/ms, or undefined if too little was transferred for a
 * comparison.
 */
function rateOf(traffic: Traffic | undefined): number | undefined {
  if (
    traffic === undefined ||
    traffic.bytes < MIN_COMPARED_BYTES ||
    traffic.activeMs < MIN_COMPARED_MS
  )
    return undefined;
  return traffic.bytes / traffic.activeMs;
}

/** Formats a transfer rate, given in bytes/ms, as MB/s. */
function megabytes(rate: number): string {
  return `${(rate / 1000).toFixed(1)} MB/s`;
}
