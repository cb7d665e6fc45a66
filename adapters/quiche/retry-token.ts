import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

/** Lifetime of a Retry token in seconds. */
const TOKEN_LIFETIME_S = 10;
/** Length of the HMAC in a Retry token, in bytes. */
const MAC_BYTES = 32;
/**
 * Length of the timestamp in a Retry token, in bytes. The timestamp counts seconds since the Unix
 * epoch.
 */
const TIMESTAMP_BYTES = 4;

/**
 * Creates and checks Retry tokens for address validation (RFC 9000, section 8.1.2). A token
 * contains its creation time and the client's original destination connection ID. An HMAC ties the
 * token to the client's address. The key of the HMAC is random and is lost when the process exits.
 */
export class RetryTokens {
  readonly #key = randomBytes(32);

  /**
   * Creates a Retry token for the client at `host` and `port`.
   *
   * @param originalId destination connection ID of the client's first Initial packet
   * @param now Unix time in ms
   */
  mint(host: string, port: number, originalId: Uint8Array, now: number): Uint8Array {
    const body = Buffer.alloc(TIMESTAMP_BYTES + originalId.length);
    body.writeUInt32BE(Math.floor(now / 1000));
    body.set(originalId, TIMESTAMP_BYTES);
    return Buffer.concat([this.#mac(host, port, body), body]);
  }

  /**
   * Returns the original destination connection ID from a Retry token. Returns undefined if the
   * token was issued for another address, is forged, or has expired.
   *
   * @param now Unix time in ms
   */
  verify(host: string, port: number, token: Uint8Array, now: number): Uint8Array | undefined {
    if (token.length < MAC_BYTES + TIMESTAMP_BYTES) return undefined;
    const body = Buffer.from(token.subarray(MAC_BYTES));
    if (!timingSafeEqual(this.#mac(host, port, body), token.subarray(0, MAC_BYTES)))
      return undefined;
    const age = Math.floor(now / 1000) - body.readUInt32BE();
    return age >= 0 && age <= TOKEN_LIFETIME_S
      ? new Uint8Array(body.subarray(TIMESTAMP_BYTES))
      : undefined;
  }

  #mac(host: string, port: number, body: Uint8Array): Buffer {
    return createHmac("sha256", this.#key).update(`${host} ${port}\0`).update(body).digest();
  }
}
