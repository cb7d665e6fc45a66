/**
 * Messages between the measuring process and the measured ones: lines of JSON, one answer for each
 * order.
 */
import type { Peer } from "./subject.ts";
import type { Usage } from "./usage.ts";

/** Arguments of a server process. */
export interface ServerArguments {
  readonly subject: string;
  readonly host: string;
  /** Length of the content, in bytes. */
  readonly contentLength: number;
  readonly pieceLengths: readonly number[];
}

/**
 * Orders to a server. `listen` is answered with a {@link Peer}, `usage` with a {@link Usage},
 * `count` with nothing.
 */
export type ServerOrder =
  | { readonly do: "listen" }
  | { readonly do: "count" }
  | { readonly do: "usage" };

/** Arguments of a client process. */
export interface ClientArguments {
  readonly subject: string;
}

/** Order to fetch pieces, `concurrency` at a time. */
export interface RunOrder {
  readonly do: "run";
  readonly peer: Peer;
  readonly contentLength: number;
  readonly pieceLength: number;
  readonly concurrency: number;
  /** Maximum number of pieces. */
  readonly requests: number;
  /** Time after which no more pieces are requested, in seconds. */
  readonly seconds: number;
}

/** Order to dial and fetch one piece, repeatedly. */
export interface FirstByteOrder {
  readonly do: "first-byte";
  readonly peer: Peer;
  readonly pieceLength: number;
  /**
   * `cold`: new peer. `resumed`: known peer. `early`: known peer, with the request in early data
   * (0-RTT).
   */
  readonly how: FirstByteKind;
  readonly samples: number;
  /** Time after which a closed connection is certainly gone, in ms. */
  readonly settle: number;
}

/** Kinds of a first byte. */
export type FirstByteKind = "cold" | "resumed" | "early";

/** Orders to a client, answered with a {@link RunResult} or with {@link FirstBytes}. */
export type ClientOrder = RunOrder | FirstByteOrder;

/** Result of a run. */
export interface RunResult extends Usage {
  readonly bytes: number;
  readonly requests: number;
  readonly seconds: number;
  /** Time of a request in ms: median and 99th percentile. */
  readonly p50: number;
  readonly p99: number;
}

/** Times from the dial to the first byte of a piece, in ms. */
export interface FirstBytes {
  readonly milliseconds: readonly number[];
}

/**
 * Answer to an order. `missing` means that this runtime or machine does not support the subject.
 */
export type Answer<T> = { readonly ok: T } | { readonly failed: string; readonly missing: boolean };
