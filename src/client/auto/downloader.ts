import { type Checks, integer, oneOf } from "../../arguments.ts";
import { abortedError, untilAborted, VortexError } from "../../errors.ts";
import { notify } from "../../notify.ts";
import type { Piece } from "../../piece.ts";
import { formatAddress, parseAddress } from "../../transport/address.ts";
import {
  addressesOf,
  nameOf,
  type PeerAddress,
  type PeerAddresses,
  type ProtocolPorts,
} from "../../transport/peer-address.ts";
import type { ExcludedProtocol, Protocol } from "../../transport/protocol.ts";
import type { InternalCallOptions } from "../call/pooled-downloader.ts";
import {
  type DownloaderSettings,
  MAX_TIMEOUT_MS,
  type PieceDownloader,
  type PieceDownloadOptions,
  type PieceRequest,
} from "../downloader.ts";
import { isAnswer, type PeerTrust, raceProtocols } from "./protocol-race.ts";
import { ProtocolSelector, type SelectedProtocol } from "./protocol-selector.ts";

/** Selection of a protocol for a peer, as passed to `onProtocol`. */
export interface ProtocolEvent {
  /** Address of the peer, `host:port`, where it serves the selected protocol. */
  readonly addr: string;
  /**
   * Selected protocol. Further requests to the peer use it until the selection ends. With `hybrid`,
   * each protocol of a task is reported, at its first answer.
   */
  readonly protocol: Protocol;
  /**
   * Reason for the selection, as one line of text. Names the protocols that may not be used with
   * the peer, and why.
   */
  readonly reason: string;
}

/** Options for the selection of a protocol per peer (`auto` and `hybrid`), all optional. */
export interface AutoOptions {
  /**
   * Peers that may be dialled over QUIC. Default `known`.
   *
   * - `known`: peers of this library. If `tls.fingerprints` or `tls.ca` is set, these are all
   *   peers. Otherwise these are the parents that announce their QUIC port to SyncPieces in a
   *   response with the header `vortex-peer: 1`, on the host that responds.
   * - `any`: every peer.
   *
   * A stock dfdaemon of version 1.1.0 to 1.4.8 exits when a QUIC handshake fails, is aborted or
   * loses a race. Handshakes from Node and Bun always fail there. Use `any` only in networks
   * without such peers.
   *
   * With protocol `quic`, the option applies to the ports that parents announce. An address that
   * the caller names is always dialled.
   */
  readonly quicPeers?: "known" | "any" | undefined;
  /**
   * Head start of a protocol, in ms, 1 to 60,000. If the protocol has not responded by then, the
   * next protocol is tried in parallel. Shorter for peers with a known low latency. Default 250.
   */
  readonly delay?: number | undefined;
  /**
   * Lifetime of the selected protocol of a peer, in ms, from 1 ms to 30 days. Afterwards the
   * protocols are tried again. Default 600,000 (10 minutes).
   */
  readonly expiry?: number | undefined;
}

/** Downloader that fetches pieces over a single protocol. */
export interface ProtocolDownloader extends PieceDownloader {
  /**
   * Requests a piece, see {@link PieceDownloader.downloadPiece}. Calls `options.onTransferred` when
   * the call ends.
   */
  downloadPiece(request: PieceRequest & InternalCallOptions): Promise<Piece>;
  /** Closes the idle connections to a peer. Absent for downloaders without a connection pool. */
  closeIdle?(addr: string): void;
}

/** Configuration of an {@link AutoDownloader}: protocols, ports, trust and timing. */
export interface AutoContext {
  /** Protocols that may be used, in order of preference. */
  readonly candidates: readonly Protocol[];
  /** Protocols that must not be used, whatever the peer, each with the reason. */
  readonly excluded: readonly ExcludedProtocol[];
  /**
   * Reason why QUIC is not used at an address that {@link AutoDownloader.permitQuic} has not
   * permitted. Undefined if QUIC may be used with every peer.
   */
  readonly quicRestriction: ExcludedProtocol | undefined;
  /** Creates the downloader for one protocol. Called at the first use of the protocol. */
  readonly downloader: (protocol: Protocol, settings: DownloaderSettings) => ProtocolDownloader;
  /**
   * Usual port of each protocol, for peers that are given as a single `host:port`, see
   * {@link addressesOf}.
   */
  readonly ports: ProtocolPorts;
  /** Effect of a rejected TLS certificate of a peer, see {@link PeerTrust}. */
  readonly trust: PeerTrust;
  /** Head start of a protocol in ms, see {@link AutoOptions.delay}. */
  readonly delay: number;
  /** Lifetime of a selected protocol in ms, see {@link AutoOptions.expiry}. */
  readonly expiry: number;
  /**
   * Called with each selection of a protocol for a peer, see {@link ProtocolEvent}. Exceptions of
   * the callback are ignored.
   */
  readonly onProtocol: ((event: ProtocolEvent) => void) | undefined;
}

