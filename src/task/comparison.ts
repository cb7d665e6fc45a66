import { parseDigest } from "../digest/digest.ts";
import type { DigestAlgorithm, HasherFactory } from "../digest/hasher.ts";
import { untilAborted, VortexError, withAddress } from "../errors.ts";
import type { Piece } from "../piece.ts";
import { Agreement, type Claim, isEarlierSource, type Question } from "./agreement.ts";
import type { TaskLayout } from "./layout.ts";
import { hashPart } from "./resumed-pieces.ts";
import { retryDecision } from "./retry-decision.ts";
import type { SinkPiece, SinkSession } from "./sink.ts";

/** Dependencies and callbacks of a {@link Comparison}. */
export interface ComparisonContext {
  /** Layout of the task. */
  readonly layout: TaskLayout;
  /** Session of the sink that the pieces are stored in. */
  readonly session: SinkSession;
  /** Creates hash functions. */
  readonly hashers: HasherFactory;
  /** Returns a random number from 0 to 1. */
  readonly random: () => number;
  /** Names of the parents, in the order of the request. */
  readonly parents: readonly string[];
  /**
   * True if each piece arrives as one message that includes its content, as over gRPC. A parent is
   * then asked to announce only one piece for its first comparison.
   */
  readonly piecesAreMessages: boolean;
  /**
   * True if the digest of the whole content is known and is verified at the end. Parents are then
   * not asked to announce their first piece again.
   */
  readonly hasTaskDigest: boolean;
  /**
   * Returns true during the verification of those pieces of an earlier download that parents are
   * compared with first. No parent is asked and no piece is committed meanwhile.
   */
  readonly isVerifyingResumed: () => boolean;
  /** Aborts all requests to parents. */
  readonly signal: AbortSignal;
  /**
   * Requests a piece from a parent to read its announced digest. The parameter `last` is true for
   * the final comparison request to the parent: the end of the whole download waits for the
   * response.
   */
  readonly ask: (parent: string, number: number, last: boolean) => Promise<Piece>;
  /** Returns true if a parent can no longer be asked to announce a piece. */
  readonly isUnavailable: (parent: string) => boolean;
  /**
   * Returns true if a parent may have a piece. If `last` is true, this includes a parent that may
   * still announce the piece.
   */
  readonly mayHave: (parent: string, number: number, last: boolean) => boolean;
  /**
   * Reserves one of the limited concurrent requests to a parent. Returns false if the limit is
   * reached.
   */
  readonly takeSlot: (parent: string) => boolean;
  /** Releases a concurrent request that `takeSlot` reserved. */
  readonly releaseSlot: (parent: string) => void;
  /**
   * Called when the state has changed, so that the next step may send a comparison request or
   * commit a piece.
   */
  readonly onChange: () => void;
  /**
   * Called when a parent announces a digest that differs from the digest of a piece in the sink.
   */
  readonly onDisagreement: (parent: string, error: VortexError) => void;
}

/** Attempt with a verified piece that is not committed before the comparison with its parent. */
interface Waiter {
  /** Name of the parent. */
  readonly parent: string;
  /** Makes the attempt check again whether the piece may be committed. */
  readonly resolve: () => void;
  /** Fails the attempt. */
  readonly reject: (error: unknown) => void;
}

/**
 * Maximum number of pieces that one parent is asked for in its first comparison, if the content of
 * a piece can be cancelled unread.
 */
const MAX_COMPARED_PIECES = 3;

/**
 * Compares the content of the parents with each other, and with the pieces of an earlier download.
 * So the downloaded content does not mix two versions of the task.
 *
 * SyncPieces announces no digests. So this class requests pieces from each parent that are already
 * in the sink. It compares the announced digests, and cancels the content unread.
 *
 * The comparison with a parent runs while the first piece of that parent is being transferred. That
 * piece is committed after the comparison.
 */
