/** Protocol of a peer that does not speak Vortex although it was dialled at a port for Vortex. */
export type ForeignProtocol = "HTTP/2" | "HTTP/1" | "TLS";

/** Number of bytes at the start of a peer's response that {@link foreignProtocol} examines. */
export const FOREIGN_HEAD_LENGTH = 9;

const HTTP1 = [...new TextEncoder().encode("HTTP/1")];
/** Frame type of an HTTP/2 SETTINGS frame (RFC 9113, section 6.5). */
const SETTINGS = 0x4;
/** Frame type of an HTTP/2 GOAWAY frame (RFC 9113, section 6.8). */
const GOAWAY = 0x7;
/** Length of one setting in the payload of an HTTP/2 SETTINGS frame, in bytes. */
const SETTING_LENGTH = 6;
/** Minimum length of the payload of an HTTP/2 GOAWAY frame, in bytes. */
const MIN_GOAWAY_LENGTH = 8;
/** Content type of a TLS record that contains an alert (RFC 8446, section 5.1). */
const ALERT = 21;
/**
 * Length of a TLS record with an alert, including the record header, in bytes (RFC 8446, section
 * 6).
 */
const ALERT_LENGTH = 7;

/**
 * Detects by the first bytes of a response that the peer speaks another protocol than Vortex.
 * Returns undefined if the bytes are none of the following:
 *
 * - HTTP/2: a SETTINGS or GOAWAY frame on stream 0, the first frame of a server (RFC 9113, sections
 *   3.4 and 6.8)
 * - HTTP/1: a status line
 * - TLS: an alert record and nothing else, the response to bytes that are not a handshake
 *
 * Call it only for a response that the Vortex decoder rejected, because a valid Vortex packet can
 * also start like a TLS alert.
 *
 * @param head first {@link FOREIGN_HEAD_LENGTH} bytes of the response, or all bytes of a shorter
 * response
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
