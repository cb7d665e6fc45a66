import type { HasherFactory } from "../digest/hasher.ts";
import { VortexError } from "../errors.ts";
import type { Piece } from "../piece.ts";
import type { RateLimiter } from "../rate-limiter.ts";
import type { Clock } from "../runtime.ts";
import type { Comparison } from "./comparison.ts";
import type { TaskLayout } from "./layout.ts";
import { PieceCheck, requireDigest, requireExtent } from "./piece-check.ts";
import { type AttemptWrite, PieceWrite } from "./piece-write.ts";
import { ReadBuffers } from "./read-buffers.ts";
import type { Attempt, Scheduler } from "./scheduler.ts";
import type { SinkPiece, SinkSession } from "./sink.ts";

/** What transfers work with, and whom they tell. */
export interface TransferContext {
  readonly layout: TaskLayout;
  readonly session: SinkSession;
  readonly scheduler: Scheduler;
  readonly hashers: HasherFactory;
  readonly clock: Clock;
  readonly limiters: readonly RateLimiter[];
  /** Ends with the download; what is not begun then does not begin. */
  readonly signal: AbortSignal;
  readonly comparison: Comparison;
  /** Asks the parent of an attempt for the piece. */
  readonly fetchPiece: (attempt: Attempt, signal: AbortSignal) => Promise<Piece>;
  /** All of a piece came: the request to its parent is over. */
  readonly onReceived: (attempt: Attempt) => void;
  /** Bytes came from a parent. */
  readonly onBytes: (bytes: number, now: number) => void;
  /** What came has been taken care of. */
  readonly onProgress: () => void;
  /** A piece is in the sink, and right. `at`: position of its announcement among all. */
  readonly onCommitted: (piece: SinkPiece, parent: string, at: number, costSeconds: number) => void;
  /** A route that was left out has delivered a piece. */
  readonly onRouteRestored: (attempt: Attempt) => void;
  /** The sink failed: that is the download's failure, and not the parent's. */
  readonly onSinkFailure: (error: unknown) => void;
}

/** An attempt that is under way. */
interface Transfer {
  readonly attempt: Attempt;
  readonly controller: AbortController;
  readonly startedAt: number;
  /** Wanted bytes that came. */
  bytes: number;
  /** The scheduler counts on it no more: another one was first, or its parent is out. */
  isEnded: boolean;
}

/** Attempts under way: each brings a piece from a parent into the sink, and checks it on the way. */
export class PieceTransfers {
  readonly #context: TransferContext;
  readonly #transfers = new Map<number, Transfer>();
  readonly #writes = new Map<number, PieceWrite>();
  readonly #buffers = new ReadBuffers();

  constructor(context: TransferContext) {
    this.#context = context;
  }

  /** Wanted bytes of pieces under way. Of two attempts at one piece, the one that is further counts. */
  get bytes(): number {
    const furthest = new Map<number, number>();
    for (const { attempt, bytes, isEnded } of this.#transfers.values()) {
      if (!isEnded)
        furthest.set(attempt.number, Math.max(bytes, furthest.get(attempt.number) ?? 0));
    }
    return [...furthest.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  /** Makes an attempt. Rejects with what its parent did, or the sink; not when it was ended. */
  async run(attempt: Attempt): Promise<void> {
    const { signal, clock } = this.#context;
    const controller = new AbortController();
    const transfer: Transfer = {
      attempt,
      controller,
      startedAt: clock.now(),
      bytes: 0,
      isEnded: false,
    };
    if (signal.aborted) controller.abort(signal.reason);
    this.#transfers.set(attempt.id, transfer);
    const write = this.#writeOf(attempt.number).begin();
    try {
      await this.#transfer(transfer, write);
    } catch (error) {
      if (!transfer.isEnded) throw error;
    } finally {
      // So that another attempt does not wait for this one's way into the sink.
      write.end();
      this.#transfers.delete(attempt.id);
    }
  }

  /** Ends an attempt on which the scheduler counts no more. */
  end({ id }: Attempt): void {
    this.#end(
      this.#transfers.get(id),
      new VortexError("Aborted", "the piece is not wanted from this parent any more"),
    );
  }

  /** Ends all attempts. */
  endAll(reason: VortexError): void {
    for (const transfer of this.#transfers.values()) this.#end(transfer, reason);
  }

  #end(transfer: Transfer | undefined, reason: VortexError): void {
    if (transfer === undefined) return;
    transfer.isEnded = true;
    transfer.controller.abort(reason);
  }

  /** Fetches a piece to the sink, and counts it when it is right. */
  async #transfer(transfer: Transfer, write: AttemptWrite): Promise<void> {
    const { layout, scheduler, hashers, clock, comparison, fetchPiece, onReceived } = this.#context;
    const { attempt, controller } = transfer;
    const { piece, at } = await comparison.announce(attempt.parent, () =>
      fetchPiece(attempt, controller.signal),
    );
    scheduler.answered(attempt.id, clock.now());
    let check: PieceCheck;
    try {
      requireActive(transfer);
      requireExtent(piece, layout);
      requireDigest(piece, layout);
      check = new PieceCheck(layout, piece, hashers);
      await this.#receive(piece, check, transfer, write);
      requireActive(transfer);
      check.verify();
    } catch (error) {
      piece.cancel();
      throw error;
    }
    onReceived(attempt);
    await comparison.commit(attempt.parent, controller.signal, () =>
      this.#commit(transfer, check, write, at),
    );
  }

