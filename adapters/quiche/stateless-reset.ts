import { createHmac, createPrivateKey, hkdfSync, randomFillSync } from "node:crypto";
import type { Clock } from "../../src/runtime.ts";

/** Length of the secret that tokens are derived from. */
const SECRET_BYTES = 32;
/** Length of a stateless reset token (RFC 9000, section 10.3). */
const TOKEN_BYTES = 16;
/** Minimum length of a reset: 38 unpredictable bits and the token. */
const MIN_RESET_BYTES = 5 + TOKEN_BYTES;
/** Maximum length of a reset; longer packets get one of this length (RFC 9000, section 10.3). */
const MAX_RESET_BYTES = 42;
/** Resets per second, and per burst: enough for 1,024 clients of a restarted server. */
const MAX_RESETS_PER_SECOND = 1000;

/**
 * Answers packets for unknown connections with stateless resets (RFC 9000, section 10.3), so that
 * clients notice a server restart at once. The only state is a secret that survives the restart.
 */
export class StatelessResets {
  readonly #secret: Uint8Array;
  readonly #clock: Clock;
  #available = MAX_RESETS_PER_SECOND;
  #refilledAt: number;

  /** @param key private key of the server, PEM; tokens are derived from it */
  constructor(key: string, clock: Clock) {
    this.#secret = secretOf(key);
    this.#clock = clock;
    this.#refilledAt = clock.now();
  }

  /** Returns the stateless reset token of a connection id. */
  tokenOf(id: Uint8Array): Uint8Array {
    return createHmac("sha256", this.#secret).update(id).digest().subarray(0, TOKEN_BYTES);
  }

  /**
   * Returns the token of a connection id as a big-endian integer, the format of quiche's binding.
   */
  tokenNumberOf(id: Uint8Array): bigint {
    return this.tokenOf(id).reduce((token, byte) => (token << 8n) | BigInt(byte), 0n);
  }

  /**
   * Writes a reset to the start of `into`, in answer to a packet of `received` bytes for connection
   * id `id`. Returns its length in bytes, or 0 for no answer. The reset is shorter than the packet,
   * so two endpoints cannot answer each other forever (section 10.3.3).
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

  /** Takes a token from the bucket of {@link MAX_RESETS_PER_SECOND}; false when it is empty. */
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
 * Derives the secret from the private key, so that a restarted server with the same key derives the
 * same tokens. Servers that share a key share the secret: then an observer of packets to one server
 * can make another disclose tokens (section 10.3.2).
 */
function secretOf(key: string): Uint8Array {
  const secret = createPrivateKey(key).export({ type: "pkcs8", format: "der" });
  return new Uint8Array(
    hkdfSync("sha256", secret, new Uint8Array(0), "vortex-peer stateless reset", SECRET_BYTES),
  );
}
