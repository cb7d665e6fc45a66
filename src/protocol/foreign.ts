/** Protocol of a service other than Vortex, found at a port that was dialled for Vortex. */
export type ForeignProtocol = "HTTP/2" | "HTTP/1" | "TLS";

/** Number of bytes at the start of an answer that {@link foreignProtocol} examines. */
export const FOREIGN_HEAD_LENGTH = 9;

const HTTP1 = [...new TextEncoder().encode("HTTP/1")];
/** Type of an HTTP/2 SETTINGS frame (RFC 9113, section 6.5). */
const SETTINGS = 0x4;
/** Type of an HTTP/2 GOAWAY frame (RFC 9113, section 6.8). */
const GOAWAY = 0x7;
/** Length of one setting in a SETTINGS frame, in bytes. */
const SETTING_LENGTH = 6;
/** Minimum length of a GOAWAY frame, in bytes. */
const MIN_GOAWAY_LENGTH = 8;
/** Content type of a TLS alert record (RFC 8446, section 5.1). */
const ALERT = 21;
/** Length of a TLS alert record with its header, in bytes (RFC 8446, section 6). */
const ALERT_LENGTH = 7;

/**
 * Detects another protocol by the start of an answer. Returns undefined if it recognises none.
 *
 * - HTTP/2: SETTINGS or GOAWAY on stream 0, the first frame of a server (RFC 9113, sections 3.4 and
 *   6.8)
 * - HTTP/1: a status line
 * - TLS: a single alert, the answer to bytes that are not a handshake
 *
 * Call it only for an answer that failed to decode: a TLS alert could also start a Vortex packet.
 *
 * @param head first bytes of the answer; may be fewer than {@link FOREIGN_HEAD_LENGTH}
 */
export function foreignProtocol(head: Uint8Array): ForeignProtocol | undefined {
  if (HTTP1.every((byte, at) => head[at] === byte)) return "HTTP/1";
  const [first, second, third = 0, fourth, fifth, ...stream] = head.subarray(
    0,
    FOREIGN_HEAD_LENGTH,
  );
  if (
    head.length === ALERT_LENGTH &&
    first === ALERT &&
    second === 3 &&
    fourth === 0 &&
    fifth === 2
  )
    return "TLS";
  // Frame of at most 255 bytes, without flags, on stream 0. A Vortex header ends within the stream
  // ID, after its first byte.
  if (
    first !== 0 ||
    second !== 0 ||
    fifth !== 0 ||
    stream.length === 0 ||
    stream.some((byte) => byte !== 0)
  ) {
    return undefined;
  }
  const fits =
    fourth === SETTINGS
      ? third % SETTING_LENGTH === 0
      : fourth === GOAWAY && third >= MIN_GOAWAY_LENGTH;
  return fits ? "HTTP/2" : undefined;
}
