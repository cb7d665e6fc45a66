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

/** Dependencies and callbacks of {@link PieceTransfers}. */
export interface TransferContext {
  /** Layout of the task. */
  readonly layout: TaskLayout;
  /** Session of the sink that the pieces are written to. */
  readonly session: SinkSession;
  /** Receives the results of the attempts. */
  readonly scheduler: Scheduler;
  /** Creates hash functions. */
  readonly hashers: HasherFactory;
  /** Clock of the runtime. */
  readonly clock: Clock;
  /** Rate limiters that all received bytes must pass. */
  readonly limiters: readonly RateLimiter[];
  /** Aborts when the download ends. No transfer starts afterwards. */
  readonly signal: AbortSignal;
  /** Compares the content of the parents before their pieces are committed. */
  readonly comparison: Comparison;
  /** Requests the piece of an attempt from its parent. */
  readonly fetchPiece: (attempt: Attempt, signal: AbortSignal) => Promise<Piece>;
  /**
   * Called when all bytes of a piece have been received, so that the parent may receive another
   * request.
   */
  readonly onReceived: (attempt: Attempt) => void;
  /** Called for each chunk received from a parent, with its length in bytes and the time in ms. */
  readonly onBytes: (bytes: number, now: number) => void;
  /** Called when received bytes have passed the rate limits. */
  readonly onProgress: () => void;
  /**
   * Called when a piece is verified and committed to the sink. The parameter `sequence` is the
   * sequence number of the announcement.
   */
  readonly onCommitted: (
    piece: SinkPiece,
    parent: string,
    sequence: number,
    timing: TransferTiming,
  ) => void;
  /** Called when a route that was excluded has delivered a verified piece. */
  readonly onRouteRestored: (attempt: Attempt) => void;
  /**
   * Called when the sink fails. This fails the download, and does not count as a failure of the
   * parent.
   */
  readonly onSinkFailure: (error: unknown) => void;
}

/** Start and duration of the transfer of a piece. */
export interface TransferTiming {
  /** Duration in ms from the request until the piece was stored. */
  readonly cost: number;
  /**
   * Wall-clock time of the request, in ms since the Unix epoch; undefined for a piece that was not
   * transferred.
   */
  readonly startedAt: number | undefined;
}

/** State of an attempt in flight, which transfers a piece from one parent. */
interface Transfer {
  /** Piece and route of the attempt, as the scheduler chose them. */
  readonly attempt: Attempt;
  /** Aborts the request to the parent. */
  readonly controller: AbortController;
  /** Time of the start, in ms on the monotonic clock. */
  readonly startedAt: number;
  /** Wall-clock time of the start, in ms since the Unix epoch. */
  readonly startedAtUnix: number;
  /** Number of received bytes of the requested part of the piece. */
  bytes: number;
  /**
   * True once the scheduler has ended the attempt. Reasons are that another attempt at the piece
   * succeeded first, or that the parent is no longer used.
   */
  isEnded: boolean;
}

/**
 * Runs the attempts that the scheduler starts. Each attempt transfers a piece from a parent to the
 * sink and verifies it.
 */
export class PieceTransfers {
  /** Dependencies and callbacks. */
  readonly #context: TransferContext;
  /** Attempts in flight, by ID. */
  readonly #transfers = new Map<number, Transfer>();
  /** Writes to the sink, by piece number. All attempts at a piece share one {@link PieceWrite}. */
  readonly #writes = new Map<number, PieceWrite>();
  /** Pool of buffers for received bytes. */
  readonly #buffers = new ReadBuffers();

  constructor(context: TransferContext) {
    this.#context = context;
  }

  /**
   * Number of received bytes of all pieces in flight. If two attempts fetch the same piece, only
   * the one with more bytes counts.
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
   * Runs an attempt to its end. Rejects with the error of the parent or the sink. Resolves if the
   * piece is committed, or if the scheduler has ended the attempt.
   */
  async run(attempt: Attempt): Promise<void> {
    const { signal, clock } = this.#context;
    const controller = new AbortController();
    const transfer: Transfer = {
      attempt,
      controller,
      startedAt: clock.now(),
      startedAtUnix: Date.now(),
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

  /**
   * Cancels an attempt that the scheduler has ended. Does nothing if the attempt is not in flight.
   */
  end({ id }: Attempt): void {
    this.#end(
      this.#transfers.get(id),
      new VortexError("Aborted", "the piece is not wanted from this parent any more"),
    );
  }

  /** Cancels all attempts. */
  endAll(reason: VortexError): void {
    for (const transfer of this.#transfers.values()) this.#end(transfer, reason);
  }

  /** Marks an attempt as ended and aborts its request with `reason`. */
  #end(transfer: Transfer | undefined, reason: VortexError): void {
    if (transfer === undefined) return;
    transfer.isEnded = true;
    transfer.controller.abort(reason);
  }

  /**
   * Transfers a piece to the sink and verifies it. Waits until its parent was compared with other
   * parents, and then commits the piece.
   */
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

  /**
   * Commits a piece that has been received completely and verified. Cancels other attempts at the
   * same piece.
   *
   * @param sequence sequence number of the announcement of the piece
   */
  async #commit(
    transfer: Transfer,
    check: PieceCheck,
    write: AttemptWrite,
    sequence: number,
  ): Promise<void> {
    const { scheduler, session, clock, signal, onCommitted, onRouteRestored } = this.#context;
    const { attempt } = transfer;
    const { number } = attempt;
    // Another attempt may have succeeded during the last write to the sink. Each piece is committed
    // only once.
    requireActive(transfer);
    const wasExcluded = scheduler.route(attempt.routeId).isExcluded;
    for (const loser of scheduler.succeeded(attempt.id, clock.now())) this.end(loser);
    if (wasExcluded) onRouteRestored(attempt);
    await this.#awaitSink(write.finish());
    const { digest, crc32, unverified } = check;
    const committed: SinkPiece = {
      number,
      digest,
      crc32,
      source: attempt.parent,
      ...(unverified && { unverified: true }),
    };
    await this.#awaitSink(session.commit(committed));
    this.#writes.delete(number);
    // The bytes of the piece count as stored from now on, and no longer as in flight.
    this.#transfers.delete(attempt.id);
    if (signal.aborted) return;
    const cost = clock.now() - transfer.startedAt;
    onCommitted(committed, attempt.parent, sequence, { cost, startedAt: transfer.startedAtUnix });
  }

  /**
   * Transfers the content of a piece to `write`. Received bytes are collected in a buffer that is
   * reused for later pieces. So memory does not grow with the task, and files are written in few
   * long writes.
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
      // Waiting for the sink and for the rate limit does not count as wait time for the parent.
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

  /**
   * Awaits an operation of the sink. If it fails, reports the error to `onSinkFailure` and rejects
   * with it.
   */
  async #awaitSink(operation: Promise<void>): Promise<void> {
    try {
      await operation;
    } catch (error) {
      this.#context.onSinkFailure(error);
      throw error;
    }
  }

  /**
   * Returns the {@link PieceWrite} that all attempts at a piece share. Creates it for the first
   * attempt.
   */
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
 * Requires that the scheduler has not ended the attempt.
 *
 * @throws `Aborted` if the scheduler has ended the attempt
 */
function requireActive({ isEnded }: Transfer): void {
  if (isEnded) throw new VortexError("Aborted", "the piece is not wanted any more");
}
