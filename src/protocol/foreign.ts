/** Application protocol of another service, met at a port that was dialled for Vortex. */
export type ForeignProtocol = "HTTP/2" | "HTTP/1" | "TLS";

/** Bytes of an answer that {@link foreignProtocol} needs. */
export const FOREIGN_HEAD_LENGTH = 9;

const HTTP1 = [...new TextEncoder().encode("HTTP/1")];
/** Types of HTTP/2 frames (RFC 9113, section 6). */
const SETTINGS = 0x4;
const GOAWAY = 0x7;
/** Length of one setting, and least length of GOAWAY, in bytes. */
const SETTING_LENGTH = 6;
const GOAWAY_LENGTH = 8;
/** Type of a TLS record, and its whole length in bytes (RFC 8446, sections 5.1 and 6). */
const ALERT = 21;
const ALERT_LENGTH = 7;

/**
 * Names the protocol of an answer that is no Vortex packet by its first bytes, as far as they came; undefined for all others.
 *
 * - HTTP/2: SETTINGS or GOAWAY on stream 0, with which a server begins (RFC 9113, sections 3.4 and 6.8)
 * - HTTP/1: a status line
 * - TLS: one alert and the end, the answer to what is no handshake
 *
 * To be asked about answers that failed to decode only: a head of TLS could begin a packet.
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
  // Frames of at most 255 bytes, without flags, on stream 0. A Vortex header ends after one byte of the stream's number.
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
      : fourth === GOAWAY && third >= GOAWAY_LENGTH;
  return fits ? "HTTP/2" : undefined;
}
