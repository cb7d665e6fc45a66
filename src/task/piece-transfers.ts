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

/** Dependencies and listeners of {@link PieceTransfers}. */
export interface TransferContext {
  readonly layout: TaskLayout;
  readonly session: SinkSession;
  readonly scheduler: Scheduler;
  readonly hashers: HasherFactory;
  readonly clock: Clock;
  readonly limiters: readonly RateLimiter[];
  /** Aborts when the download ends; no transfer starts afterwards. */
  readonly signal: AbortSignal;
  readonly comparison: Comparison;
  /** Requests the piece of an attempt from its parent. */
  readonly fetchPiece: (attempt: Attempt, signal: AbortSignal) => Promise<Piece>;
  /** Called when all bytes of a piece have arrived, so that the request to its parent is over. */
  readonly onReceived: (attempt: Attempt) => void;
  /** Called for bytes received from a parent. */
  readonly onBytes: (bytes: number, now: number) => void;
  /** Called when received bytes have been written and rate-limited. */
  readonly onProgress: () => void;
  /**
   * Called when a piece is verified and committed. `sequence` is that of its announcement,
   * `costSeconds` the duration of its transfer.
   */
  readonly onCommitted: (
    piece: SinkPiece,
    parent: string,
    sequence: number,
    costSeconds: number,
  ) => void;
  /** Called when a route that was left out has delivered a piece. */
  readonly onRouteRestored: (attempt: Attempt) => void;
  /** Called when the sink fails, which fails the download and is not blamed on the parent. */
  readonly onSinkFailure: (error: unknown) => void;
}

/** Attempt in flight. */
interface Transfer {
  readonly attempt: Attempt;
  readonly controller: AbortController;
  readonly startedAt: number;
  /** Received bytes of the requested part. */
  bytes: number;
  /**
   * True once the scheduler has dropped the attempt: another attempt won, or its parent was left
   * out.
   */
  isEnded: boolean;
}

/** Runs attempts: transfers each piece from a parent to the sink, and verifies it on the way. */
export class PieceTransfers {
  readonly #context: TransferContext;
  /** Attempts in flight, by ID. */
  readonly #transfers = new Map<number, Transfer>();
  /** Shared writes by piece number. */
  readonly #writes = new Map<number, PieceWrite>();
  readonly #buffers = new ReadBuffers();

  constructor(context: TransferContext) {
    this.#context = context;
  }

  /**
   * Received bytes of all pieces in flight. Of two attempts at a piece, the one with more bytes
   * counts.
   */
  get bytes(): number {
    const furthest = new Map<number, number>();
    for (const { attempt, bytes, isEnded } of this.#transfers.values()) {
      if (!isEnded)
        furthest.set(attempt.number, Math.max(bytes, furthest.get(attempt.number) ?? 0));
    }
    return [...furthest.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  /**
   * Runs an attempt to its end. Rejects with the error of the parent or the sink; resolves if the
   * scheduler dropped the attempt.
   */
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
      // Let another attempt at the piece write to the sink.
      write.end();
      this.#transfers.delete(attempt.id);
    }
  }

  /** Ends an attempt that the scheduler has dropped. */
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

  /** Transfers a piece to the sink, verifies it and commits it. */
  async #transfer(transfer: Transfer, write: AttemptWrite): Promise<void> {
    const { layout, scheduler, hashers, clock, comparison, fetchPiece, onReceived } = this.#context;
    const { attempt, controller } = transfer;
    const { piece, sequence } = await comparison.announce(attempt.parent, () =>
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
      this.#commit(transfer, check, write, sequence),
    );
  }

  /** Commits a piece that has arrived completely and is verified. */
  async #commit(
    transfer: Transfer,
    check: PieceCheck,
    write: AttemptWrite,
    sequence: number,
  ): Promise<void> {
    const { scheduler, session, clock, signal, onCommitted, onRouteRestored } = this.#context;
    const { attempt } = transfer;
    const { number } = attempt;
    // Another attempt may have won while the sink took the last bytes. The piece is committed once.
    requireActive(transfer);
    const wasLeftOut = scheduler.route(attempt.routeId).isLeftOut;
    for (const loser of scheduler.succeeded(attempt.id, clock.now())) this.end(loser);
    if (wasLeftOut) onRouteRestored(attempt);
    await this.#awaitSink(write.finish());
    const { digest, crc32 } = check;
    const committed: SinkPiece = { number, digest, crc32, source: attempt.parent };
    await this.#awaitSink(session.commit(committed));
    this.#writes.delete(number);
    // The bytes of the piece count as stored from now on, and no longer as in flight.
    this.#transfers.delete(attempt.id);
    if (!signal.aborted)
      onCommitted(committed, attempt.parent, sequence, (clock.now() - transfer.startedAt) / 1000);
  }

  /**
   * Transfers the content of a piece to `write`. Bytes are gathered in a reused buffer: memory does
   * not grow with the task, and files are written in few long writes.
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
    const forward = async (bytes: Uint8Array): Promise<void> => {
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
      // From here on, the time is spent on our side and not by the parent.
      scheduler.setWaiting(attempt.id, false, now);
      const gathered = chunk.buffer === room.buffer && chunk.byteOffset === room.byteOffset;
      if (gathered) filled += chunk.length;
      if (!gathered || filled === buffer.length) {
        await forward(buffer.subarray(0, filled));
        filled = 0;
        if (!gathered) await forward(chunk);
      }
      for (const flow of flows) await flow.takeAll(chunk.length, controller.signal);
      onProgress();
      scheduler.setWaiting(attempt.id, true, clock.now());
    }
    await forward(buffer.subarray(0, filled));
    // After a failure the buffer is not reused: a pending read may still fill it.
    this.#buffers.give(buffer);
  }

  /** Waits for the sink and reports its failure. */
  async #awaitSink(operation: Promise<void>): Promise<void> {
    try {
      await operation;
    } catch (error) {
      this.#context.onSinkFailure(error);
      throw error;
    }
  }

  /** Returns the shared write of all attempts at a piece. */
  #writeOf(number: number): PieceWrite {
    const { layout, session } = this.#context;
    const part = layout.part(number);
    if (part === undefined)
      throw new VortexError("Internal", `writing piece ${number}: outside the requested range`);
    const write = this.#writes.get(number) ?? new PieceWrite(session, part);
    this.#writes.set(number, write);
    return write;
  }
}

/**
 * Throws if the scheduler has dropped the attempt.
 * @throws `Aborted`
 */
function requireActive({ isEnded }: Transfer): void {
  if (isEnded) throw new VortexError("Aborted", "the piece is not wanted any more");
}
