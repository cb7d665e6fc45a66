import { abortedError, untilAborted, VortexError } from "../../errors.ts";
import type { Piece } from "../../piece.ts";
import {
  addressesOf,
  nameOf,
  type PeerAddress,
  type PeerAddresses,
  type ProtocolPorts,
} from "../../transport/peer-address.ts";
import type { LeftOutProtocol, Protocol } from "../../transport/protocol.ts";
import type { InternalCallOptions } from "../call/pooled-downloader.ts";
import type { CallOptions, Downloader, DownloaderSettings, PieceRequest } from "../downloader.ts";
import { ProtocolSelector, type SelectedProtocol } from "./protocol-selector.ts";
import { isAnswer, type PeerTrust, raceProtocols } from "./race.ts";

/** {@link PieceRequest} to a peer that may have a different address for each protocol. */
export interface PeerPieceRequest extends Omit<PieceRequest, "addr"> {
  /** Address of the peer: one `host:port`, or one per protocol. */
  readonly addr: PeerAddress;
}

/** Selection of a protocol for a peer. */
export interface ProtocolEvent {
  /** Address of the peer, `host:port`, with its port for the protocol. */
  readonly addr: string;
  /** Protocol of all further requests to the peer. */
  readonly protocol: Protocol;
  /** Reason for the selection, one line for people. */
  readonly reason: string;
}

/** Options of protocol selection, all optional. */
export interface AutoOptions {
  /**
   * Peers that are dialled over QUIC. `known`: peers that `tls.fingerprints` or `tls.ca` identifies
   * as peers of this library. `any`: every peer. Default `known`.
   *
   * A stock dfdaemon of version 1.1.0 to 1.4.8 exits when a QUIC handshake fails, and handshakes
   * from Node and Bun always fail there. Use `any` only without such peers.
   */
  readonly quicPeers?: "known" | "any";
  /**
   * Head start of a protocol before the next one is tried in parallel, in ms, 1 to 60,000. Shorter
   * for peers with a known low latency. Default 250.
   */
  readonly delay?: number;
  /** Lifetime of a selection in ms, 1 to 30 days. Default 600,000. */
  readonly expiry?: number;
}

/** Downloader over a single protocol. */
export interface ProtocolDownloader extends Downloader {
  /** See {@link Downloader.downloadPiece}; reports the end of the call by `onTransferred`. */
  downloadPiece(request: PieceRequest, options?: InternalCallOptions): Promise<Piece>;
  /** Closes the idle connections to a peer. Absent for downloaders without a pool. */
  closeIdle?(addr: string): void;
}

/** Configuration of an {@link AutoDownloader}. */
export interface AutoContext {
  /** Usable protocols in order of preference. */
  readonly candidates: readonly Protocol[];
  /** Protocols that are ruled out for every peer, with the reason. */
  readonly leftOut: readonly LeftOutProtocol[];
  /** Makes the downloader of one protocol, at first use. */
  readonly downloader: (protocol: Protocol, settings: DownloaderSettings) => ProtocolDownloader;
  /** Ports of peers that are given as `host:port`. */
  readonly ports: ProtocolPorts;
  /** Effect of a rejected certificate. */
  readonly trust: PeerTrust;
  /** See {@link AutoOptions.delay}. */
  readonly delay: number;
  /** See {@link AutoOptions.expiry}. */
  readonly expiry: number;
  /** Called with each selection; its exceptions are dropped. */
  readonly onProtocol: ((event: ProtocolEvent) => void) | undefined;
}

/**
 * Head start of a protocol as a multiple of the peer's lowest latency: room for a handshake, a
 * request and jitter.
 */
const DELAY_PER_LATENCY = 4;
/** Minimum head start of a protocol before the next one starts, in ms. */
const MIN_DELAY_MS = 30;
/** Maximum number of peers with a recorded latency. */
const MAX_PEERS = 4096;
/** Maximum changes of protocol within one request, each after the selected one has failed. */
const MAX_PROTOCOL_CHANGES = 3;

/**
 * Fetches pieces over the best protocol for each peer.
 *
 * The first request to a peer tries the protocols in turn, see {@link raceProtocols}; concurrent
 * requests wait for its outcome. The selection lasts until it expires, the protocol fails, or
 * another one proves much faster, see {@link ProtocolSelector}.
 */
export class AutoDownloader {
  readonly #context: AutoContext;
  readonly #settings: DownloaderSettings;
  readonly #selector: ProtocolSelector;