/**
 * Head start of a protocol, as a multiple of the peer's lowest latency from request to response.
 * Allows for a handshake, a request and jitter.
 */
const DELAY_PER_LATENCY = 4;
/** Minimum head start of a protocol before the next protocol is tried, in ms. */
const MIN_DELAY_MS = 30;
/**
 * Maximum number of peers whose latency or protocols are recorded. Beyond it, the oldest record is
 * deleted.
 */
const MAX_PEERS = 4096;
/** Maximum number of times that one request changes to another protocol after a failure. */
const MAX_PROTOCOL_CHANGES = 3;

/**
 * Fetches pieces, over the best protocol for each peer.
 *
 * The first request to a peer tries the protocols in turn, see {@link raceProtocols}. Concurrent
 * requests to the same peer wait until a protocol is selected. The selection ends when it expires,
 * when the protocol fails, or when another protocol proves much faster, see
 * {@link ProtocolSelector}.
 */
export class AutoDownloader {
  readonly #context: AutoContext;
  readonly #settings: DownloaderSettings;
  readonly #selector: ProtocolSelector;

  readonly #downloaders = new Map<Protocol, ProtocolDownloader>();
  /**
   * Ongoing selections of a protocol, by {@link Peer.key}. Each promise resolves when its selection
   * ends, and never rejects. Its value is the error that all waiting requests must fail with, or
   * undefined if they may continue.
   */
  readonly #negotiations = new Map<string, Promise<VortexError | undefined>>();
  /** Lowest latency of each peer, by {@link Peer.key}, in order of insertion. */
  readonly #latencies = new Map<string, Latency>();
  /**
   * Protocols that {@link downloadOver} has reported to `onProtocol`, by {@link Peer.key}, in order
   * of insertion.
   */
  readonly #reported = new Map<string, Set<Protocol>>();
  /**
   * Addresses at which QUIC may be used although {@link AutoContext.quicRestriction} is set, each
   * with the end of the permission in ms of the clock. In order of insertion.
   */
  readonly #permitted = new Map<string, number>();
  #closed = false;