export class Comparison {
  /** Dependencies and callbacks. */
  readonly #context: ComparisonContext;
  /** Tracks which parents and earlier downloads have the same content. */
  readonly #agreement: Agreement;
  /**
   * Attempts with a verified piece that may not be committed yet. Those that were aborted or
   * rejected remain until the next call of `wake`, which has no effect on them.
   */
  readonly #waiters: Waiter[] = [];
  /** Attempts whose piece was requested but not announced yet. */
  readonly #pendingAnnouncements = new Set<{ readonly parent: string }>();
  /** Promises of the comparison requests without a response. */
  readonly #running = new Set<Promise<void>>();
  /**
   * True if the caller gave a digest for every requested piece. No comparison is necessary then.
   */
  readonly #allDigestsGiven: boolean;
  /**
   * Number of calls of `restart`. A response to a comparison request is ignored if this number has
   * changed since the request.
   */
  #epoch = 0;
  /**
   * Parent whose piece is being committed as the first piece in the sink. All other parents are
   * compared with it. Undefined while no first piece is being committed.
   */
  #reference: string | undefined;
  /** Number of commits in progress that began with an empty sink. */
  #referenceCommits = 0;

  constructor(context: ComparisonContext) {
    const { layout, piecesAreMessages, random } = context;
    this.#context = context;
    this.#agreement = new Agreement(piecesAreMessages ? 1 : MAX_COMPARED_PIECES, random);
    this.#allDigestsGiven = layout.hasAllDigests;
  }

  /**
   * Names of the sources of all pieces in the sink. A source is a parent, or the pieces that an
   * earlier download stored.
   */
  get contributors(): readonly string[] {
    return this.#agreement.contributors;
  }

  /**
   * True if all sources of the pieces in the sink were compared and have the same content, and each
   * piece was verified by a digest. Also true if the caller gave the digests of all requested
   * pieces.
   */
  get complete(): boolean {
    return this.#allDigestsGiven || this.#agreement.complete;
  }

