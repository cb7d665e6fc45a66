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
import type { CallOptions, Downloader, DownloaderSettings, PieceRequest } from "../downloader.ts";
import { ProtocolSelector, type SelectedProtocol } from "./protocol-selector.ts";
import { isAnswer, type PeerTrust, raceProtocols } from "./race.ts";
import { ProtocolTelemetry } from "./telemetry.ts";

/** A {@link PieceRequest} to a peer that may have an address for each protocol. */
export interface PeerPieceRequest extends Omit<PieceRequest, "addr"> {
  /** See {@link PeerAddress}. */
  readonly addr: PeerAddress;
}

/** A protocol was chosen for a peer. */
export interface ProtocolEvent {
  /** The peer, `host:port`, at its port for the protocol. */
  readonly addr: string;
  /** What requests to it go over from now on. */
  readonly protocol: Protocol;
  /** Why: one line for people. */
  readonly reason: string;
}

/** How protocols are chosen; all of it optional. */
export interface AutoOptions {
  /**
   * Peers that are dialled over QUIC. `known`: peers of this library, which `tls.fingerprints` or `tls.ca` identifies.
   * `any`: every peer. A failed QUIC handshake ends a stock dfdaemon of version 1.1.0 to 1.4.8, and Node and Bun always fail
   * it there, so use `any` only where no such peer is. Default `known`.
   */
  readonly quicPeers?: "known" | "any";
  /**
   * Milliseconds that a protocol is waited for before the next one begins beside it, 1 to 60,000. Less where the peer is known
   * to answer sooner. Default 250.
   */
  readonly delay?: number;
  /** Milliseconds for which a choice stands, 1 to 30 days. Default 600,000. */
  readonly expiry?: number;
}

/** A downloader of one protocol. */
export interface ProtocolDownloader extends Downloader {
  /** Closes the connections to a peer that no request uses, for downloaders that keep some. */
  closeIdle?(addr: string): void;
}

/** What an {@link AutoDownloader} works with. */
export interface AutoContext {
  /** In the order in which they are tried. */
  readonly candidates: readonly Protocol[];
  /** Protocols that are not used with any peer. */
  readonly leftOut: readonly LeftOutProtocol[];
  /** Makes the downloader of one protocol, when it is first needed. */
  readonly downloader: (protocol: Protocol, settings: DownloaderSettings) => ProtocolDownloader;
  readonly ports: ProtocolPorts;
  readonly trust: PeerTrust;
  readonly delay: number;
  readonly expiry: number;
  readonly onProtocol: ((event: ProtocolEvent) => void) | undefined;
}

/** Times the latency of a peer that an answer may take, before the next protocol begins: a handshake, a request, and room. */
const PATIENCE = 4;
/** Milliseconds that a protocol is waited for at least. */
const MIN_DELAY_MS = 30;
/** Peers whose latency is kept. */
const MAX_PEERS = 4096;
/** Times that one request may find that its protocol does not work any more. */
const MAX_CHANGES = 3;

/**
 * Fetches pieces over whichever protocol works best with each peer. The first request to a peer tries them one after the
 * other, see {@link raceProtocols}, and others wait for what it finds. That stands until it expires, fails, or another
 * protocol turns out to be much faster, see {@link ProtocolSelector}.
 */
export class AutoDownloader {
  readonly #context: AutoContext;
  readonly #settings: DownloaderSettings;
  readonly #verdicts: ProtocolSelector;
  readonly #telemetry: ProtocolTelemetry;
  readonly #downloaders = new Map<Protocol, ProtocolDownloader>();
  /** By peer; each resolves, with what it failed with unless that concerns one request only. */
  readonly #negotiations = new Map<string, Promise<VortexError | undefined>>();
  /** By peer, the oldest peer first. */
  readonly #latencies = new Map<string, Latency>();
  #closed = false;

