import type { Hasher } from "../../src/digest/hasher.ts";
import type { TaskPlan } from "../../src/piece.ts";

/** Bytes in one read of what came early. */
const READ = 1024 * 1024;

/**
 * The hash of a whole task whose pieces arrive side by side. What arrives where the hash has come to is hashed on its way;
 * what came early is read back once the bytes before it are there. There is no pass over the whole afterwards.
 */
export class ContiguousHash {
  readonly #hasher: Hasher;
  readonly #plan: TaskPlan;
  readonly #read: (position: number, length: number) => Promise<Uint8Array>;
  /** Where the hash has come to. */
  #position = 0;
  /** For each piece that has begun, the position behind its last written byte. */
  readonly #written = new Map<number, number>();
  #catchingUp: Promise<void> | undefined;

  constructor(hasher: Hasher, plan: TaskPlan, read: (position: number, length: number) => Promise<Uint8Array>) {
    this.#hasher = hasher;
    this.#plan = plan;
    this.#read = read;
  }

  /** Takes note of bytes that have been written; those of one piece come in order. */
  add(position: number, bytes: Uint8Array): void {
    this.#written.set(Math.floor(position / this.#plan.pieceLength), position + bytes.length);
    if (this.#catchingUp !== undefined) return;
    if (position === this.#position) {
      this.#hasher.update(bytes);
      this.#position += bytes.length;
    }
    if (this.#available() > 0) {
      this.#catchingUp = this.#catchUp();
      // Whoever calls `encode` hears of a failure.
      this.#catchingUp.catch(() => {});
    }
  }

  /** The digest of everything, once everything was added. */
  async encode(): Promise<string> {
    await this.#catchingUp;
    return this.#hasher.encode();
  }

  async #catchUp(): Promise<void> {
    for (let available = this.#available(); available > 0; available = this.#available()) {
      const bytes = await this.#read(this.#position, Math.min(READ, available));
      this.#hasher.update(bytes);
      this.#position += bytes.length;
    }
    this.#catchingUp = undefined;
  }

  /** Bytes that are written and not hashed, of the piece that the hash has come to. */
  #available(): number {
    const number = Math.floor(this.#position / this.#plan.pieceLength);
    return (this.#written.get(number) ?? 0) - this.#position;
  }
}
