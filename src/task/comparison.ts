import { parseDigest } from "../digest/digest.ts";
import type { DigestAlgorithm, HasherFactory } from "../digest/hasher.ts";
import { untilAborted, VortexError, withAddress } from "../errors.ts";
import type { Piece } from "../piece.ts";
import { Agreement, type Claim, EARLIER_DOWNLOAD, type Question } from "./agreement.ts";
import type { TaskLayout } from "./layout.ts";
import { hashPart } from "./resumed-pieces.ts";
import { retryDecision } from "./retry-decision.ts";
import type { SinkPiece, SinkSession } from "./sink.ts";

/** What a comparison works with. */
export interface ComparisonContext {
  readonly layout: TaskLayout;
  readonly session: SinkSession;
  readonly hashers: HasherFactory;
  /** From 0 to 1. */
  readonly random: () => number;
  /** In the caller's order. */
  readonly parents: readonly string[];
  /** Whether a piece is one message, so that its content comes with the announcement: then a parent is asked about one. */
  readonly piecesAreMessages: boolean;
  /** Whether the digest of the whole is checked at the end: then no parent is asked again for what it announced first. */
  readonly hasTaskDigest: boolean;
  /** Whether those pieces of an earlier download are still being read that parents are asked about. */
  readonly isVerifyingResumed: () => boolean;
  /** Ends all questions. */
  readonly signal: AbortSignal;
  /** Asks a parent for a piece. `last`: nothing else is wanted from it, so that the task waits for this answer. */
  readonly ask: (parent: string, number: number, last: boolean) => Promise<Piece>;
  /** Whether a parent can be asked for nothing any more. */
  readonly isUnavailable: (parent: string) => boolean;
  /** Whether a parent may have a piece. The `last` time, also one that has not announced yet what it has. */
  readonly mayHave: (parent: string, number: number, last: boolean) => boolean;
  /** Takes a slot for a request to a parent; false when there is none now. */
  readonly takeSlot: (parent: string) => boolean;
  /** Gives a slot back. */
  readonly releaseSlot: (parent: string) => void;
  /** Called when another step may do something. */
  readonly onChange: () => void;
  /** Called when a parent announces another content than the claimed one. */
  readonly onDisagreement: (parent: string, error: VortexError) => void;
}

/** An attempt whose piece waits for its parent to be compared. */
interface Waiter {
  readonly parent: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Pieces of others that one parent is asked about, where their content is cancelled unread. */
const MAX_COMPARED_PIECES = 3;

/**
 * Compares the parents of a task with each other, and with what an earlier download left, so that no file is made of two contents.
 *
 * SyncPieces names no digests, so a parent is asked for pieces that are here already. Their announcements are compared, and their
 * content is cancelled unread. This happens beside the transfer of the parent's first piece, which is committed after it.
 */
export class Comparison {
  readonly #context: ComparisonContext;
  readonly #agreement: Agreement;
  readonly #waiters = new Set<Waiter>();
  /** Attempts of each parent that wait for their announcement. */
  readonly #pendingAnnouncements = new Map<string, number>();
  readonly #running = new Set<Promise<void>>();
  /** Whether every wanted piece has a digest from the caller, so that no parent's word counts. */
  readonly #allDigestsGiven: boolean;
  /** Number of restarts. An answer to a question from before one is ignored. */
  #epoch = 0;
  /** The parent of the first piece, while that is being committed; and how many of its pieces are. */
  #reference: string | undefined;
  #referenceCommits = 0;

  constructor(context: ComparisonContext) {
    const { layout, piecesAreMessages, random } = context;
    this.#context = context;
    this.#agreement = new Agreement(piecesAreMessages ? 1 : MAX_COMPARED_PIECES, random);
    this.#allDigestsGiven = layout.hasAllDigests;
  }

  /** Sources of the pieces that are here: parents, and {@link EARLIER_DOWNLOAD}. */
  get contributors(): readonly string[] {
    return this.#agreement.contributors;
  }

  /** Whether all sources of what is here were compared, and agree. */
  get complete(): boolean {
    return this.#allDigestsGiven || this.#agreement.complete;
  }

