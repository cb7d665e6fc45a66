import type { SinkPart, SinkSession } from "./sink.ts";

/**
 * The way of one piece into the sink, for all attempts at it. One attempt at a time writes; another one keeps what comes in
 * memory, and takes over when the writer is gone. So bytes of two attempts never mix, and nothing is written after the end.
 */
export class PieceWrite {
  readonly #session: SinkSession;
  readonly #part: SinkPart;
  #writer: AttemptWrite | undefined;
  #releaseListeners: (() => void)[] = [];
  /** The attempt that wrote the whole piece. Nobody else writes after it. */
  #finished: AttemptWrite | undefined;

  constructor(session: SinkSession, part: SinkPart) {
    this.#session = session;
    this.#part = part;
  }

  /** The writing of one attempt. */
  begin(): AttemptWrite {
    return new AttemptWrite(this, this.#session, this.#part);
  }

  /** Makes `attempt` the writer, if there is none. */
  claim(attempt: AttemptWrite): boolean {
    if (this.#finished !== undefined && this.#finished !== attempt) return false;
    this.#writer ??= attempt;
    return this.#writer === attempt;
  }

  /** `attempt`, which is the writer, has written all of the piece. */
  finish(attempt: AttemptWrite): void {
    this.#finished = attempt;
  }

  /** Ends the writing of `attempt`, if it is the writer. */
  release(attempt: AttemptWrite): void {
    if (this.#writer !== attempt) return;
    this.#writer = undefined;
    for (const wake of this.#releaseListeners.splice(0)) wake();
  }

  /** Resolves once there is no writer. */
  async whenReleased(): Promise<void> {
    while (this.#writer !== undefined)
      await new Promise<void>((resolve) => this.#releaseListeners.push(resolve));
  }
}

/** One attempt's bytes on their way into the sink. */
export class AttemptWrite {
  readonly #piece: PieceWrite;
  readonly #session: SinkSession;
  readonly #part: SinkPart;
  /** What came while another attempt was the writer, copied. */
  #buffered: Uint8Array[] = [];
  #position: number;

  constructor(piece: PieceWrite, session: SinkSession, part: SinkPart) {
    this.#piece = piece;
    this.#session = session;
    this.#part = part;
    this.#position = part.position;
  }

  /** Takes the next bytes of the wanted part. Once it has resolved, the memory of the chunk is the caller's again. */
  async write(chunk: Uint8Array): Promise<void> {
    if (!this.#piece.claim(this)) {
      this.#buffered.push(chunk.slice());
      return;
    }
    await this.#flush();
    await this.#write(chunk);
  }

  /** Writes whatever is not written yet. The other attempts at the piece are ending. */
  async finish(): Promise<void> {
    while (!this.#piece.claim(this)) await this.#piece.whenReleased();
    await this.#flush();
    this.#piece.finish(this);
  }

  /** The attempt is over. */
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
