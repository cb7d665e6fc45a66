/** What the measuring process and the measured ones say to each other: lines of JSON, an answer for each order. */
import type { Peer } from "./subject.ts";
import type { Usage } from "./usage.ts";

/** Arguments of a server. */
export interface ServerArguments {
  readonly subject: string;
  readonly host: string;
  /** Bytes. */
  readonly contentLength: number;
  readonly pieceLengths: readonly number[];
}

/** Orders to a server. `listen` is answered with a {@link Peer}, `count` with nothing, `usage` with a {@link Usage}. */
export type ServerOrder =
  | { readonly do: "listen" }
  | { readonly do: "count" }
  | { readonly do: "usage" };

/** Arguments of a client. */
export interface ClientArguments {
  readonly subject: string;
}

/** Fetches pieces one after the other, so many at a time. */
export interface RunOrder {
  readonly do: "run";
  readonly peer: Peer;
  readonly contentLength: number;
  readonly pieceLength: number;
  readonly concurrency: number;
  /** How many pieces. */
  readonly requests: number;
  /** Seconds after which no more are asked for. */
  readonly seconds: number;
}

/** Dials and fetches one piece, again and again. */
export interface FirstByteOrder {
  readonly do: "first-byte";
  readonly peer: Peer;
  readonly pieceLength: number;
  /**
   * `cold`: the peer was never met. `resumed`: it was met before. `early`: it was, and the request may go ahead of the
   * handshake.
   */
  readonly how: FirstByteKind;
  readonly samples: number;
  /** Milliseconds in which a connection that is given up is surely gone. */
  readonly settle: number;
}

/** Kinds of a first byte. */
export type FirstByteKind = "cold" | "resumed" | "early";

/** Orders to a client; answered with a {@link RunResult} or with {@link FirstBytes}. */
export type ClientOrder = RunOrder | FirstByteOrder;

/** How a run went. */
export interface RunResult extends Usage {
  readonly bytes: number;
  readonly requests: number;
  readonly seconds: number;
  /** Milliseconds of a request, median and 99th percentile. */
  readonly p50: number;
  readonly p99: number;
}

/** Milliseconds from the dial to the first byte of a piece. */
export interface FirstBytes {
  readonly milliseconds: readonly number[];
}

/** An answer. `missing`: this runtime or machine has no such thing. */
export type Answer<T> = { readonly ok: T } | { readonly failed: string; readonly missing: boolean };
