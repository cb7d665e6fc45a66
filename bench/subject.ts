/** Contract of a measured subject: a way to serve pieces and a way to fetch them. */

/** Content of a server: random bytes, served as pieces of each of these lengths. */
export interface Content {
  readonly bytes: Uint8Array;
  readonly pieceLengths: readonly number[];
}

/** Reference to one piece of the content. */
export interface PieceRef {
  readonly pieceLength: number;
  readonly number: number;
}

/** Address of a server, passed from its process to the client's. */
export interface Peer {
  readonly host: string;
  readonly port: number;
  /** Self-signed certificate as PEM, for subjects with TLS. */
  readonly cert?: string;
  /** SHA-256 fingerprint of the certificate. */
  readonly fingerprint?: string;
}

/** Running server. */
export interface Serving {
  readonly peer: Peer;
  close(): Promise<void>;
}

/** Options of a dial. */
export interface DialOptions {
  /** True to allow requests in early data (0-RTT). */
  readonly earlyData: boolean;
  /** True to drop the connection after each request, so that the next one dials again. */
  readonly forgetful: boolean;
}

/** Client of one server. */
export interface Client {
  /**
   * Fetches a piece, discards its bytes, and resolves to their number.
   *
   * @param onFirstByte called when the first byte arrives
   */
  fetch(piece: PieceRef, onFirstByte?: () => void): Promise<number>;
  close(): Promise<void>;
}

/**
 * Way to move pieces. Both functions reject with a `VortexError` `Unavailable` where the runtime
 * does not support it.
 */
export interface Subject {
  serve(content: Content, host: string): Promise<Serving>;
  dial(peer: Peer, options: DialOptions): Promise<Client>;
}

/** Length of a request of the control subjects, in bytes. */
export const REQUEST_BYTES = 8;

/** Encodes the request of a control subject: offset and length, 32 bits each. */
export function encodeRequest({ pieceLength, number }: PieceRef): Uint8Array<ArrayBuffer> {
  const request = new Uint8Array(REQUEST_BYTES);
  const view = new DataView(request.buffer);
  view.setUint32(0, number * pieceLength);
  view.setUint32(4, pieceLength);
  return request;
}

/** Returns the bytes that a request selects. */
export function answerTo(request: Uint8Array, { bytes }: Content): Uint8Array {
  const view = new DataView(request.buffer, request.byteOffset, request.length);
  const offset = view.getUint32(0);
  return bytes.subarray(offset, offset + view.getUint32(4));
}
