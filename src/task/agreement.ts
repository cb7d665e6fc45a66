import type { SinkPiece } from "./sink.ts";

/**
 * Source name of the pieces that an earlier download left in the sink. Parents are sources under
 * their names, `host:port`.
 */
export const EARLIER_DOWNLOAD = "an earlier download";

/**
 * Maximum number of held pieces examined for each claim, since a task may have a million pieces.
 */
const MAX_SCANNED_PIECES = 256;

/** Piece that is committed to the sink, and so held, with its source. */
export interface HeldPiece {
  readonly piece: SinkPiece;
  /** Name of a parent, or {@link EARLIER_DOWNLOAD}. */
  readonly source: string;
  /**
   * Sequence number of the piece's announcement, counted over all parents; 0 for a piece of
   * {@link EARLIER_DOWNLOAD}.
   */
  readonly sequence: number;
}

/** Digest by which a source identifies its content of one piece. */
export interface Claim {
  readonly number: number;
  /** Digest of the piece, `algorithm:encoded`. */
  readonly digest: string;
  readonly source: string;
}

/** Request to compare one parent with claims of other sources, or with its first own claim. */
export interface Question {
  readonly parent: string;
  readonly claims: readonly Claim[];
  /** Sequence number of the latest announcement when the question was created. */
  readonly sequence: number;
}

/** State of one source: a parent, or the earlier download. */
interface SourceState {
  /** Name of the group of the source. Sources with the same content are in the same group. */
  group: string;
  /** Number of held pieces from this source. */
  count: number;
  /** Held piece of this source that was announced last. */
  last: HeldPiece | undefined;
  /** First announcement of the source. */
  first: Claim | undefined;
  /** Sequence number of the first announcement. */
  firstSequence: number;
  /** Sequence number of the latest announcement. */
  latestSequence: number;
  /**
   * Sequence number up to which the announcements of the source are confirmed: by a later answer
   * of the same source, or by another source.
   */
  confirmedSequence: number;
  /** True once pieces of the source may be committed without another question. */
  isCompared: boolean;
  /**
   * Numbers of the pieces of other sources that the parent was asked about, whatever it answered.
   */
  readonly asked: Set<number>;
  /** True while a question to the source is unanswered. */
  hasOpenQuestion: boolean;
  /**
   * True if the latest question failed. The next one is asked when a piece of this parent waits to
   * be committed.
   */
  questionFailed: boolean;
}

/**
 * Tracks which sources of a task have the same content. A state machine without I/O: the caller
 * asks the parents and reports their answers. A source is a parent, or the earlier download whose
 * pieces are in the sink. A piece is held once it is committed to the sink.
 *
 * The source of the first held piece becomes the reference. Every other source is asked about up to
 * three pieces of earlier sources: the oldest, the newest and a random one. A source whose content
 * changes most likely does so only once, so it changes between two of these.
 *
 * After its last piece, a parent is asked again about the first piece that it announced, since its
 * content may have changed during the download.
 */
export class Agreement {
  readonly #maxQuestions: number;
  readonly #random: () => number;
  /** Held pieces by number. */
  readonly #held = new Map<number, HeldPiece>();
  /** Numbers of the held pieces, in the order of their commits. */
  readonly #order: number[] = [];
  /** States of all sources by name. */
  readonly #sources = new Map<string, SourceState>();
  /** Number of announcements so far: the latest sequence number. */
  #announcements = 0;

  /**
   * @param maxQuestions maximum number of pieces of other sources that one parent is asked about
   * @param random returns a number from 0 to 1
   */
  constructor(maxQuestions: number, random: () => number) {
    this.#maxQuestions = maxQuestions;
    this.#random = random;
  }

  /** True if no piece is held. */
  get isEmpty(): boolean {
    return this.#held.size === 0;
  }

  /** All held pieces, in the order of their commits. */
  get pieces(): Iterable<HeldPiece> {
    return this.#held.values();
  }

