import type { Clock } from "../../runtime.ts";
import type { Protocol } from "../../transport/protocol.ts";

/** Minimum bytes over each of two protocols before their rates are compared. */
const MIN_COMPARED_BYTES = 8 * 1024 * 1024;
/** Minimum time with a request in progress over each of two protocols before the comparison. */
const MIN_COMPARED_MS = 20;
/** A protocol is replaced if its rate is below this share of the other one's rate. */
const MIN_RATE_RATIO = 0.5;
/** Maximum number of peers with a selection. */
const MAX_PEERS = 4096;

/** Protocol selected for a peer. */
export interface SelectedProtocol {
  readonly protocol: Protocol;
  /** Reason for the selection, one line for people. */
  readonly reason: string;
}

/**
 * Transfer of one peer over one protocol. Time with several requests in progress counts once, so
 * the rate is that of all requests together.
 */
interface Traffic {
  /** Bytes of content of the completed requests. */
  bytes: number;
  /** Time with at least one request in progress, up to `since`, in ms. */
  activeMs: number;
  /** Requests in progress. */
  running: number;
  /** End of the time in `activeMs`, in ms of the clock. */
  since: number;
}

/** Selection for one peer, and the measurements that may change it. */
interface PeerRecord {
  selected: SelectedProtocol;
  /** Expiry of the record, in ms of the clock. */
  readonly expiresAt: number;
  /** Usable protocols with an address, in order of preference. */
  readonly candidates: readonly Protocol[];
  readonly traffic: Map<Protocol, Traffic>;
  /** Protocol that takes the requests during a comparison; undefined outside one. */
  trial: Protocol | undefined;
  /** True once a comparison has started: there is one per record. */
  compared: boolean;
}

/** Request under measurement, see {@link ProtocolSelector.measure}. */
export interface MeasuredRequest {
  /** Ends the measurement after `bytes` of content. Idempotent: only the first call counts. */
  end(bytes: number): void;
}

/**
 * Keeps the selected protocol of each peer until it expires.
 *
 * Rates are measured on regular requests. After {@link MIN_COMPARED_BYTES} over the selected
 * protocol, the same amount goes over the other one of QUIC and TCP, once per lifetime of the
 * selection. Expiry drops the measurements too, so changes of the network are noticed.
 */
export class ProtocolSelector {
  readonly #clock: Clock;
  readonly #expiry: number;
  readonly #onChange: (peer: string, selected: SelectedProtocol) => void;
  /** Records by peer key, the least recently used first. */
  readonly #peers = new Map<string, PeerRecord>();

  /**
   * @param expiry lifetime of a selection in ms
   * @param onChange called when measured rates have changed a selection
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

  /** Number of peers with a selection, including expired ones that were not looked up since. */
  get size(): number {
    return this.#peers.size;
  }

  /** Returns the protocol for the next request to the peer; undefined if none is selected. */
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

  /** Selects a protocol for the peer and starts its lifetime. */
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
   * Drops the selection if `protocol` is the selected one; ends the comparison if it is on trial.
   * Returns true if a selection remains.
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

  /** Starts to measure a request. Without a selection for the peer, nothing is measured. */
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

  /** Starts a comparison when it is due; ends it when both rates are known. */
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

/** Returns the rate in bytes/ms; undefined while there is too little traffic for a comparison. */
function rateOf(traffic: Traffic | undefined): number | undefined {
  if (
    traffic === undefined ||
    traffic.bytes < MIN_COMPARED_BYTES ||
    traffic.activeMs < MIN_COMPARED_MS
  )
    return undefined;
  return traffic.bytes / traffic.activeMs;
}

/** Formats a rate in bytes/ms as MB/s. */
function megabytes(rate: number): string {
  return `${(rate / 1000).toFixed(1)} MB/s`;
}
