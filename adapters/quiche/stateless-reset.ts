import { createHmac, createPrivateKey, hkdfSync, randomFillSync } from "node:crypto";
import type { Clock } from "../../src/runtime.ts";

/** Bytes of the secret that tokens are made with. */
const SECRET_LENGTH = 32;
/** Bytes of a token (RFC 9000, section 10.3). */
const TOKEN_LENGTH = 16;
/** Least length of a reset, in bytes: 38 unpredictable bits and the token. */
const MIN_LENGTH = 5 + TOKEN_LENGTH;
/** Bytes of the greatest one; longer packets are answered with as many (RFC 9000, section 10.3). */
const MAX_LENGTH = 42;
/** Resets a second, and in one burst: enough for 1,024 clients of a server that restarted. */
const RATE = 1000;

/**
 * Answers packets of unknown connections by stateless resets (RFC 9000, section 10.3). After a
 * restart, clients learn from them at once that their connections are over. The only state is a
 * secret that outlives the process.
 */
export class StatelessResets {
  readonly #secret: Uint8Array;
  readonly #clock: Clock;
  #left = RATE;
  #countedAt: number;

  /** @param key the server's private key, PEM */
  constructor(key: string, clock: Clock) {
    this.#secret = secretOf(key);
    this.#clock = clock;
    this.#countedAt = clock.now();
  }

  /** The token of a connection id. */
  tokenOf(id: Uint8Array): Uint8Array {
    return createHmac("sha256", this.#secret).update(id).digest().subarray(0, TOKEN_LENGTH);
  }

  /** The token of a connection id as a big-endian number, as quiche's binding takes it. */
  numberOf(id: Uint8Array): bigint {
    return this.tokenOf(id).reduce((token, byte) => (token << 8n) | BigInt(byte), 0n);
  }

  /**
   * Writes the answer to a packet of `received` bytes for an unknown connection id to the start
   * of `into`. Returns its length in bytes, or 0 for no answer. It is shorter than the packet, so
   * two servers never answer each other for ever (section 10.3.3).
   */
  answer(received: number, id: Uint8Array, into: Uint8Array): number {
    const length = Math.min(received - 1, MAX_LENGTH);
    if (length < MIN_LENGTH || !this.#take()) return 0;
    const reset = into.subarray(0, length);
    randomFillSync(reset);
    // Short header, fixed bit (section 17.3).
    reset[0] = 0x40 | ((reset[0] ?? 0) & 0x3f);
    reset.set(this.tokenOf(id), length - TOKEN_LENGTH);
    return length;
  }

  /** Token bucket. */
  #take(): boolean {
    const now = this.#clock.now();
    this.#left = Math.min(RATE, this.#left + ((now - this.#countedAt) * RATE) / 1000);
    this.#countedAt = now;
    if (this.#left < 1) return false;
    this.#left--;
    return true;
  }
}

/**
 * Derives the secret from the private key: a server that restarts with its key makes the tokens
 * that its clients have. Servers that share a key share the secret: an observer of packets to one
 * can make another disclose their tokens (section 10.3.2).
 */
function secretOf(key: string): Uint8Array {
  const secret = createPrivateKey(key).export({ type: "pkcs8", format: "der" });
  return new Uint8Array(
    hkdfSync("sha256", secret, new Uint8Array(0), "vortex-peer stateless reset", SECRET_LENGTH),
  );
}
