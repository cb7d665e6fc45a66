import type { SinkPart, SinkSession } from "./sink.ts";

/**
 * Arbitrates the writes of concurrent attempts at one piece. One attempt at a time is the writer.
 * Another one buffers its bytes in memory, and takes over when the writer ends. So bytes of two
 * attempts never mix, and nothing is written after the piece is complete.
 */
export class PieceWrite {
  readonly #session: SinkSession;
  readonly #part: SinkPart;
  /** Attempt that currently writes. */
  #writer: AttemptWrite | undefined;
  /** Called when the writer is released. */
  #releaseListeners: (() => void)[] = [];
  /** Attempt that wrote the whole piece; no other one may write afterwards. */
  #finished: AttemptWrite | undefined;

  constructor(session: SinkSession, part: SinkPart) {
    this.#session = session;
    this.#part = part;
  }

  /** Registers an attempt and returns its writing side. */
  begin(): AttemptWrite {
    return new AttemptWrite(this, this.#session, this.#part);
  }

  /** Makes `attempt` the writer if there is none. Returns true if it is the writer now. */
  claim(attempt: AttemptWrite): boolean {
    if (this.#finished !== undefined && this.#finished !== attempt) return false;
    this.#writer ??= attempt;
    return this.#writer === attempt;
  }

  /** Records that the writer `attempt` has written the whole piece. */
  finish(attempt: AttemptWrite): void {
    this.#finished = attempt;
  }

  /** Lets another attempt write, if `attempt` is the writer. */
  release(attempt: AttemptWrite): void {
    if (this.#writer !== attempt) return;
    this.#writer = undefined;
    for (const wake of this.#releaseListeners.splice(0)) wake();
  }

  /** Resolves once no attempt is the writer. */
  async whenReleased(): Promise<void> {
    while (this.#writer !== undefined)
      await new Promise<void>((resolve) => this.#releaseListeners.push(resolve));
  }
}

/** Writes the bytes of one attempt to the sink, or buffers them while another attempt writes. */
export class AttemptWrite {
  readonly #piece: PieceWrite;
  readonly #session: SinkSession;
  readonly #part: SinkPart;
  /** Copies of the bytes that arrived while another attempt was the writer. */
  #buffered: Uint8Array[] = [];
  /** Position of the next byte in the sink. */
  #position: number;

  constructor(piece: PieceWrite, session: SinkSession, part: SinkPart) {
    this.#piece = piece;
    this.#session = session;
    this.#part = part;
    this.#position = part.position;
  }

  /**
   * Accepts the next bytes of the requested part. The memory of `chunk` may be reused once the
   * promise has resolved.
   */
  async write(chunk: Uint8Array): Promise<void> {
    if (!this.#piece.claim(this)) {
      this.#buffered.push(chunk.slice());
      return;
    }
    await this.#flush();
    await this.#write(chunk);
  }

  /** Writes all buffered bytes, once the other attempts at the piece have ended. */
  async finish(): Promise<void> {
    while (!this.#piece.claim(this)) await this.#piece.whenReleased();
    await this.#flush();
    this.#piece.finish(this);
  }

  /** Ends the attempt and drops its buffered bytes. */
  end(): void {
    this.#buffered = [];
    this.#piece.release(this);
  }

  async #flush(): Promise<void> {
    for (let chunk = this.#buffered.shift(); chunk !== undefined; chunk = this.#buffered.shift()) {
      await this.#write(chunk);
    }
  }

  async #write(chunk: Uint8Array): Promise<void> {
    await this.#session.write(this.#part.number, this.#position, chunk);
    this.#position += chunk.length;
  }
}
