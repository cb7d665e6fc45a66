import { createHmac, createPrivateKey, hkdfSync, randomFillSync } from "node:crypto";
import type { Clock } from "../../src/runtime.ts";

/** Length in bytes of the secret from which stateless reset tokens are derived. */
const SECRET_BYTES = 32;
/** Length of a stateless reset token in bytes (RFC 9000, section 10.3). */
const TOKEN_BYTES = 16;
/**
 * Minimum length of a stateless reset in bytes: 5 bytes that start with a short header and are
 * otherwise random, and the token (RFC 9000, section 10.3).
 */
const MIN_RESET_BYTES = 5 + TOKEN_BYTES;
/**
 * Maximum length of a stateless reset in bytes. Longer packets are answered with a reset of this
 * length.
 */
const MAX_RESET_BYTES = 42;
/**
 * Maximum number of stateless resets per second, and also the capacity of the token bucket that
 * enforces the rate. It suffices for about 1,000 clients of a restarted server.
 */
const MAX_RESETS_PER_SECOND = 1000;

/**
 * Creates stateless resets (RFC 9000, section 10.3) for packets that belong to no known connection.
 * With them, clients detect a restart of the server at once.
 *
 * The secret for the tokens is derived from the server's private key. So it is the same after a
 * restart, and nothing needs to be stored for each connection.
 */
export class StatelessResets {
  readonly #secret: Uint8Array;
  readonly #clock: Clock;
  #available = MAX_RESETS_PER_SECOND;
  #refilledAt: number;

  /**
   * @param key private key of the server in PEM, from which the secret for the tokens is derived
   * @param clock clock for the rate limit of resets
   */
  constructor(key: string, clock: Clock) {
    this.#secret = secretOf(key);
    this.#clock = clock;
    this.#refilledAt = clock.now();
  }

  /** Returns the stateless reset token for the connection ID `id`. */
  tokenOf(id: Uint8Array): Uint8Array {
    return createHmac("sha256", this.#secret).update(id).digest().subarray(0, TOKEN_BYTES);
  }

  /**
   * Returns the stateless reset token for the connection ID `id` as a big-endian integer, which is
   * the format of quiche's binding.
   */
  tokenNumberOf(id: Uint8Array): bigint {
    return this.tokenOf(id).reduce((token, byte) => (token << 8n) | BigInt(byte), 0n);
  }

  /**
   * Writes a stateless reset to the start of `into`, as the reply to a packet of `received` bytes
   * for connection ID `id`. Returns the length of the reset in bytes. Returns 0 if the packet is
   * too short or the rate limit is reached: then no reply must be sent.
   *
   * The reset is shorter than the packet, so two endpoints cannot answer each other's resets for
   * ever (RFC 9000, section 10.3.3).
   */
  writeReset(received: number, id: Uint8Array, into: Uint8Array): number {
    const length = Math.min(received - 1, MAX_RESET_BYTES);
    if (length < MIN_RESET_BYTES || !this.#take()) return 0;
    const reset = into.subarray(0, length);
    randomFillSync(reset);
    // Short header with the fixed bit set (section 17.3).
    reset[0] = 0x40 | ((reset[0] ?? 0) & 0x3f);
    reset.set(this.tokenOf(id), length - TOKEN_BYTES);
    return length;
  }

  /**
   * Takes one permit from the token bucket that limits resets to {@link MAX_RESETS_PER_SECOND}.
   * Returns false if the bucket is empty, so no reset may be sent.
   */
  #take(): boolean {
    const now = this.#clock.now();
    this.#available = Math.min(
      MAX_RESETS_PER_SECOND,
      this.#available + ((now - this.#refilledAt) * MAX_RESETS_PER_SECOND) / 1000,
    );
    this.#refilledAt = now;
    if (this.#available < 1) return false;
    this.#available--;
    return true;
  }
}

/**
 * Derives the secret for stateless reset tokens from the server's private key. A restarted server
 * with the same key derives the same tokens.
 *
 * Servers that share a private key share the secret. Then an attacker who observes packets to one
 * server can make another server disclose valid tokens (RFC 9000, section 10.3.2).
 *
 * @param key private key in PEM
 */
function secretOf(key: string): Uint8Array {
  const secret = createPrivateKey(key).export({ type: "pkcs8", format: "der" });
  return new Uint8Array(
    hkdfSync("sha256", secret, new Uint8Array(0), "vortex-peer stateless reset", SECRET_BYTES),
  );
}