  /**
   * Returns true until `parent` has announced the digest of its first piece. Until then, no second
   * piece may be requested from it.
   *
   * If the parent changes its content meanwhile, it may answer the second request from the old
   * content, and the first one from the new content. A later check of the first piece would not
   * show that.
   *
   * Always false if the caller gave the digests of all pieces, or if the digest of the whole
   * content is known.
   */
  mustAnnounceFirst(parent: string): boolean {
    if (this.#allDigestsGiven || this.#context.hasTaskDigest) return false;
    return !this.#agreement.hasAnnounced(parent);
  }

  /**
   * Requests a piece from a parent with `ask` and records the announced digest. Resolves with the
   * piece and the sequence number of its announcement. Rejects with the error of `ask`, or with
   * `Stalled` if a later request to the parent was announced first, before any other.
   */
  async announce(
    parent: string,
    ask: () => Promise<Piece>,
  ): Promise<{ readonly piece: Piece; readonly sequence: number }> {
    const pending = { parent };
    this.#pendingAnnouncements.add(pending);
    const precedesFirst = this.mustAnnounceFirst(parent);
    try {
      const piece = await ask();
      if (precedesFirst && !this.mustAnnounceFirst(parent)) {
        // A hedged request was announced first. This one may be answered from older content.
        piece.cancel();
        throw new VortexError(
          "Stalled",
          `piece ${piece.number}: expected an announcement before that of a hedged request, got it after`,
          { addr: parent },
        );
      }
      const { number, digest } = piece;
      return { piece, sequence: this.#agreement.announced(parent, number, digest) };
    } finally {
      this.#pendingAnnouncements.delete(pending);
      this.#context.onChange();
    }
  }

  /**
   * Calls `commit` once `parent` is known to have the same content as the pieces in the sink.
   * Rejects if the comparison with `parent` fails, if `signal` aborts, or if `commit` rejects.
   */
  async commit(parent: string, signal: AbortSignal, commit: () => Promise<void>): Promise<void> {
    while (!this.#mayCommit(parent)) {
      // Allow another question to the parent if the last one failed.
      this.#agreement.clearFailure(parent);
      await this.#waitForChange(parent, signal);
    }
    // The first committed piece becomes the reference for all other parents, so only one parent may
    // commit it.
    const isReference = this.#agreement.isEmpty;
    if (isReference) {
      this.#reference = parent;
      this.#referenceCommits++;
    }
    try {
      await commit();
    } finally {
      if (isReference && --this.#referenceCommits === 0) this.#reference = undefined;
      this.wake();
    }
  }

  /**
   * Records a committed piece.
   *
   * @param source name of the source of the piece
   * @param sequence see {@link HeldPiece.sequence}
   */
  hold(piece: SinkPiece, source: string, sequence: number): void {
    this.#agreement.hold(piece, source, sequence);
  }

  /** Makes all attempts with a verified piece check again whether they may commit it. */
  wake(): void {
    for (const { resolve } of this.#waiters.splice(0)) resolve();
  }

  /**
   * Sends the comparison requests that are due to the parents. Sends none if the caller gave all
   * digests, or during the verification of resumed pieces that parents are compared with.
   *
   * @param allInFlight true if all remaining pieces are in flight, so that a parent may get its
   * final comparison request
   */
  step(allInFlight: boolean): void {
    const { parents, hasTaskDigest, piecesAreMessages, isVerifyingResumed } = this.#context;
    if (this.#allDigestsGiven || isVerifyingResumed()) return;
    // Over gRPC, a final question would hold one more message in memory while pieces are in flight.
    const mayAskLast = allInFlight && !hasTaskDigest && !piecesAreMessages;
    const announcing = [...this.#pendingAnnouncements].map(({ parent }) => parent);
    for (const parent of parents) {
      const question = this.#agreement.question(parent, this.#mayHave(parent));
      if (question !== undefined) this.#begin(question, false);
      else if (mayAskLast && !announcing.includes(parent)) this.#askLast(parent, false);
    }
  }

  /**
   * Sends the final comparison requests to the parents, once all requested pieces are in the sink.
   * Returns true if all of them have a response and no other one is due. Must be called again after
   * each response until it returns true.
   *
   * Sends none if the caller gave the digests of all requested pieces, or if the digest of the
   * whole content is known.
   */
  finish(): boolean {
    if (this.#allDigestsGiven || this.#context.hasTaskDigest) return true;
    const due = this.#context.parents.filter((parent) => this.#askLast(parent, true));
    return due.length === 0 && this.#running.size === 0;
  }

  /**
   * Keeps only the pieces of the given sources, and compares these sources again. Returns the kept
   * pieces. No attempt may be in flight.
   */
  restart(sources: ReadonlySet<string>): readonly SinkPiece[] {
    this.#epoch++;
    const kept = [...this.#agreement.pieces].filter(({ source }) => sources.has(source));
    this.#agreement.restart(kept);
    return kept.map(({ piece }) => piece);
  }

  /**
   * Returns true if a piece of `parent` may be committed now. This requires that the sink is empty,
   * or that a comparison of digests found no difference between `parent` and the sink.
   */
  #mayCommit(parent: string): boolean {
    if (this.#allDigestsGiven) return true;
    if (this.#context.isVerifyingResumed()) return false;
    if (!this.#agreement.isEmpty) return this.#agreement.mayCommit(parent, this.#mayHave(parent));
    return (this.#reference ?? parent) === parent;
  }

  /**
   * Resolves when the attempts should check again whether they may commit. Rejects if the
   * comparison with `parent` fails, or `signal` aborts.
   */
  #waitForChange(parent: string, signal: AbortSignal): Promise<void> {
    const changed = new Promise<void>((resolve, reject) => {
      this.#waiters.push({ parent, resolve, reject });
    });
    this.#context.onChange();
    return untilAborted(changed, signal, "comparing the parents");
  }

  /**
   * Returns a function that returns true for the number of a piece that `parent` may have. The
   * parameter `last` is that of {@link ComparisonContext.mayHave}.
   */
  #mayHave(parent: string, last = false): (number: number) => boolean {
    return (number) => this.#context.mayHave(parent, number, last);
  }

  /**
   * Sends the final comparison request to `parent`. Returns false if none is necessary or possible
   * now.
   *
   * @param isComplete true if all requested pieces are in the sink
   */
  #askLast(parent: string, isComplete: boolean): boolean {
    const question = this.#agreement.lastQuestion(
      parent,
      this.#mayHave(parent, true),
      this.#context.isUnavailable,
      isComplete,
    );
    if (question !== undefined) this.#begin(question, true);
    return question !== undefined;
  }

  /**
   * Sends a comparison request, as far as the limit of concurrent requests to the parent allows.
   * Pieces beyond the limit are omitted.
   */
  #begin(question: Question, last: boolean): void {
    const { parent } = question;
    const claims = question.claims.filter(() => this.#context.takeSlot(parent));
    if (claims.length === 0) return;
    const asked = { ...question, claims };
    this.#agreement.asked(asked);
    const running = this.#ask(asked, last).finally(() => {
      this.#running.delete(running);
      this.#context.onChange();
    });
    this.#running.add(running);
  }

  /**
   * Sends the piece requests of a comparison request and evaluates the responses together. The
   * comparison fails if any digest differs or any request fails.
   */
  async #ask(question: Question, last: boolean): Promise<void> {
    const { parent, claims } = question;
    const epoch = this.#epoch;
    const answers = await Promise.allSettled(
      claims.map((claim) => this.#compare(parent, claim, last)),
    );
    if (epoch !== this.#epoch) return;
    const values = answers.map((answer) =>
      answer.status === "fulfilled" ? answer.value : undefined,
    );
    const disagreement = values.find((value) => value instanceof VortexError);
    const failed = answers.find(({ status }) => status === "rejected") as
      | PromiseRejectedResult
      | undefined;
    if (disagreement === undefined && failed === undefined) {
      this.#agreement.answered(
        question,
        claims.filter((_, index) => values[index] === true),
      );
      this.wake();
      return;
    }
    this.#agreement.failed(question);
    if (disagreement !== undefined) this.#context.onDisagreement(parent, disagreement);
    for (const waiter of this.#waiters)
      if (waiter.parent === parent) waiter.reject(disagreement ?? failed?.reason);
  }

  /**
   * Requests a piece from a parent and compares the announced digest with that of the claim.
   * Resolves with true if the digests are equal, or with a `DigestMismatch` error if they differ.
   *
   * Resolves with false if they cannot be compared: the parent does not have the piece, announces
   * no digest of it, or uses another digest algorithm. Rejects if the request fails for another
   * reason.
   */
  async #compare(parent: string, claim: Claim, last: boolean): Promise<boolean | VortexError> {
    const { hasTaskDigest, ask, releaseSlot } = this.#context;
    let piece: Piece;
    try {
      piece = await ask(parent, claim.number, last);
      piece.cancel();
    } catch (error) {
      const failure = withAddress(error, parent);
      if (retryDecision(failure) === "missing") return false;
      throw failure;
    } finally {
      releaseSlot(parent);
    }
    if (piece.digest === "") return false;
    const { algorithm, encoded } = parseDigest(piece.digest);
    const expected = await this.#digestOf(claim, parent, algorithm);
    if (expected === undefined || expected === encoded) return expected !== undefined;
    const message = disagreementMessage(parent, claim, `${algorithm}:${expected}`, piece.digest);
    const advice = hasTaskDigest
      ? ""
      : "; give the digest of the task to decide which content is right";
    return new VortexError("DigestMismatch", message + advice, { addr: parent });
  }

  /**
   * Returns the digest of the claimed piece by `algorithm`. If the claim has a digest by another
   * algorithm, the bytes in the sink are hashed.
   *
   * Returns undefined if the sink does not have the whole piece or cannot read it. Also returns
   * undefined if the claim is an announcement of `parent` itself.
   */
  async #digestOf(
    claim: Claim,
    parent: string,
    algorithm: DigestAlgorithm,
  ): Promise<string | undefined> {
    const { layout } = this.#context;
    const { number, digest, source } = claim;
    const claimed = parseDigest(digest);
    if (claimed.algorithm === algorithm) return claimed.encoded;
    // The digest can be computed from the bytes in the sink only if they are the whole piece.
    const isWhole = layout.part(number)?.length === layout.extent(number).length;
    if (source === parent || !isWhole) return undefined;
    const hashes = await hashPart(number, [algorithm], this.#context).catch(() => undefined);
    return hashes?.get(algorithm);
  }
}

/**
 * Returns the error message for a parent that announced the digest `found` instead of the digest
 * `expected`.
 */
function disagreementMessage(
  parent: string,
  { number, source }: Claim,
  expected: string,
  found: string,
): string {
  if (source === parent) {
    return `the content of ${parent} changed: expected digest ${expected} of piece ${number} as before, got ${found}`;
  }
  const other = isEarlierSource(source) ? `what ${source} left (the journal)` : source;
  return `${parent} and ${other} have different contents: expected digest ${expected} of piece ${number}, got ${found} from ${parent}`;
}
