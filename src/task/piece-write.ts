import type { SinkPart, SinkSession } from "./sink.ts";

/**
 * Coordinates the writes of concurrent attempts at one piece to the sink. Only one attempt at a
 * time writes to the sink. Another attempt buffers its bytes in memory, and writes them after the
 * writing attempt has ended.
 *
 * So the bytes of two attempts are never mixed, and nothing is written after one attempt has
 * written the whole piece.
 */
export class PieceWrite {
  /** Session of the sink. */
  readonly #session: SinkSession;
  /** Requested part of the piece. */
  readonly #part: SinkPart;
  /** Attempt that may currently write to the sink; undefined if none may. */
  #writer: AttemptWrite | undefined;
  /** Callbacks that are called when the writing attempt ends. */
  #releaseListeners: (() => void)[] = [];
  /** Attempt that has written the whole piece. No other attempt may write afterwards. */
  #finished: AttemptWrite | undefined;

  constructor(session: SinkSession, part: SinkPart) {
    this.#session = session;
    this.#part = part;
  }

  /** Returns the {@link AttemptWrite} for a new attempt at the piece. */
  begin(): AttemptWrite {
    return new AttemptWrite(this, this.#session, this.#part);
  }

  /**
   * Gives `attempt` the right to write to the sink, unless another attempt has it. Returns true if
   * `attempt` has the right now. Returns false if another attempt has written the whole piece.
   */
  claim(attempt: AttemptWrite): boolean {
    if (this.#finished !== undefined && this.#finished !== attempt) return false;
    this.#writer ??= attempt;
    return this.#writer === attempt;
  }

  /** Records that `attempt` has written the whole piece. No other attempt may write afterwards. */
  finish(attempt: AttemptWrite): void {
    this.#finished = attempt;
  }

  /**
   * Withdraws the right to write to the sink from `attempt`, so that another attempt may write.
   * Does nothing if `attempt` does not have the right.
   */
  release(attempt: AttemptWrite): void {
    if (this.#writer !== attempt) return;
    this.#writer = undefined;
    for (const wake of this.#releaseListeners.splice(0)) wake();
  }

  /** Resolves once no attempt has the right to write to the sink. */
  async whenReleased(): Promise<void> {
    while (this.#writer !== undefined)
      await new Promise<void>((resolve) => this.#releaseListeners.push(resolve));
  }
}

/**
 * Writes the bytes of one attempt to the sink. Buffers them in memory while another attempt at the
 * same piece writes to the sink.
 */
export class AttemptWrite {
  /** Coordinates the attempts at the piece. */
  readonly #piece: PieceWrite;
  /** Session of the sink. */
  readonly #session: SinkSession;
  /** Requested part of the piece. */
  readonly #part: SinkPart;
  /** Copies of the bytes that arrived while another attempt wrote to the sink. */
  #buffered: Uint8Array[] = [];
  /** Position of the next byte to write, relative to the requested content. */
  #position: number;

  constructor(piece: PieceWrite, session: SinkSession, part: SinkPart) {
    this.#piece = piece;
    this.#session = session;
    this.#part = part;
    this.#position = part.position;
  }

  /**
   * Writes the next bytes of the requested part to the sink, or copies them to memory while another
   * attempt writes. The memory of `chunk` may be reused once the promise has resolved.
   */
  async write(chunk: Uint8Array): Promise<void> {
    if (!this.#piece.claim(this)) {
      this.#buffered.push(chunk.slice());
      return;
    }
    await this.#flush();
    await this.#write(chunk);
  }

  /**
   * Writes all buffered bytes to the sink, after other writing attempts at the piece have ended.
   * Then no other attempt may write to the piece.
   */
  async finish(): Promise<void> {
    while (!this.#piece.claim(this)) await this.#piece.whenReleased();
    await this.#flush();
    this.#piece.finish(this);
  }

  /** Ends the attempt: drops its buffered bytes, and lets another attempt write to the sink. */
  end(): void {
    this.#buffered = [];
    this.#piece.release(this);
  }

  /** Writes the buffered bytes to the sink. */
  async #flush(): Promise<void> {
    for (let chunk = this.#buffered.shift(); chunk !== undefined; chunk = this.#buffered.shift()) {
      await this.#write(chunk);
    }
  }

  /** Writes a chunk to the sink and advances the position. */
  async #write(chunk: Uint8Array): Promise<void> {
    await this.#session.write(this.#part.number, this.#position, chunk);
    this.#position += chunk.length;
  }
}