  readonly #downloaders = new Map<Protocol, ProtocolDownloader>();
  /**
   * Ongoing selections, by peer key. Each resolves, never rejects; with an error only if it
   * concerns the waiting requests too.
   */
  readonly #negotiations = new Map<string, Promise<VortexError | undefined>>();
  /** Lowest latencies by peer key, in order of insertion. */
  readonly #latencies = new Map<string, Latency>();
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
   * Fetches a piece, see {@link Downloader.downloadPiece}. If no protocol works, the message lists
   * the error of each, and `cause` is the array of them.
   */
  async downloadPiece(request: PeerPieceRequest, options: CallOptions = {}): Promise<Piece> {
    const peer = this.#peerOf(request.addr);
    for (let changes = 0; ; ) {
      if (options.signal?.aborted) throw abortedError(options.signal, `a request to ${peer.name}`);
      const selected = this.#selector.get(peer.key);
      if (selected !== undefined) {
        try {
          return await this.#request(peer, selected, request, options);
        } catch (error) {
          const failure = VortexError.from(error, "Internal");
          if (!mayWorkElsewhere(failure, this.#context.trust) || ++changes > MAX_PROTOCOL_CHANGES)
            throw failure;
          this.#selector.reportFailure(peer.key, selected.protocol);
          continue;
        }
      }
      const negotiation = this.#negotiations.get(peer.key);
      if (negotiation === undefined) return this.#negotiate(peer, request, options);
      const failure = await untilAborted(negotiation, options.signal, `a request to ${peer.name}`);
      if (failure !== undefined) throw failure;
    }
  }

  /** Fetches a piece over the given protocol. Rejects like {@link Downloader.downloadPiece}. */
  async downloadOver(
    protocol: Protocol,
    request: PeerPieceRequest,
    options: CallOptions = {},
  ): Promise<Piece> {
    return this.#request(
      this.#peerOf(request.addr),
      { protocol, reason: "used with others" },
      request,
      options,
    );
  }

  /**
   * Returns the protocols usable with a peer, in order of preference; all candidates while its
   * address is unknown.
   *
   * @throws `InvalidArgument` for a peer without a usable address
   */
  protocolsOf(addr: PeerAddress | undefined): readonly Protocol[] {
    return addr === undefined ? this.#context.candidates : this.#peerOf(addr).candidates;
  }

  /**
   * Returns the protocols that the peer has an address for but that are ruled out; all that are
   * ruled out while its address is unknown.
   */
  leftOut(addr: PeerAddress | undefined): readonly LeftOutProtocol[] {
    return addr === undefined ? this.#context.leftOut : this.#peerOf(addr).leftOut;
  }

  /**
   * Expands `host:port` with a well-known port to one address per protocol. A `host:port` with any
   * other port is returned unchanged: it is the address for each protocol.
   *
   * @throws `InvalidArgument` for a peer without a usable address
   */
  resolve(addr: PeerAddress): PeerAddress {
    const { addresses } = this.#peerOf(addr);
    return typeof addr === "string" && addresses.quic === addresses.tcp ? addr : addresses;
  }

  /** Closes all connections; pending requests fail with `Closed`. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#downloaders.values()].map((downloader) => downloader.close()));
  }

  /**
   * Sends a request over the protocols in turn, and selects the first that answers for the peer.
   */
  async #negotiate(peer: Peer, request: PeerPieceRequest, options: CallOptions): Promise<Piece> {
    let settle: (failure: VortexError | undefined) => void = () => {};
    this.#negotiations.set(
      peer.key,
      new Promise((resolve) => {
        settle = resolve;
      }),
    );
    try {
      const leftOut = peer.leftOut.map((one) => `${one.protocol} is left out: ${one.reason}`);
      const { protocol, reason, answer } = await raceProtocols<Piece>({
        leftOut,
        candidates: peer.candidates,
        delay: this.#delayFor(peer),
        clock: this.#settings.runtime.clock,
        signal: options.signal,
        addr: peer.name,
        trust: this.#context.trust,
        run: (candidate, signal, why) => {
          const signals =
            options.signal === undefined ? signal : AbortSignal.any([options.signal, signal]);
          return this.#request(peer, { protocol: candidate, reason: why }, request, {
            ...options,
            signal: signals,
          });
        },
        discard: (piece) => piece.cancel(),
        onLost: (candidate) =>
          this.#downloaders.get(candidate)?.closeIdle?.(peer.addresses[candidate] ?? peer.name),
      });
      // Any answer of the peer, even an error, shows that the protocol works with it.
      if ("result" in answer || answer.error.kind === "remote" || answer.error.kind === "peer") {
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
   * Ends the selection for a peer; the waiting requests fail with `failure` or go on without one.
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
   * Sends a request over one protocol; measures the latency of its answer and its transfer rate.
   */
  async #request(
    peer: Peer,
    selected: SelectedProtocol,
    request: PeerPieceRequest,
    options: CallOptions,
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
      const piece = await downloader.downloadPiece(
        { ...request, addr },
        {
          ...options,
          protocol,
          protocolReason: reason,
          onTransferred: (bytes, error) => {
            measured.end(bytes);
            if (error !== undefined && isPathFailure(error))
              this.#selector.reportFailure(peer.key, protocol);
          },
        },
      );
      this.#recordLatency(peer, clock.now() - startedAt);
      return piece;
    } catch (error) {
      // Invalid arguments reject without a report of the end.
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
    const name = typeof addr === "string" ? addr : nameOf(addresses);
    const candidates = this.#context.candidates.filter(
      (protocol) => addresses[protocol] !== undefined,
    );
    const leftOut = this.#context.leftOut.filter(
      ({ protocol }) => addresses[protocol] !== undefined,
    );
    if (candidates.length === 0) {
      const reasons = leftOut
        .map(({ protocol, reason }) => `; ${protocol} is left out: ${reason}`)
        .join("");
      throw new VortexError(
        "InvalidArgument",
        `address of ${name}: expected one for ${this.#context.candidates.join(" or ")}, ` +
          `got none${reasons}`,
      );
    }
    return { addresses, name, candidates, leftOut, key: keyOf(addresses) };
  }

  /** Returns the head start of a protocol with this peer, in ms. */
  #delayFor({ key }: Peer): number {
    const { delay } = this.#context;
    const latency = this.#latencies.get(key);
    return latency === undefined
      ? delay
      : Math.min(delay, Math.max(MIN_DELAY_MS, DELAY_PER_LATENCY * latency.min));
  }

  /**
   * Records the lowest latency of a peer. The minimum expires, so that it can rise when the path
   * becomes longer.
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

  #reportChoice(key: string, { protocol, reason }: SelectedProtocol): void {
    const addr = addressIn(key, protocol);
    try {
      this.#context.onProtocol?.({ addr, protocol, reason });
    } catch {
      // An exception of the listener must not fail the request.
    }
  }
}

/** Lowest latency of a peer, with the lifetime {@link AutoContext.expiry}. */
interface Latency {
  /** Time from request to answer, in ms. */
  readonly min: number;
  /** Expiry of `min`, in ms of the clock. */
  readonly expiresAt: number;
}