  /** Asks a parent for a piece that is wanted. Resolves with the piece, and the position of its announcement among all. */
  async announce(
    parent: string,
    ask: () => Promise<Piece>,
  ): Promise<{ readonly piece: Piece; readonly at: number }> {
    this.#countPending(parent, 1);
    try {
      const piece = await ask();
      return { piece, at: this.#agreement.announced(parent, piece.number, piece.digest) };
    } finally {
      this.#countPending(parent, -1);
      this.#context.onChange();
    }
  }

  /**
   * Commits a piece, once its parent is known to have the content that is here. Rejects with what the question to the parent failed
   * with, for the signal, or as `commit` does.
   */
  async commit(parent: string, signal: AbortSignal, commit: () => Promise<void>): Promise<void> {
    while (!this.#mayCommit(parent)) {
      // A question that failed before is asked again.
      this.#agreement.clearFailure(parent);
      await this.#waitForChange(parent, signal);
    }
    // Two parents are not to bring the first piece at once: each would be the reference.
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

  /** A piece is here. @param at position of its announcement; 0 for a piece of an earlier download */
  hold(piece: SinkPiece, source: string, at: number): void {
    this.#agreement.hold(piece, source, at);
    this.wake();
  }

  /** Has waiting pieces look again. */
  wake(): void {
    for (const { resolve } of this.#waiters) resolve();
    this.#waiters.clear();
  }

  /**
   * Begins the questions that are due.
   * @param exhausted whether no piece is left to begin
   */
  step(exhausted: boolean): void {
    const { parents, isVerifyingResumed } = this.#context;
    if (this.#allDigestsGiven || isVerifyingResumed()) return;
    for (const parent of parents) {
      const question = this.#agreement.question(parent, this.#offers(parent));
      if (question !== undefined) this.#begin(question, false);
      else if (exhausted && (this.#pendingAnnouncements.get(parent) ?? 0) === 0)
        this.#askLast(parent, false);
    }
  }

  /** Whether nothing is left to ask, now that every wanted piece is here; begins what is. */
  finish(): boolean {
    if (this.#allDigestsGiven || this.#context.hasTaskDigest) return true;
    const due = this.#context.parents.filter((parent) => this.#askLast(parent, true));
    return due.length === 0 && this.#running.size === 0;
  }

  /** Keeps only the pieces of these sources, which are compared again. Returns the kept pieces. */
  restart(sources: ReadonlySet<string>): readonly SinkPiece[] {
    this.#epoch++;
    const kept = [...this.#agreement.pieces].filter(({ source }) => sources.has(source));
    this.#agreement.restart(kept);
    this.wake();
    return kept.map(({ piece }) => piece);
  }

  #mayCommit(parent: string): boolean {
    if (this.#allDigestsGiven) return true;
    if (this.#context.isVerifyingResumed()) return false;
    if (!this.#agreement.isEmpty) return this.#agreement.mayCommit(parent, this.#offers(parent));
    return (this.#reference ?? parent) === parent;
  }

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

  #countPending(parent: string, change: 1 | -1): void {
    this.#pendingAnnouncements.set(parent, (this.#pendingAnnouncements.get(parent) ?? 0) + change);
  }

  #offers(parent: string, last = false): (number: number) => boolean {
    return (number) => this.#context.mayHave(parent, number, last);
  }

  /** Asks a parent from which nothing more comes, if there is anything to ask. Returns whether there is. */
  #askLast(parent: string, all: boolean): boolean {
    const { hasTaskDigest, isUnavailable, piecesAreMessages } = this.#context;
    // A whole message more is not to be held beside those under way.
    if (hasTaskDigest || (piecesAreMessages && !all)) return false;
    const question = this.#agreement.lastQuestion(
      parent,
      this.#offers(parent, true),
      isUnavailable,
      all,
    );
    if (question !== undefined) this.#begin(question, true);
    return question !== undefined;
  }

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
    const other = values.find((value) => value instanceof VortexError);
    const broken = answers.find(({ status }) => status === "rejected") as
      | PromiseRejectedResult
      | undefined;
    if (other === undefined && broken === undefined) {
      this.#agreement.answered(
        question,
        claims.filter((_, index) => values[index] === true),
      );
      this.wake();
      return;
    }
    this.#agreement.failed(question);
    if (other !== undefined) this.#context.onDisagreement(parent, other);
    for (const waiter of this.#waiters)
      if (waiter.parent === parent) waiter.reject(other ?? broken?.reason);
  }

  /**
   * Compares a claim with what a parent announces. Resolves with true when they agree, with the failure when they do not, and with
   * false when that cannot be told: the parent does not have the piece, or names a digest by another algorithm.
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
    const what = disagreementMessage(parent, claim, `${algorithm}:${expected}`, piece.digest);
    const advice = hasTaskDigest
      ? ""
      : "; give the digest of the whole to tell which content is right";
    return new VortexError("DigestMismatch", what + advice, { addr: parent });
  }

  /** The claimed content's digest by an algorithm; undefined when that cannot be told. */
  async #digestOf(
    claim: Claim,
    parent: string,
    algorithm: DigestAlgorithm,
  ): Promise<string | undefined> {
    const { layout } = this.#context;
    const { number, digest, source } = claim;
    const claimed = parseDigest(digest);
    if (claimed.algorithm === algorithm) return claimed.encoded;
    // The bytes have every digest, where all of them are here still.
    const isWhole = layout.part(number)?.length === layout.extent(number).length;
    if (source === parent || !isWhole) return undefined;
    const hashes = await hashPart(number, [algorithm], this.#context).catch(() => undefined);
    return hashes?.get(algorithm);
  }
}

/** Names a parent, and whose content it contradicts. */
function disagreementMessage(
  parent: string,
  { number, source }: Claim,
  expected: string,
  found: string,
): string {
  if (source === parent) {
    return `the content of ${parent} changed: expected piece ${number} with digest ${expected} as before, got ${found}`;
  }
  const at = source === EARLIER_DOWNLOAD ? `what ${EARLIER_DOWNLOAD} left (the journal)` : source;
  return `${parent} and ${at} have different contents: piece ${number} has digest ${found} at ${parent}, and ${expected} in the other`;
}
