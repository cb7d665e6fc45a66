import { parseDigest } from "../digest/digest.ts";
import type { DigestAlgorithm, HasherFactory } from "../digest/hasher.ts";
import { untilAborted, VortexError, withAddress } from "../errors.ts";
import type { Piece } from "../piece.ts";
import { Agreement, type Claim, isEarlierSource, type Question } from "./agreement.ts";
import type { TaskLayout } from "./layout.ts";
import { hashPart } from "./resumed-pieces.ts";
import { retryDecision } from "./retry-decision.ts";
import type { SinkPiece, SinkSession } from "./sink.ts";

/** Dependencies and listeners of a {@link Comparison}. */
export interface ComparisonContext {
  readonly layout: TaskLayout;
  readonly session: SinkSession;
  readonly hashers: HasherFactory;
  /** Returns a random number from 0 to 1. */
  readonly random: () => number;
  /** Names of the parents, in the order of the request. */
  readonly parents: readonly string[];
  /**
   * True if a piece arrives as one message, with its content. A parent is then asked about one
   * piece only.
   */
  readonly piecesAreMessages: boolean;
  /**
   * True if the digest of the whole content is verified at the end. Parents are then not asked
   * again about their first piece.
   */
  readonly hasTaskDigest: boolean;
  /**
   * Returns true while the resumed pieces that parents are asked about are still being verified.
   */
  readonly isVerifyingResumed: () => boolean;
  /** Aborts all questions. */
  readonly signal: AbortSignal;
  /**
   * Requests a piece from a parent. `last` marks the final question, for which the whole task
   * waits.
   */
  readonly ask: (parent: string, number: number, last: boolean) => Promise<Piece>;
  /** Returns true if a parent can no longer be asked for anything. */
  readonly isUnavailable: (parent: string) => boolean;
  /**
   * Returns true if a parent may have a piece. For the `last` question, also if it has not
   * announced its pieces yet.
   */
  readonly mayHave: (parent: string, number: number, last: boolean) => boolean;
  /** Takes a request slot at a parent; returns false if none is free. */
  readonly takeSlot: (parent: string) => boolean;
  /** Releases a request slot at a parent. */
  readonly releaseSlot: (parent: string) => void;
  /** Called when another step may start a question or a commit. */
  readonly onChange: () => void;
  /** Called when the content of a parent contradicts a claim. */
  readonly onDisagreement: (parent: string, error: VortexError) => void;
}

/** Attempt whose piece waits for the comparison of its parent. */
interface Waiter {
  readonly parent: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Maximum number of pieces that one parent is asked about, if their content can be cancelled
 * unread.
 */
const MAX_COMPARED_PIECES = 3;

/**
 * Compares the content of the parents with each other, and with the pieces of an earlier download,
 * so that no file mixes two versions.
 *
 * SyncPieces announces no digests. So a parent is asked for pieces that are already held: the
 * announced digests are compared, and the content is cancelled unread. This happens during the
 * transfer of the parent's first piece, which is committed afterwards.
 */
export class Comparison {
  readonly #context: ComparisonContext;
  readonly #agreement: Agreement;
  /** Attempts that wait to commit their piece. */
  readonly #waiters = new Set<Waiter>();
  /** Number of attempts per parent that wait for their announcement. */
  readonly #pendingAnnouncements = new Map<string, number>();
  /** Unanswered questions. */
  readonly #running = new Set<Promise<void>>();
  /**
   * True if the caller gave a digest for every requested piece. Nothing has to be compared then.
   */
  readonly #allDigestsGiven: boolean;
  /** Number of restarts. Answers to questions from before a restart are ignored. */
  #epoch = 0;
  /** Parent whose first piece is being committed, which makes it the reference of the others. */
  #reference: string | undefined;
  /** Number of commits of the reference in progress. */
  #referenceCommits = 0;

  constructor(context: ComparisonContext) {
    const { layout, piecesAreMessages, random } = context;
    this.#context = context;
    this.#agreement = new Agreement(piecesAreMessages ? 1 : MAX_COMPARED_PIECES, random);
    this.#allDigestsGiven = layout.hasAllDigests;
  }

  /** Sources of the held pieces: parents, and those of an earlier download. */
  get contributors(): readonly string[] {
    return this.#agreement.contributors;
  }

  /** True if all sources of held pieces were compared and have the same content. */
  get complete(): boolean {
    return this.#allDigestsGiven || this.#agreement.complete;
  }