/** Peer with its addresses, and the protocols that they allow. */
interface Peer {
  /** Name of the peer in messages. */
  readonly name: string;
  /** Key of the peer in maps: its addresses joined, see {@link KEY_ORDER}. */
  readonly key: string;
  readonly addresses: PeerAddresses;
  /** Protocols that it has an address for and that may be used, in order of preference. */
  readonly candidates: readonly Protocol[];
  /** Protocols that it has an address for and that are ruled out. */
  readonly leftOut: readonly LeftOutProtocol[];
}

/** Order of the addresses in {@link Peer.key}. */
const KEY_ORDER: readonly Protocol[] = ["quic", "tcp", "grpc"];

function keyOf(addresses: PeerAddresses): string {
  return KEY_ORDER.map((protocol) => addresses[protocol] ?? "").join(" ");
}

function addressIn(key: string, protocol: Protocol): string {
  return key.split(" ")[KEY_ORDER.indexOf(protocol)] ?? "";
}

/** Returns true if the path to the peer has failed, as opposed to the request. */
function isPathFailure({ code }: VortexError): boolean {
  return code === "ConnectionLost" || code === "Stalled";
}

/**
 * Returns true if a request that failed over its selected protocol may succeed over another one.
 */
function mayWorkElsewhere(error: VortexError, trust: PeerTrust): boolean {
  if (isAnswer(error, trust) || error.kind === "peer") return false;
  // A timeout leaves no time for another try; a reset concerns only this request.
  return !["Stalled", "PieceTimeout", "StreamReset"].includes(error.code);
}