  /** Commits a piece that came and is right. */
  async #commit(
    transfer: Transfer,
    check: PieceCheck,
    write: AttemptWrite,
    at: number,
  ): Promise<void> {
    const { scheduler, session, clock, signal, onCommitted, onRouteRestored } = this.#context;
    const { attempt } = transfer;
    const { number } = attempt;
    // Another attempt may have been first while the sink took the last bytes: the piece is committed once.
    requireActive(transfer);
    const wasOut = scheduler.route(attempt.routeId).isLeftOut;
    for (const loser of scheduler.succeeded(attempt.id, clock.now())) this.end(loser);
    if (wasOut) onRouteRestored(attempt);
    await this.#awaitSink(write.finish());
    const sunk: SinkPiece = { number, digest: check.digest, crc32: check.crc32 };
    await this.#awaitSink(session.commit(sunk));
    this.#writes.delete(number);
    // Its bytes are not under way any more: they are not to be counted twice.
    this.#transfers.delete(attempt.id);
    if (!signal.aborted)
      onCommitted(sunk, attempt.parent, at, (clock.now() - transfer.startedAt) / 1000);
  }

  /**
   * Brings the content of a piece to the end of `write`. It is gathered in memory that is used again, so that what a task takes
   * does not grow with its size, and so that files are written in few long writes.
   */
  async #receive(
    piece: Piece,
    check: PieceCheck,
    transfer: Transfer,
    write: AttemptWrite,
  ): Promise<void> {
    const { scheduler, clock, limiters, onBytes, onProgress } = this.#context;
    const { attempt, controller } = transfer;
    const flows = limiters.map((limiter) => limiter.flow(scheduler));
    const buffer = this.#buffers.take();
    let filled = 0;
    const pass = async (bytes: Uint8Array): Promise<void> => {
      const wanted = check.update(bytes);
      transfer.bytes += wanted.length;
      if (wanted.length > 0) await this.#awaitSink(write.write(wanted));
    };
    for (;;) {
      const room = buffer.subarray(filled);
      const chunk = await piece.read(room);
      const now = clock.now();
      requireActive(transfer);
      if (chunk === undefined) break;
      scheduler.arrived(attempt.id, chunk.length, now);
      onBytes(chunk.length, now);
      // What follows is our own time, and not the parent's.
      scheduler.setWaiting(attempt.id, false, now);
      const gathered = chunk.buffer === room.buffer && chunk.byteOffset === room.byteOffset;
      if (gathered) filled += chunk.length;
      if (!gathered || filled === buffer.length) {
        await pass(buffer.subarray(0, filled));
        filled = 0;
        if (!gathered) await pass(chunk);
      }
      for (const flow of flows) await flow.takeAll(chunk.length, controller.signal);
      onProgress();
      scheduler.setWaiting(attempt.id, true, clock.now());
    }
    await pass(buffer.subarray(0, filled));
    // After a failure it is not given back: whoever was to fill it may do so still.
    this.#buffers.give(buffer);
  }

  /** Waits for the sink. */
  async #awaitSink(operation: Promise<void>): Promise<void> {
    try {
      await operation;
    } catch (error) {
      this.#context.onSinkFailure(error);
      throw error;
    }
  }

  #writeOf(number: number): PieceWrite {
    const { layout, session } = this.#context;
    const part = layout.part(number);
    if (part === undefined) throw new VortexError("Internal", `piece ${number} is not wanted`);
    const write = this.#writes.get(number) ?? new PieceWrite(session, part);
    this.#writes.set(number, write);
    return write;
  }
}

function requireActive({ isEnded }: Transfer): void {
  if (isEnded) throw new VortexError("Aborted", "the piece is not wanted any more");
}
