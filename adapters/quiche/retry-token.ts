import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

/** Seconds that a client has to come back with its token. */
const LIFETIME = 10;
const MAC_LENGTH = 32;
const TIME_LENGTH = 4;

/**
 * Tokens by which a client proves its address (RFC 9000, section 8.1.2): when they were made and the connection id that
 * the client had chosen, bound to the client's address by a key that only this process has.
 */
export class RetryTokens {
  readonly #key = randomBytes(32);

  mint(host: string, port: number, originalId: Uint8Array, now: number): Uint8Array {
    const body = Buffer.alloc(TIME_LENGTH + originalId.length);
    body.writeUInt32BE(Math.floor(now / 1000));
    body.set(originalId, TIME_LENGTH);
    return Buffer.concat([this.#mac(host, port, body), body]);
  }

  /** The connection id that the client had chosen, or undefined when the token is not of this address, or too old. */
  open(host: string, port: number, token: Uint8Array, now: number): Uint8Array | undefined {
    if (token.length < MAC_LENGTH + TIME_LENGTH) return undefined;
    const body = Buffer.from(token.subarray(MAC_LENGTH));
    if (!timingSafeEqual(this.#mac(host, port, body), token.subarray(0, MAC_LENGTH)))
      return undefined;
    const age = Math.floor(now / 1000) - body.readUInt32BE();
    return age >= 0 && age <= LIFETIME ? new Uint8Array(body.subarray(TIME_LENGTH)) : undefined;
  }

  #mac(host: string, port: number, body: Uint8Array): Buffer {
    return createHmac("sha256", this.#key).update(`${host} ${port}\0`).update(body).digest();
  }
}
