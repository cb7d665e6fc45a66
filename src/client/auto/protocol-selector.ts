import type { Clock } from "../../runtime.ts";
import type { Protocol } from "../../transport/protocol.ts";

/** Bytes over each of two protocols before their rates are compared. */
const COMPARABLE = 8 * 1024 * 1024;
/** Milliseconds of activity, likewise. */
const MIN_ACTIVITY_MS = 20;
/** A protocol is clearly slower when it makes less than this part of another one's rate. */
const SLOWER = 0.5;
/** Peers that are remembered. */
const MAX_PEERS = 4096;

/** What was decided for a peer. */
export interface SelectedProtocol {
  readonly protocol: Protocol;
  readonly reason: string;
}

/** What passed over one protocol to one peer. Requests that run together count once in time, so the rate is that of all. */
interface Traffic {
  bytes: number;
  /** Milliseconds in which at least one request was under way, before `since`. */
  active: number;
  running: number;
  since: number;
}

interface Known {
  verdict: SelectedProtocol;
  readonly expiresAt: number;
  /** Protocols that have an address, in the order in which they are tried. */
  readonly candidates: readonly Protocol[];
  readonly traffic: Map<Protocol, Traffic>;
  /** The protocol that takes requests for a while, to be compared. */
  trial: Protocol | undefined;
  tried: boolean;
}

/** A request that passes, for {@link ProtocolSelector.begin}. */
export interface MeasuredRequest {
  /** It is over; `bytes` of content passed. Once. */
  end(bytes: number): void;
}

/**
 * Which protocol works best with each peer, as seen until it expires. Rates are measured with the requests that there are:
 * once over `COMPARABLE` bytes went over the protocol in use, as many go over the other one of QUIC and TCP, once a term. The
 * end of the term forgets what was measured, so a network that has changed is noticed.
 */
export class ProtocolSelector {
  readonly #clock: Clock;
  readonly #expiry: number;
  readonly #onChange: (peer: string, verdict: SelectedProtocol) => void;
  /** The longest unused first. */
  readonly #peers = new Map<string, Known>();

  /**
   * @param expiry milliseconds for which a verdict stands
   * @param onChange told when measured rates have changed one
   */
  constructor(
    clock: Clock,
    expiry: number,
    onChange: (peer: string, verdict: SelectedProtocol) => void,
  ) {
    this.#clock = clock;
    this.#expiry = expiry;
    this.#onChange = onChange;
  }

  /** Peers that are remembered now. */
  get size(): number {
    return this.#peers.size;
  }

  /** What a request to the peer is to go over, as far as that is known. */
  of(peer: string): SelectedProtocol | undefined {
    const known = this.#peers.get(peer);
    if (known === undefined) return undefined;
    this.#peers.delete(peer);
    if (known.expiresAt <= this.#clock.now()) return undefined;
    this.#peers.set(peer, known);
    const { trial, verdict } = known;
    return trial === undefined
      ? verdict
      : { protocol: trial, reason: `compared with ${verdict.protocol}` };
  }

  /** Remembers what was found. */
  remember(peer: string, verdict: SelectedProtocol, candidates: readonly Protocol[]): void {
    this.#peers.delete(peer);
    this.#peers.set(peer, {
      verdict,
      expiresAt: this.#clock.now() + this.#expiry,
      candidates,
      traffic: new Map(),
      trial: undefined,
      tried: false,
    });
    const [oldest] = this.#peers.keys();
    if (this.#peers.size > MAX_PEERS && oldest !== undefined) this.#peers.delete(oldest);
  }

  /** A protocol has failed with a peer. Whether another verdict stands, since only a trial has failed. */
  failed(peer: string, protocol: Protocol): boolean {
    const known = this.#peers.get(peer);
    if (known === undefined) return false;
    if (known.verdict.protocol === protocol) {
      this.#peers.delete(peer);
      return false;
    }
    if (known.trial === protocol) known.trial = undefined;
    return true;
  }

  /** A request begins. */
  begin(peer: string, protocol: Protocol): MeasuredRequest {
    const known = this.#peers.get(peer);
    if (known === undefined) return { end: () => {} };
    const traffic = known.traffic.get(protocol) ?? { bytes: 0, active: 0, running: 0, since: 0 };
    known.traffic.set(protocol, traffic);
    if (traffic.running++ === 0) traffic.since = this.#clock.now();
    return {
      end: (bytes) => {
        const now = this.#clock.now();
        traffic.bytes += bytes;
        traffic.active += now - traffic.since;
        traffic.since = now;
        traffic.running--;
        // Not when another verdict has taken the place of this one meanwhile.
        if (this.#peers.get(peer) === known) this.#revise(peer, known);
      },
    };
  }

  #revise(peer: string, known: Known): void {
    const { verdict, traffic, trial, tried, candidates } = known;
    const current = rateOf(traffic.get(verdict.protocol));
    if (current === undefined) return;
    if (trial === undefined) {
      if (tried) return;
      known.tried = true;
      known.trial = candidates.find((one) => one !== verdict.protocol && one !== "grpc");
      return;
    }
    const other = rateOf(traffic.get(trial));
    if (other === undefined) return;
    known.trial = undefined;
    if (current >= SLOWER * other) return;
    const reason = `${verdict.protocol} made ${megabytes(current)}, ${trial} ${megabytes(other)}`;
    known.verdict = { protocol: trial, reason };
    this.#onChange(peer, known.verdict);
  }
}

/** Bytes a millisecond, once there is enough to tell. */
function rateOf(traffic: Traffic | undefined): number | undefined {
  if (traffic === undefined || traffic.bytes < COMPARABLE || traffic.active < MIN_ACTIVITY_MS)
    return undefined;
  return traffic.bytes / traffic.active;
}

function megabytes(rate: number): string {
  return `${(rate / 1000).toFixed(1)} MB/s`;
}