  constructor(context: AutoContext, settings: DownloaderSettings) {
    this.#context = context;
    this.#settings = settings;
    this.#selector = new ProtocolSelector(
      settings.runtime.clock,
      context.expiry,
      (peer, selected) => this.#reportChoice(peer, selected),
    );
  }

  /**
   * Requests a piece, see {@link PieceDownloader.downloadPiece}. If no protocol works, rejects with
   * an error whose message lists the error of each protocol. Its `cause` is an `AggregateError` of
   * these errors.
   */
  async downloadPiece(request: PieceDownloadOptions): Promise<Piece> {
    const { signal } = request;
    const peer = this.#peerOf(request.addr);
    for (let changes = 0; ; ) {
      if (signal?.aborted) throw abortedError(signal, `a request to ${peer.name}`);
      const selected = this.#selector.get(peer.key);
      // The permission to use QUIC may have ended since the selection.
      if (selected !== undefined && peer.candidates.includes(selected.protocol)) {
        try {
          return await this.#request(peer, selected, request);
        } catch (error) {
          const failure = VortexError.from(error, "Internal");
          if (!mayWorkElsewhere(failure, this.#context.trust) || ++changes > MAX_PROTOCOL_CHANGES)
            throw failure;
          this.#selector.reportFailure(peer.key, selected.protocol);
          continue;
        }
      }
      const negotiation = this.#negotiations.get(peer.key);
      if (negotiation === undefined) return this.#negotiate(peer, request);
      const failure = await untilAborted(negotiation, signal, `a request to ${peer.name}`);
      if (failure !== undefined) throw failure;
    }
  }

  /**
   * Requests a piece over `protocol`, whichever protocol is selected for the peer. Reports the
   * first answer over each protocol to `onProtocol`. Rejects like {@link
   * PieceDownloader.downloadPiece}.
   */
  async downloadOver(protocol: Protocol, request: PieceDownloadOptions): Promise<Piece> {
    const peer = this.#peerOf(request.addr);
    const [exclusion] = peer.excluded.filter((one) => one.protocol === protocol);
    if (exclusion !== undefined) {
      throw new VortexError(
        "ProtocolNotSupported",
        `protocol for ${peer.name}: expected one in use, got ${protocol}; ${exclusion.reason}`,
        { addr: peer.addresses[protocol] },
      );
    }
    const reasons = ["hybrid uses every protocol that answers", ...exclusionTexts(peer)];
    const selected = { protocol, reason: reasons.join("; ") };
    try {
      const piece = await this.#request(peer, selected, request);
      this.#reportOnce(peer, selected);
      return piece;
    } catch (error) {
      if (error instanceof VortexError && showsProtocol(error, this.#context.trust))
        this.#reportOnce(peer, selected);
      throw error;
    }
  }

  /**
   * Returns the configured protocols that `addr` has an address for, in order of preference. If
   * `addr` is undefined, returns all configured protocols.
   *
   * @param announcing true to include QUIC if {@link permitQuic} may permit it later, because the
   * peer has not announced its QUIC port yet
   * @throws `InvalidArgument` if `addr` is malformed, or contains no address of a protocol that may
   * be used
   */
  protocolsOf(addr: PeerAddress | undefined, announcing: boolean): readonly Protocol[] {
    const { candidates, quicRestriction } = this.#context;
    if (addr === undefined) {
      return announcing || quicRestriction === undefined
        ? candidates
        : candidates.filter((protocol) => protocol !== quicRestriction.protocol);
    }
    const peer = this.#peerOf(addr);
    return announcing
      ? candidates.filter((protocol) => peer.addresses[protocol] !== undefined)
      : peer.candidates;
  }

  /**
   * Returns the protocols that the peer has an address for but that may not be used, each with the
   * reason. If `addr` is undefined, returns every protocol that may not be used.
   */
  excluded(addr: PeerAddress | undefined): readonly ExcludedProtocol[] {
    const { excluded, quicRestriction } = this.#context;
    if (addr !== undefined) return this.#peerOf(addr).excluded;
    return quicRestriction === undefined ? excluded : [quicRestriction, ...excluded];
  }

  /**
   * Permits QUIC at an address where a peer of this library serves it. The permission ends after
   * {@link AutoOptions.expiry}, unless it is renewed here or by an answer over QUIC.
   *
   * @throws `InvalidArgument` if `addr` is malformed
   */
  permitQuic(addr: string): void {
    if (this.#context.quicRestriction === undefined) return;
    const key = formatAddress(parseAddress(addr));
    this.#permitted.delete(key);
    this.#permitted.set(key, this.#settings.runtime.clock.now() + this.#context.expiry);
    const [oldest] = this.#permitted.keys();
    if (this.#permitted.size > MAX_PEERS && oldest !== undefined) this.#permitted.delete(oldest);
  }

  /** Returns true if QUIC may be used at `addr`. */
  #mayUseQuic(addr: string): boolean {
    if (this.#context.quicRestriction === undefined) return true;
    return (this.#permitted.get(addr) ?? 0) > this.#settings.runtime.clock.now();
  }

  /**
   * Returns the addresses of a peer, one per protocol. A `host:port` whose port is the usual port
   * of no protocol is returned unchanged: it is the address for every protocol.
   *
   * @throws `InvalidArgument` if `addr` is malformed, or contains no address of a protocol that may
   * be used
   */
  resolve(addr: PeerAddress): PeerAddress {
    const { addresses } = this.#peerOf(addr);
    return typeof addr === "string" && addresses.quic === addresses.tcp ? addr : addresses;
  }

  /** Closes all connections. Pending requests fail with `Closed`. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#downloaders.values()].map((downloader) => downloader.close()));
  }

  /**
   * Sends a request over the protocols in turn, until the peer responds over one of them. Selects
   * that protocol for further requests to the peer.
   */
  async #negotiate(peer: Peer, request: PieceDownloadOptions): Promise<Piece> {
    let settle: (failure: VortexError | undefined) => void = () => {};
    this.#negotiations.set(
      peer.key,
      new Promise((resolve) => {
        settle = resolve;
      }),
    );
    try {
      const { protocol, reason, answer } = await raceProtocols<Piece>({
        excluded: exclusionTexts(peer),
        candidates: peer.candidates,
        delay: this.#delayFor(peer),
        clock: this.#settings.runtime.clock,
        signal: request.signal,
        addr: peer.name,
        trust: this.#context.trust,
        run: (candidate, signal, why) => {
          const signals =
            request.signal === undefined ? signal : AbortSignal.any([request.signal, signal]);
          return this.#request(
            peer,
            { protocol: candidate, reason: why },
            {
              ...request,
              signal: signals,
            },
          );
        },
        discard: (piece) => piece.cancel(),
        onLost: (candidate) =>
          this.#downloaders.get(candidate)?.closeIdle?.(peer.addresses[candidate] ?? peer.name),
      });
      if ("result" in answer || showsProtocol(answer.error, this.#context.trust)) {
        this.#selector.select(peer.key, { protocol, reason }, peer.candidates);
        this.#reportChoice(peer.key, { protocol, reason });
      }
      this.#endNegotiation(peer, settle, undefined);
      if ("error" in answer) throw answer.error;
      return answer.result;
    } catch (error) {
      const failure = VortexError.from(error, "Internal");
      this.#endNegotiation(
        peer,
        settle,
        failure.kind === "transport" || failure.kind === "timeout" ? failure : undefined,
      );
      throw failure;
    }
  }

  /**
   * Ends the ongoing selection of a protocol for a peer. With `failure`, the requests that wait for
   * the selection fail with this error; without, they continue.
   */
  #endNegotiation(
    { key }: Peer,
    settle: (failure: VortexError | undefined) => void,
    failure: VortexError | undefined,
  ): void {
    this.#negotiations.delete(key);
    settle(failure);
  }

  /**
   * Sends a request over one protocol. Measures the latency of the response and the transfer rate.
   */
  async #request(
    peer: Peer,
    selected: SelectedProtocol,
    request: PieceDownloadOptions,
  ): Promise<Piece> {
    const { protocol, reason } = selected;
    const addr = peer.addresses[protocol];
    if (addr === undefined) {
      throw new VortexError(
        "InvalidArgument",
        `address of ${peer.name}: expected one for ${protocol}, got none`,
      );
    }
    const { clock } = this.#settings.runtime;
    const startedAt = clock.now();
    const downloader = this.#downloader(protocol);
    const measured = this.#selector.measure(peer.key, protocol);
    try {
      const piece = await downloader.downloadPiece({
        ...request,
        addr,
        protocol,
        protocolReason: reason,
        onTransferred: (bytes, error) => {
          measured.end(bytes);
          if (error !== undefined && isPathFailure(error))
            this.#selector.reportFailure(peer.key, protocol);
        },
      });
      this.#recordLatency(peer, clock.now() - startedAt);
      if (protocol === "quic") this.permitQuic(addr);
      return piece;
    } catch (error) {
      // Calls with invalid arguments reject without a call of `onTransferred`.
      measured.end(0);
      throw error;
    }
  }

  #downloader(protocol: Protocol): ProtocolDownloader {
    if (this.#closed) throw new VortexError("Closed", "the downloader is closed");
    const downloader =
      this.#downloaders.get(protocol) ?? this.#context.downloader(protocol, this.#settings);
    this.#downloaders.set(protocol, downloader);
    return downloader;
  }

  #peerOf(addr: PeerAddress): Peer {
    const addresses = addressesOf(addr, this.#context.ports);
    const { quicRestriction } = this.#context;
    const restriction =
      quicRestriction === undefined ||
      addresses.quic === undefined ||
      this.#mayUseQuic(addresses.quic)
        ? undefined
        : quicRestriction;
    const allowed = this.#context.candidates.filter(
      (protocol) => protocol !== restriction?.protocol,
    );
    const candidates = allowed.filter((protocol) => addresses[protocol] !== undefined);
    const [first] = candidates;
    // Errors name an address that is dialled, even if the peer has others.
    const name =
      typeof addr === "string" ? addr : ((first && addresses[first]) ?? nameOf(addresses));
    const excluded = [
      ...(restriction === undefined ? [] : [restriction]),
      ...this.#context.excluded.filter(({ protocol }) => addresses[protocol] !== undefined),
    ];
    if (candidates.length === 0) {
      const reasons = exclusionTexts({ excluded })
        .map((text) => `; ${text}`)
        .join("");
      throw new VortexError(
        "InvalidArgument",
        `address of ${name}: expected one for ${allowed.join(" or ")}, ` + `got none${reasons}`,
      );
    }
    return { addresses, name, candidates, excluded, key: keyOf(addresses) };
  }

  /**
   * Returns the head start of each protocol for this peer, in ms, see {@link AutoOptions.delay}.
   */
  #delayFor({ key }: Peer): number {
    const { delay } = this.#context;
    const latency = this.#latencies.get(key);
    return latency === undefined
      ? delay
      : Math.min(delay, Math.max(MIN_DELAY_MS, DELAY_PER_LATENCY * latency.min));
  }

  /**
   * Records a measured latency in ms if it is the lowest one of the peer. The lowest latency
   * expires, so that it can rise when the network path becomes longer.
   */
  #recordLatency({ key }: Peer, sample: number): void {
    const now = this.#settings.runtime.clock.now();
    const known = this.#latencies.get(key);
    const current =
      known !== undefined && now < known.expiresAt
        ? known
        : { min: sample, expiresAt: now + this.#context.expiry };
    this.#latencies.set(key, { ...current, min: Math.min(current.min, sample) });
    const [oldest] = this.#latencies.keys();
    if (this.#latencies.size > MAX_PEERS && oldest !== undefined) this.#latencies.delete(oldest);
  }

  /** Reports a protocol of a peer, unless it was reported before. */
  #reportOnce({ key }: Peer, selected: SelectedProtocol): void {
    const reported = this.#reported.get(key) ?? new Set();
    if (reported.has(selected.protocol)) return;
    reported.add(selected.protocol);
    this.#reported.set(key, reported);
    const [oldest] = this.#reported.keys();
    if (this.#reported.size > MAX_PEERS && oldest !== undefined) this.#reported.delete(oldest);
    this.#reportChoice(key, selected);
  }

  #reportChoice(key: string, { protocol, reason }: SelectedProtocol): void {
    const addr = addressIn(key, protocol);
    notify(() => this.#context.onProtocol?.({ addr, protocol, reason }));
  }
}