  /** Sources of the held pieces. */
  get contributors(): readonly string[] {
    return [...this.#sources].filter(([, { count }]) => count > 0).map(([source]) => source);
  }

  /** Records that a parent announced a piece. Returns the sequence number of the announcement. */
  announced(parent: string, number: number, digest: string): number {
    const state = this.#stateOf(parent);
    const sequence = ++this.#announcements;
    if (state.first === undefined) {
      state.first = { number, digest, source: parent };
      state.firstSequence = sequence;
    }
    state.latestSequence = sequence;
    return sequence;
  }

  /**
   * Records a committed, verified piece; called once per piece.
   *
   * @param sequence sequence number of its announcement
   */
  hold(piece: SinkPiece, source: string, sequence: number): void {
    const held: HeldPiece = { piece, source, sequence };
    const state = this.#stateOf(source);
    if (this.isEmpty) state.isCompared = true;
    state.count++;
    if (state.last === undefined || sequence > state.last.sequence) state.last = held;
    this.#held.set(piece.number, held);
    this.#order.push(piece.number);
  }

  /** Keeps only the given pieces, and compares their sources again. */
  restart(kept: readonly HeldPiece[]): void {
    this.#held.clear();
    this.#order.length = 0;
    this.#sources.clear();
    for (const { piece, source, sequence } of kept) this.hold(piece, source, sequence);
  }

  /** Returns true if a piece of this parent may be committed without asking the parent first. */
  mayCommit(parent: string, mayHave: (number: number) => boolean): boolean {
    const { isCompared, hasOpenQuestion } = this.#stateOf(parent);
    return (
      isCompared || (!hasOpenQuestion && this.#unconfirmedClaims(parent, mayHave).length === 0)
    );
  }

  /**
   * Allows questions to the parent again after a failed one, since a piece of it waits to be
   * committed.
   */
  clearFailure(parent: string): void {
    this.#stateOf(parent).questionFailed = false;
  }

  /**
   * Returns the question to ask a parent before its first piece is committed. If fewer pieces were
   * held then than one parent can be asked about, another question follows later. Returns undefined
   * if there is nothing to ask, or a question is unanswered.
   */
  question(parent: string, mayHave: (number: number) => boolean): Question | undefined {
    const { hasOpenQuestion, isCompared, questionFailed, first, asked } = this.#stateOf(parent);
    if (
      hasOpenQuestion ||
      questionFailed ||
      first === undefined ||
      asked.size >= this.#maxQuestions
    )
      return undefined;
    if (!isCompared) return this.#questionFor(parent, this.#unconfirmedClaims(parent, mayHave));
    // The reference itself is not asked; the others are asked about its pieces.
    if (asked.size === 0) return undefined;
    const claims = this.#claims(mayHave, asked, ({ source }) => source !== parent);
    return claims.length < this.#maxQuestions - asked.size
      ? undefined
      : this.#questionFor(parent, claims);
  }

  /**
   * Returns the question to ask a parent after its last piece, if there is one.
   *
   * @param isUnavailable returns true for a parent that can no longer be asked, so that another one
   * has to confirm its pieces
   * @param isComplete true if all requested pieces are held; otherwise some announcements may
   * belong to pieces in flight
   */
  lastQuestion(
    parent: string,
    mayHave: (number: number) => boolean,
    isUnavailable: (parent: string) => boolean,
    isComplete: boolean,
  ): Question | undefined {
    const {
      hasOpenQuestion,
      questionFailed,
      first,
      firstSequence,
      latestSequence,
      confirmedSequence,
      last,
      count,
      group,
    } = this.#stateOf(parent);
    if (hasOpenQuestion || questionFailed) return undefined;
    const from = Math.max(firstSequence, confirmedSequence);
    if (
      first !== undefined &&
      (isComplete ? (last?.sequence ?? 0) : latestSequence) > from &&
      mayHave(first.number)
    ) {
      return this.#questionFor(parent, [first]);
    }
    if (!isComplete) return undefined;
    if (count > 0 || !this.#isEarlierConfirmed) {
      const question = this.#questionFor(parent, this.#unconfirmedClaims(parent, mayHave));
      if (question !== undefined) return question;
    }
    for (const [source, other] of this.#sources) {
      if (
        source === parent ||
        isConfirmed(other) ||
        other.group !== group ||
        other.last === undefined
      )
        continue;
      const { number } = other.last.piece;
      if (
        !(other.questionFailed || isUnavailable(source)) ||
        this.#stateOf(parent).asked.has(number) ||
        !mayHave(number)
      )
        continue;
      return this.#questionFor(parent, this.#claimsFor([number]));
    }
    return undefined;
  }

  /** Records that a question was sent; no other one is asked before its answer. */
  asked({ parent }: Question): void {
    this.#stateOf(parent).hasOpenQuestion = true;
  }

  /**
   * Records the answer to a question. The parent announced the claimed digests of `same`; the other
   * claims could not be compared.
   */
  answered({ parent, claims, sequence }: Question, same: readonly Claim[]): void {
    const state = this.#stateOf(parent);
    state.hasOpenQuestion = false;
    for (const { number, source } of claims) if (source !== parent) state.asked.add(number);
    for (const { number, source } of same) {
      state.confirmedSequence = Math.max(state.confirmedSequence, sequence);
      if (source === parent) continue;
      state.isCompared = true;
      const other = this.#stateOf(source);
      other.confirmedSequence = Math.max(
        other.confirmedSequence,
        this.#held.get(number)?.sequence ?? 0,
      );
      this.#mergeGroups(state.group, other.group);
    }
    // A parent that no longer has its own first piece is not asked for it again.
    if (same.length === 0 && claims.every(({ source }) => source === parent))
      state.questionFailed = true;
  }

  /** Records that a question failed. */
  failed({ parent }: Question): void {
    const state = this.#stateOf(parent);
    state.hasOpenQuestion = false;
    state.questionFailed = true;
  }

  /**
   * True if all sources of held pieces have the same content, each confirmed from its first piece
   * to its last.
   */
  get complete(): boolean {
    const contributors = [...this.#sources.values()].filter(({ count }) => count > 0);
    const groups = new Set(contributors.map(({ group }) => group));
    return groups.size <= 1 && contributors.every(isConfirmed) && this.#isEarlierConfirmed;
  }

  /** True if a parent has confirmed the pieces of an earlier download, or there are none. */
  get #isEarlierConfirmed(): boolean {
    const earlier = this.#sources.get(EARLIER_DOWNLOAD);
    if (earlier === undefined || earlier.count === 0) return true;
    return [...this.#sources].some(
      ([source, { group }]) => source !== EARLIER_DOWNLOAD && group === earlier.group,
    );
  }

  /** Returns claims from sources that are not known to have the same content as this parent. */
  #unconfirmedClaims(parent: string, mayHave: (number: number) => boolean): readonly Claim[] {
    const { group, asked } = this.#stateOf(parent);
    const others = [...this.#sources.values()].some(
      (other) => other.count > 0 && other.group !== group,
    );
    return others
      ? this.#claims(mayHave, asked, ({ source }) => this.#stateOf(source).group !== group)
      : [];
  }

  /**
   * Selects the oldest, the newest and a random held piece that satisfy `fits`, and that the parent
   * was not asked about.
   */
  #claims(
    mayHave: (number: number) => boolean,
    asked: ReadonlySet<number>,
    fits: (held: HeldPiece) => boolean,
  ): readonly Claim[] {
    if (asked.size >= this.#maxQuestions) return [];
    const { length } = this.#order;
    const found = new Set<number>();
    for (const [from, step] of [
      [0, 1],
      [length - 1, -1],
      [Math.floor(this.#random() * length), 1],
    ] as const) {
      for (let at = from, left = MAX_SCANNED_PIECES; left > 0; at += step, left--) {
        const number = this.#order[at];
        if (number === undefined) break;
        const held = this.#held.get(number);
        if (
          held === undefined ||
          found.has(number) ||
          asked.has(number) ||
          !fits(held) ||
          !mayHave(number)
        )
          continue;
        found.add(number);
        break;
      }
    }
    return this.#claimsFor([...found].slice(0, this.#maxQuestions - asked.size));
  }

  /** Returns the claims of the sources that the given pieces came from. */
  #claimsFor(numbers: readonly number[]): readonly Claim[] {
    return numbers.flatMap((number) => {
      const held = this.#held.get(number);
      return held === undefined ? [] : [{ number, digest: held.piece.digest, source: held.source }];
    });
  }

  /** Returns a question about the claims; undefined without any. */
  #questionFor(parent: string, claims: readonly Claim[]): Question | undefined {
    if (claims.length === 0) return undefined;
    return { parent, claims, sequence: this.#announcements };
  }

  /** Puts all sources of group `other` into group `one`. */
  #mergeGroups(one: string, other: string): void {
    for (const state of this.#sources.values()) if (state.group === other) state.group = one;
  }

  /** Returns the state of a source, creating it at first use. */
  #stateOf(source: string): SourceState {
    let state = this.#sources.get(source);
    if (state === undefined) {
      state = {
        group: source,
        count: 0,
        last: undefined,
        first: undefined,
        firstSequence: 0,
        latestSequence: 0,
        confirmedSequence: 0,
        isCompared: false,
        asked: new Set(),
        hasOpenQuestion: false,
        questionFailed: false,
      };
      this.#sources.set(source, state);
    }
    return state;
  }
}

/**
 * Returns true if the content of a source is confirmed up to its last held piece. A single
 * announcement needs no confirmation. Of several, the first must be confirmed after the last.
 */
function isConfirmed({ firstSequence, last, confirmedSequence }: SourceState): boolean {
  return last === undefined || last.sequence <= Math.max(firstSequence, confirmedSequence);
}
