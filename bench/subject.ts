/** What is measured: a way to serve pieces, and a way to fetch them. */

/** What a server holds: the same random bytes, cut into pieces of each of these lengths. */
export interface Content {
  readonly bytes: Uint8Array;
  readonly pieceLengths: readonly number[];
}

/** One piece of the content. */
export interface PieceRef {
  readonly pieceLength: number;
  readonly number: number;
}

/** Where a server is, as its process tells it to the client's. */
export interface Peer {
  readonly host: string;
  readonly port: number;
  /** The self-signed certificate, PEM, where there is TLS. */
  readonly cert?: string;
  /** Its SHA-256 fingerprint. */
  readonly fingerprint?: string;
}

/** A server that runs. */
export interface Serving {
  readonly peer: Peer;
  close(): Promise<void>;
}

/** How a client dials. */
export interface DialOptions {
  /** Whether requests may travel ahead of the handshake. */
  readonly earlyData: boolean;
  /** Whether a connection is given up after each request, so that the next one makes another. */
  readonly forgetful: boolean;
}

/** A client of one server. */
export interface Client {
  /**
   * Fetches a piece, drops its bytes, and resolves to their number.
   * @param onFirstByte called when the first of them are there
   */
  fetch(piece: PieceRef, onFirstByte?: () => void): Promise<number>;
  close(): Promise<void>;
}

/** One way to move pieces. Both functions reject with a `VortexError` `Unavailable` where this runtime has no such thing. */
export interface Subject {
  serve(content: Content, host: string): Promise<Serving>;
  dial(peer: Peer, options: DialOptions): Promise<Client>;
}

/** Length of what the control subjects send as a request. */
export const REQUEST_LENGTH = 8;

/** The request of a control subject: offset and length of the bytes, 32 bits each. */
export function encodeRequest({ pieceLength, number }: PieceRef): Uint8Array<ArrayBuffer> {
  const request = new Uint8Array(REQUEST_LENGTH);
  const view = new DataView(request.buffer);
  view.setUint32(0, number * pieceLength);
  view.setUint32(4, pieceLength);
  return request;
}

/** The bytes that a request asks for. */
export function answerTo(request: Uint8Array, { bytes }: Content): Uint8Array {
  const view = new DataView(request.buffer, request.byteOffset, request.length);
  const offset = view.getUint32(0);
  return bytes.subarray(offset, offset + view.getUint32(4));
}