/** Lowest latency of a peer. It expires after {@link AutoContext.expiry}. */
interface Latency {
  /** Time from a request to its response, in ms. */
  readonly min: number;
  /** Time at which `min` expires, in ms of the clock. */
  readonly expiresAt: number;
}

/** Peer with its addresses, and the protocols that may be used with it. */
interface Peer {
  /** Name of the peer in error messages. */
  readonly name: string;
  /** Key of the peer in maps: its addresses joined in the order {@link KEY_ORDER}. */
  readonly key: string;
  readonly addresses: PeerAddresses;
  /** Protocols that the peer has an address for and that may be used, in order of preference. */
  readonly candidates: readonly Protocol[];
  /** Protocols that the peer has an address for but that may not be used, each with the reason. */
  readonly excluded: readonly ExcludedProtocol[];
}

/** Order of the protocols whose addresses form {@link Peer.key}. */
const KEY_ORDER: readonly Protocol[] = ["quic", "tcp", "grpc"];

function keyOf(addresses: PeerAddresses): string {
  return KEY_ORDER.map((protocol) => addresses[protocol] ?? "").join(" ");
}

function addressIn(key: string, protocol: Protocol): string {
  return key.split(" ")[KEY_ORDER.indexOf(protocol)] ?? "";
}

/** Explains for each protocol that may not be used with a peer why that is so. */
function exclusionTexts({ excluded }: Pick<Peer, "excluded">): string[] {
  return excluded.map(({ protocol, reason }) => `${protocol} is excluded: ${reason}`);
}

/** Returns true if the error is an answer of the peer, which shows that it speaks the protocol. */
function showsProtocol(error: VortexError, trust: PeerTrust): boolean {
  return isAnswer(error, trust) && (error.kind === "remote" || error.kind === "peer");
}

/**
 * Returns true if the error means that the network path to the peer failed, not only one request.
 */
function isPathFailure({ code }: VortexError): boolean {
  return code === "ConnectionLost" || code === "Stalled";
}

/**
 * Returns true if a request that failed over the selected protocol may succeed over another one.
 */
function mayWorkElsewhere(error: VortexError, trust: PeerTrust): boolean {
  if (isAnswer(error, trust) || error.kind === "peer") return false;
  // A timeout leaves no time for another try; a reset concerns only this request.
  return !["Stalled", "PieceTimeout", "StreamReset"].includes(error.code);
}

/** Check of each field of {@link AutoOptions}; a failed one throws `InvalidArgument`. */
export const autoChecks: Checks<AutoOptions> = {
  quicPeers: oneOf("known", "any"),
  delay: integer(1, 60_000),
  expiry: integer(1, MAX_TIMEOUT_MS),
};