  /**
   * Requests a piece from a parent and records its announcement. Resolves with the piece and the
   * sequence number of the announcement.
   */
  async announce(
    parent: string,
    ask: () => Promise<Piece>,
  ): Promise<{ readonly piece: Piece; readonly sequence: number }> {
    this.#countPending(parent, 1);
    const requested = this.#agreement.requested();
    try {
      const piece = await ask();
      const { number, digest } = piece;
      return { piece, sequence: this.#agreement.announced(parent, number, digest, requested) };
    } finally {
      this.#countPending(parent, -1);
      this.#context.onChange();
    }
  }

  /**
   * Commits a piece, after its parent is known to have the same content as the held pieces. Rejects
   * with the error of the question to the parent, with that of the signal, or with that of
   * `commit`.
   */
  async commit(parent: string, signal: AbortSignal, commit: () => Promise<void>): Promise<void> {
    while (!this.#mayCommit(parent)) {
      // Allow another question to the parent if the last one failed.
      this.#agreement.clearFailure(parent);
      await this.#waitForChange(parent, signal);
    }
    // Only one parent may bring the first piece, since it becomes the reference.
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
   * @param sequence see {@link HeldPiece.sequence}
   */
  hold(piece: SinkPiece, source: string, sequence: number): void {
    this.#agreement.hold(piece, source, sequence);
    this.wake();
  }

  /** Lets the waiting attempts check again whether they may commit. */
  wake(): void {
    for (const { resolve } of this.#waiters) resolve();
    this.#waiters.clear();
  }

  /**
   * Starts the questions that are due.
   * @param allInFlight true if no piece is left to request, unless an attempt fails
   */
  step(allInFlight: boolean): void {
    const { parents, isVerifyingResumed } = this.#context;
    if (this.#allDigestsGiven || isVerifyingResumed()) return;
    for (const parent of parents) {
      const question = this.#agreement.question(parent, this.#mayHave(parent));
      if (question !== undefined) this.#begin(question, false);
      else if (allInFlight && (this.#pendingAnnouncements.get(parent) ?? 0) === 0)
        this.#askLast(parent, false);
    }
  }

  /**
   * Starts the final questions, once every requested piece is held. Returns true if all of them are
   * answered.
   */
  finish(): boolean {
    if (this.#allDigestsGiven || this.#context.hasTaskDigest) return true;
    const due = this.#context.parents.filter((parent) => this.#askLast(parent, true));
    return due.length === 0 && this.#running.size === 0;
  }

  /**
   * Keeps only the pieces of the given sources, and compares these again. Returns the kept pieces.
   */
  restart(sources: ReadonlySet<string>): readonly SinkPiece[] {
    this.#epoch++;
    const kept = [...this.#agreement.pieces].filter(({ source }) => sources.has(source));
    this.#agreement.restart(kept);
    this.wake();
    return kept.map(({ piece }) => piece);
  }

  /** Returns true if a piece of the parent may be committed now. */
  #mayCommit(parent: string): boolean {
    if (this.#allDigestsGiven) return true;
    if (this.#context.isVerifyingResumed()) return false;
    if (!this.#agreement.isEmpty) return this.#agreement.mayCommit(parent, this.#mayHave(parent));
    return (this.#reference ?? parent) === parent;
  }

  /** Waits until the parent may commit, or its question failed. */
  #waitForChange(parent: string, signal: AbortSignal): Promise<void> {
    let waiter: Waiter | undefined;
    const changed = new Promise<void>((resolve, reject) => {
      waiter = { parent, resolve, reject };
      this.#waiters.add(waiter);
    });
    this.#context.onChange();
    return untilAborted(changed, signal, "comparing the parents").finally(
      () => waiter && this.#waiters.delete(waiter),
    );
  }

  /** Adjusts the number of attempts of a parent that wait for their announcement. */
  #countPending(parent: string, change: 1 | -1): void {
    this.#pendingAnnouncements.set(parent, (this.#pendingAnnouncements.get(parent) ?? 0) + change);
  }

  /** Returns a predicate for the pieces that a parent may have. */
  #mayHave(parent: string, last = false): (number: number) => boolean {
    return (number) => this.#context.mayHave(parent, number, last);
  }

  /** Asks a parent its final question. Returns false if there is none to ask. */
  #askLast(parent: string, isComplete: boolean): boolean {
    const { hasTaskDigest, isUnavailable, piecesAreMessages } = this.#context;
    // One more whole message must not be held in memory beside those in flight.
    if (hasTaskDigest || (piecesAreMessages && !isComplete)) return false;
    const question = this.#agreement.lastQuestion(
      parent,
      this.#mayHave(parent, true),
      isUnavailable,
      isComplete,
    );
    if (question !== undefined) this.#begin(question, true);
    return question !== undefined;
  }

  /** Sends a question, as far as request slots are free. */
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

  /** Sends the requests of a question and evaluates all answers together. */
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
   * Compares a claim with the announcement of a parent. Resolves with true if they match, and with
   * an error if they differ. Resolves with false if they cannot be compared: the parent lacks the
   * piece, or uses another digest algorithm.
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
   * Returns the digest of the claimed content by another algorithm; undefined if it cannot be
   * computed.
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
    // The digest can be computed from the held bytes if the whole piece is held.
    const isWhole = layout.part(number)?.length === layout.extent(number).length;
    if (source === parent || !isWhole) return undefined;
    const hashes = await hashPart(number, [algorithm], this.#context).catch(() => undefined);
    return hashes?.get(algorithm);
  }
}

/** Returns the message for a parent that contradicts a claim. */
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