  constructor(context: AutoContext, settings: DownloaderSettings) {
    this.#context = context;
    this.#settings = settings;
    this.#verdicts = new ProtocolSelector(settings.runtime.clock, context.expiry, (peer, verdict) =>
      this.#tell(peer, verdict),
    );
    this.#telemetry = new ProtocolTelemetry(settings.telemetry, this.#verdicts);
  }

  /** See {@link Downloader.downloadPiece}. When no protocol works, the message tells of each, and `cause` is all the errors. */
  async downloadPiece(request: PeerPieceRequest, options: CallOptions = {}): Promise<Piece> {
    const peer = this.#peerOf(request.addr);
    for (let changes = 0; ; ) {
      if (options.signal?.aborted) throw abortedError(options.signal, `a request to ${peer.name}`);
      const verdict = this.#verdicts.of(peer.key);
      if (verdict !== undefined) {
        try {
          return await this.#ask(peer, verdict, request, options);
        } catch (error) {
          const failure = VortexError.from(error, "Internal");
          if (!saysElsewhere(failure, this.#context.trust) || ++changes > MAX_CHANGES)
            throw failure;
          this.#verdicts.failed(peer.key, verdict.protocol);
          continue;
        }
      }
      const negotiation = this.#negotiations.get(peer.key);
      if (negotiation === undefined) return this.#negotiate(peer, request, options);
      const failure = await untilAborted(negotiation, options.signal, `a request to ${peer.name}`);
      if (failure !== undefined) throw failure;
    }
  }

  /** Fetches a piece over one protocol, whatever works best. Rejects as {@link Downloader.downloadPiece} does. */
  async downloadOver(
    protocol: Protocol,
    request: PeerPieceRequest,
    options: CallOptions = {},
  ): Promise<Piece> {
    return this.#ask(
      this.#peerOf(request.addr),
      { protocol, reason: "used with others" },
      request,
      options,
    );
  }

  /**
   * The protocols that may be used with a peer, the first to try first; of one that has not told its addresses yet, all.
   * @throws `InvalidArgument`
   */
  protocolsOf(addr: PeerAddress | undefined): readonly Protocol[] {
    return addr === undefined ? this.#context.candidates : this.#peerOf(addr).candidates;
  }

  /** Protocols that a peer may serve and that are not used with it; of a peer without a known address, all of them. */
  leftOut(addr: PeerAddress | undefined): readonly LeftOutProtocol[] {
    return addr === undefined ? this.#context.leftOut : this.#peerOf(addr).leftOut;
  }

  /**
   * The addresses of a peer, as far as they are known; `host:port` with an unusual port stays what it is.
   * @throws `InvalidArgument` for a peer without an address that may be used
   */
  resolve(addr: PeerAddress): PeerAddress {
    const { addresses } = this.#peerOf(addr);
    return typeof addr === "string" && addresses.quic === addresses.tcp ? addr : addresses;
  }

  /** Ends all connections; requests under way fail with `Closed`. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#downloaders.values()].map((downloader) => downloader.close()));
  }

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
          return this.#ask(peer, { protocol: candidate, reason: why }, request, {
            ...options,
            signal: signals,
          });
        },
        discard: (piece) => piece.cancel(),
        lost: (candidate) =>
          this.#downloaders.get(candidate)?.closeIdle?.(peer.addresses[candidate] ?? peer.name),
      });
      // Whatever the peer answered, this is how it is spoken to.
      if ("result" in answer || answer.error.kind === "remote" || answer.error.kind === "peer") {
        this.#verdicts.remember(peer.key, { protocol, reason }, peer.candidates);
        this.#tell(peer.key, { protocol, reason });
      }
      this.#conclude(peer, settle, undefined);
      if ("error" in answer) throw answer.error;
      return answer.result;
    } catch (error) {
      const failure = VortexError.from(error, "Internal");
      this.#conclude(
        peer,
        settle,
        failure.kind === "transport" || failure.kind === "timeout" ? failure : undefined,
      );
      throw failure;
    }
  }

  #conclude(
    { key }: Peer,
    settle: (failure: VortexError | undefined) => void,
    failure: VortexError | undefined,
  ): void {
    this.#negotiations.delete(key);
    settle(failure);
  }

  async #ask(
    peer: Peer,
    verdict: SelectedProtocol,
    request: PeerPieceRequest,
    options: CallOptions,
  ): Promise<Piece> {
    const { protocol, reason } = verdict;
    const addr = peer.addresses[protocol];
    if (addr === undefined)
      throw new VortexError("InvalidArgument", `${peer.name} has no address for ${protocol}`);
    const { clock } = this.#settings.runtime;
    const begun = clock.now();
    const downloader = this.#downloader(protocol);
    const piece = await this.#telemetry.attribute({ peer: peer.key, protocol, reason }, () =>
      downloader.downloadPiece({ ...request, addr }, options),
    );
    this.#noteLatency(peer, clock.now() - begun);
    return piece;
  }

  #downloader(protocol: Protocol): ProtocolDownloader {
    if (this.#closed) throw new VortexError("Closed", "the downloader is closed");
    const downloader =
      this.#downloaders.get(protocol) ??
      this.#context.downloader(protocol, { ...this.#settings, telemetry: this.#telemetry });
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
        `${name}: expected an address for ${this.#context.candidates.join(" or ")}${reasons}`,
      );
    }
    return { addresses, name, candidates, leftOut, key: keyOf(addresses) };
  }

  #delayFor({ key }: Peer): number {
    const { delay } = this.#context;
    const latency = this.#latencies.get(key);
    return latency === undefined
      ? delay
      : Math.min(delay, Math.max(MIN_DELAY_MS, PATIENCE * latency.least));
  }

  /** A sample replaces the least one after a term, so that a path that has become longer is not held to its past. */
  #noteLatency({ key }: Peer, sample: number): void {
    const now = this.#settings.runtime.clock.now();
    const known = this.#latencies.get(key);
    const term =
      known !== undefined && now < known.expiresAt
        ? known
        : { least: sample, expiresAt: now + this.#context.expiry };
    this.#latencies.set(key, { ...term, least: Math.min(term.least, sample) });
    const [oldest] = this.#latencies.keys();
    if (this.#latencies.size > MAX_PEERS && oldest !== undefined) this.#latencies.delete(oldest);
  }

  #tell(key: string, { protocol, reason }: SelectedProtocol): void {
    const addr = addressIn(key, protocol);
    try {
      this.#context.onProtocol?.({ addr, protocol, reason });
    } catch {
      // A listener's fault must not become that of the request.
    }
  }
}

/** The fastest answer of a peer within a term of {@link AutoContext.expiry}. */
interface Latency {
  /** In ms. */
  readonly least: number;
  /** End of the term, in ms on the clock. */
  readonly expiresAt: number;
}

interface Peer {
  /** What it is called in messages. */
  readonly name: string;
  /** Its addresses, as one text. */
  readonly key: string;
  readonly addresses: PeerAddresses;
  readonly candidates: readonly Protocol[];
  /** Protocols that it has an address for and that are not used. */
  readonly leftOut: readonly LeftOutProtocol[];
}

const inKey: readonly Protocol[] = ["quic", "tcp", "grpc"];

function keyOf(addresses: PeerAddresses): string {
  return inKey.map((protocol) => addresses[protocol] ?? "").join(" ");
}

function addressIn(key: string, protocol: Protocol): string {
  return key.split(" ")[inKey.indexOf(protocol)] ?? "";
}

/** Whether a failure over a protocol that had worked means that another one may work now. */
function saysElsewhere(error: VortexError, trust: PeerTrust): boolean {
  if (isAnswer(error, trust) || error.kind === "peer") return false;
  // The time of the caller is over, or the peer did not want this one request.
  return !["Stalled", "PieceTimeout", "StreamReset"].includes(error.code);
}
