import type { SinkPiece } from "./sink.ts";

/**
 * Maximum number of pieces in the sink that are examined to find one piece to compare with a
 * parent. A limit is necessary since a task may have a million pieces.
 */
const MAX_SCANNED_PIECES = 256;
/**
 * Limits how many pieces one parent is asked to confirm for sources that can no longer be asked.
 * The limit is this factor times the maximum number of pieces in the first comparison with a
 * parent.
 */
const CONFIRMATIONS = 8;

/** Prefix of the source name of pieces that an earlier download stored in the sink. */
const EARLIER = "an earlier download";

/**
 * Returns the source name for pieces that an earlier download stored in the sink. Each parent of
 * the earlier download is a separate source, since its pieces were possibly never compared with
 * those of other parents.
 *
 * @param parent parent that delivered the piece; undefined if the sink did not record the parent
 */
export function earlierSource(parent: string | undefined): string {
  return parent === undefined ? EARLIER : `${EARLIER} from ${parent}`;
}

/**
 * Returns true if `source` is a name made by {@link earlierSource}. Returns false if it is the name
 * of a parent of the current download, such as `10.0.0.7:4005`.
 */
export function isEarlierSource(source: string): boolean {
  return source.startsWith(EARLIER);
}

/** Piece in the sink, with the source that it came from. */
export interface HeldPiece {
  /** Number and digests of the piece. */
  readonly piece: SinkPiece;
  /**
   * Name of the parent that delivered the piece, or for a piece of an earlier download, the name
   * from {@link earlierSource}.
   */
  readonly source: string;
  /**
   * Sequence number of the announcement of the piece by its source. Pieces of an earlier download
   * have negative numbers, in the order in which that download committed them.
   */
  readonly sequence: number;
}

/**
 * Digest of a piece, and where it comes from: a parent that announced it, or the stored pieces of
 * an earlier download.
 */
export interface Claim {
  /** Number of the piece. */
  readonly number: number;
  /**
   * Digest of the whole piece according to the source, as `algorithm:encoded`. Empty in the first
   * announcement of a parent that has no digest.
   */
  readonly digest: string;
  /** Name of the source, as in {@link HeldPiece.source}. */
  readonly source: string;
}

/**
 * Comparison request: asks one parent for pieces whose digests are already known, to compare the
 * digests that the parent announces with the known ones.
 */
export interface Question {
  /** Name of the parent that receives the request. */
  readonly parent: string;
  /**
   * Pieces to request, with the digests that the announcements of the parent are compared with.
   */
  readonly claims: readonly Claim[];
  /** Sequence number of the comparison request. */
  readonly sequence: number;
}

/**
 * Range of sequence numbers from `from` to `until`, both included. Empty if `until` is less than
 * `from`.
 */
interface Interval {
  readonly from: number;
  readonly until: number;
}

/**
 * State of one source in the comparison of contents. A source is a parent, or the pieces that an
 * earlier download stored.
 */
interface SourceState {
  /**
   * Name of a group of sources. All sources that are known to have the same content are in the same
   * group.
   */
  group: string;
  /** Number of pieces of this source in the sink. */
  count: number;
  /**
   * Piece in the sink that this source announced before its other pieces; undefined if no piece in
   * the sink is from this source.
   */
  oldest: HeldPiece | undefined;
  /**
   * Piece in the sink that this source announced after its other pieces; undefined if no piece in
   * the sink is from this source.
   */
  newest: HeldPiece | undefined;
  /** Sequence number of the latest announcement by this source; 0 before the first. */
  latestAt: number;
  /** First announced piece with its digest; undefined before any announcement. */
  first: Claim | undefined;
  /** Sequence number of the announcement of the piece `first`; 0 before any announcement. */
  firstAt: number;
  /**
   * Sequence number of the latest comparison request that asked for the piece `first` and got the
   * same digest again. Negative infinity before such a response.
   */
  steadyUntil: number;
  /**
   * Interval from the first to the last moment at which this source is known to have the content of
   * its group; undefined if unknown.
   *
   * Two kinds of responses to a comparison request show such a moment. Either this parent announces
   * a piece of another source with the same digest. Or another parent announces a piece of this
   * source with the same digest.
   */
  agreed: Interval | undefined;
  /**
   * True if pieces of this source may be committed without a further comparison with other sources.
   */
  isCompared: boolean;
  /**
   * Numbers of the pieces of other sources that comparison requests asked this parent for, whatever
   * the response.
   */
  readonly asked: Set<number>;
  /** True while a comparison request to this parent has no response. */
  hasOpenQuestion: boolean;
  /**
   * True after a comparison request to this parent failed, until its next piece waits to be
   * committed.
   */
  questionFailed: boolean;
}

/**
 * Tracks which sources of a task have the same content. A source is a parent, or the pieces that an
 * earlier download stored. This is a state machine without I/O: the caller sends the comparison
 * requests to the parents and reports the responses.
 *
 * A comparison request (type {@link Question}) asks a parent for pieces that are already in the
 * sink. Equal digests show that the parent has the same content as the sources of these pieces.
 *
 * The source of the first committed piece is the reference. The first comparison with each other
 * parent uses up to three pieces of other sources: the oldest, the newest and a random one.
 *
 * A response shows the content of the parent at that moment only. A parent may change its content
 * between two announcements, but most parents change it at most once. So each parent is asked again
 * for the piece that it announced first, after its last piece and after the comparison. An
 * unchanged digest then shows that its content did not change in between. This requires that the
 * first announcement precedes all other requests to the parent.
 *
 * If a source can no longer be asked, another parent must confirm the oldest and the newest piece
 * of that source.
 *
 * Announcements, requests and responses are ordered by sequence numbers. Timestamps cannot order
 * them, since several may have the same millisecond.
 */
export class Agreement {
  /** Maximum number of pieces of other sources in the first comparison with a parent. */
  readonly #maxQuestions: number;
  /** Returns a random number from 0 to 1. */
  readonly #random: () => number;
  /** Pieces in the sink, by piece number. */
  readonly #held = new Map<number, HeldPiece>();
  /** Numbers of the pieces in the sink, in the order in which they were committed. */
  readonly #order: number[] = [];
  /** State of each source, by name. */
  readonly #sources = new Map<string, SourceState>();
  /** Number of pieces in the sink that no digest has verified. */
  #unverifiedCount = 0;
  /** Latest sequence number that was assigned. */
  #sequence = 0;

  /**
   * @param maxQuestions maximum number of pieces of other sources in the first comparison with a
   * parent
   * @param random returns a random number from 0 to 1
   */
  constructor(maxQuestions: number, random: () => number) {
    this.#maxQuestions = maxQuestions;
    this.#random = random;
  }

  /** True while the sink has no committed piece. */
  get isEmpty(): boolean {
    return this.#held.size === 0;
  }

  /** Pieces in the sink, in the order in which they were committed. */
  get pieces(): Iterable<HeldPiece> {
    return this.#held.values();
  }

  /** Names of the sources of all pieces in the sink. */
  get contributors(): readonly string[] {
    return [...this.#sources].filter(([, { count }]) => count > 0).map(([source]) => source);
  }

  /** Returns true if the parent has announced a piece. */
  hasAnnounced(parent: string): boolean {
    return this.#stateOf(parent).first !== undefined;
  }

  /**
   * Records that a parent announced a piece with its digest. Returns the sequence number of the
   * announcement.
   *
   * No other piece may be requested from the parent before its first announcement.
   */
  announced(parent: string, number: number, digest: string): number {
    const state = this.#stateOf(parent);
    state.latestAt = ++this.#sequence;
    if (state.first === undefined) {
      state.first = { number, digest, source: parent };
      state.firstAt = state.latestAt;
    }
    return state.latestAt;
  }

  /**
   * Records a committed piece. Must be called once per piece.
   *
   * @param source name of the source of the piece
   * @param sequence sequence number of the announcement of the piece
   */
  hold(piece: SinkPiece, source: string, sequence: number): void {
    const held: HeldPiece = { piece, source, sequence };
    const state = this.#stateOf(source);
    if (this.isEmpty) state.isCompared = true;
    state.count++;
    if (piece.unverified) this.#unverifiedCount++;
    if (state.oldest === undefined || sequence < state.oldest.sequence) state.oldest = held;
    if (state.newest === undefined || sequence > state.newest.sequence) state.newest = held;
    this.#held.set(piece.number, held);
    this.#order.push(piece.number);
  }

  /** Keeps only the pieces in `kept`, and deletes the results of all comparisons. */
  restart(kept: readonly HeldPiece[]): void {
    this.#held.clear();
    this.#order.length = 0;
    this.#sources.clear();
    this.#unverifiedCount = 0;
    for (const { piece, source, sequence } of kept) this.hold(piece, source, sequence);
  }

  /**
   * Returns true if a piece of `parent` may be committed. This requires that `parent` was compared,
   * that it announces no digests, or that no other source has a piece to compare with.
   *
   * @param mayHave returns true if `parent` may have the piece with this number
   */
  mayCommit(parent: string, mayHave: (number: number) => boolean): boolean {
    const state = this.#stateOf(parent);
    if (state.isCompared || !canBeCompared(state)) return true;
    return !state.hasOpenQuestion && this.#unconfirmedClaims(parent, mayHave).length === 0;
  }

  /**
   * Allows another comparison request to `parent` after a failed request. Called when a piece of
   * `parent` waits to be committed.
   */
  clearFailure(parent: string): void {
    this.#stateOf(parent).questionFailed = false;
  }

  /**
   * Returns the next comparison request to `parent`. Returns undefined if none is necessary now, or
   * if the previous one has no response.
   *
   * The first comparison request precedes the first commit of a piece of `parent`. A second one
   * follows later if the sink had too few pieces of other sources for the first.
   *
   * @param mayHave returns true if `parent` may have the piece with this number
   */
  question(parent: string, mayHave: (number: number) => boolean): Question | undefined {
    const state = this.#stateOf(parent);
    const { hasOpenQuestion, isCompared, questionFailed, first, asked } = state;
    if (hasOpenQuestion || questionFailed || first === undefined) return undefined;
    if (!canBeCompared(state)) return undefined;
    if (!isCompared) return this.#questionFor(parent, this.#unconfirmedClaims(parent, mayHave));
    // The reference is not asked: the other parents are asked about its pieces.
    if (asked.size === 0) return undefined;
    const claims = this.#claims(mayHave, asked, ({ source }) => source !== parent);
    return claims.length < this.#maxQuestions - asked.size
      ? undefined
      : this.#questionFor(parent, claims);
  }

  /**
   * Returns a comparison request to a parent without other requests in flight, or undefined if none
   * is necessary. It asks again for the first piece that `parent` announced, to check that its
   * content has not changed since.
   *
   * If `isComplete` is true, the request may instead compare `parent` with other sources, or
   * confirm pieces of sources that can no longer be asked.
   *
   * @param mayHave returns true if `parent` may have the piece with this number
   * @param isUnavailable returns true if a parent can no longer be asked
   * @param isComplete true if all requested pieces are in the sink; false while announced pieces
   * may still be in flight
   */
  lastQuestion(
    parent: string,
    mayHave: (number: number) => boolean,
    isUnavailable: (parent: string) => boolean,
    isComplete: boolean,
  ): Question | undefined {
    const state = this.#stateOf(parent);
    if (state.hasOpenQuestion || state.questionFailed || !canBeCompared(state)) return undefined;
    if (isComplete && (state.count > 0 || this.#hasUnconfirmedEarlier)) {
      const question = this.#questionFor(parent, this.#unconfirmedClaims(parent, mayHave));
      if (question !== undefined) return question;
    }
    const { first, newest, latestAt, agreed } = state;
    const last = isComplete ? newest?.sequence : latestAt;
    if (first !== undefined && last !== undefined && mayHave(first.number)) {
      const needed = Math.max(last, agreed?.from ?? last);
      if (steadyInterval(state).until < needed) return this.#questionFor(parent, [first]);
    }
    return isComplete
      ? this.#questionFor(parent, this.#confirmations(parent, mayHave, isUnavailable))
      : undefined;
  }

  /**
   * Records that a comparison request was sent. Its parent receives no further comparison request
   * before the response.
   */
  asked({ parent }: Question): void {
    this.#stateOf(parent).hasOpenQuestion = true;
  }

  /**
   * Records the response of a parent to a comparison request. A response with a different digest
   * goes to {@link failed} instead.
   *
   * @param same claims that the parent confirmed by an equal digest. About the other claims it says
   * nothing: it does not have the piece, or announced a digest by another algorithm.
   */
  answered({ parent, claims, sequence }: Question, same: readonly Claim[]): void {
    const state = this.#stateOf(parent);
    const answeredAt = ++this.#sequence;
    state.hasOpenQuestion = false;
    for (const { number, source } of claims) {
      if (source !== parent) state.asked.add(number);
      // A parent that no longer has its own first piece is not asked for that piece again.
      else if (same.length === 0) state.questionFailed = true;
    }
    for (const { number, source } of same) {
      if (source === parent) {
        state.steadyUntil = Math.max(state.steadyUntil, sequence);
        continue;
      }
      state.isCompared = true;
      // The parent had this content at some moment between the comparison request and the response.
      agree(state, { from: answeredAt, until: sequence });
      const other = this.#stateOf(source);
      const held = this.#held.get(number);
      if (held !== undefined) agree(other, { from: held.sequence, until: held.sequence });
      this.#mergeGroups(state.group, other.group);
    }
  }

  /**
   * Records that a comparison request to a parent failed, or that the parent announced a digest
   * other than the claimed one. The parent receives no further comparison request before
   * {@link clearFailure} is called.
   */
  failed({ parent }: Question): void {
    const state = this.#stateOf(parent);
    state.hasOpenQuestion = false;
    state.questionFailed = true;
  }

  /**
   * True if all sources of the pieces in the sink are known to have the same content, and all
   * pieces were verified by a digest. For each source, this covers at least the time from its
   * oldest to its newest piece.
   */
  get complete(): boolean {
    if (this.#unverifiedCount > 0) return false;
    const sources = [...this.#sources.values()];
    const groups = new Set(sources.flatMap(({ count, group }) => (count > 0 ? [group] : [])));
    return groups.size <= 1 && sources.every(isConfirmed);
  }

  /**
   * True if pieces of an earlier download are not confirmed yet to belong to the same content as
   * the pieces of this download.
   */
  get #hasUnconfirmedEarlier(): boolean {
    return [...this.#sources].some(
      ([source, state]) => isEarlierSource(source) && !isConfirmed(state),
    );
  }

  /**
   * Returns pieces and digests to compare with `parent`, of sources that are not known to have the
   * same content as `parent`. Returns none if all sources of the pieces in the sink have the same
   * content as `parent`.
   *
   * @param mayHave returns true if `parent` may have the piece with this number
   */
  #unconfirmedClaims(parent: string, mayHave: (number: number) => boolean): readonly Claim[] {
    const { group, asked } = this.#stateOf(parent);
    return this.#claims(mayHave, asked, ({ source }) => this.#stateOf(source).group !== group);
  }

  /**
   * Returns pieces and digests to compare with `parent`, of sources that cannot be asked
   * themselves. Such sources are parents of an earlier download, unavailable parents, and parents
   * whose last comparison failed. The returned pieces are the oldest and newest piece of each such
   * source.
   *
   * @param mayHave returns true if `parent` may have the piece with this number
   * @param isUnavailable returns true if a parent can no longer be asked
   */
  #confirmations(
    parent: string,
    mayHave: (number: number) => boolean,
    isUnavailable: (parent: string) => boolean,
  ): readonly Claim[] {
    const { asked } = this.#stateOf(parent);
    const numbers = new Set<number>();
    for (const [source, state] of this.#sources) {
      if (isConfirmed(state)) continue;
      if (!isEarlierSource(source) && !state.questionFailed && !isUnavailable(source)) continue;
      for (const held of [state.oldest, state.newest]) {
        if (held === undefined || includes(state.agreed, held.sequence)) continue;
        const { number } = held.piece;
        if (!asked.has(number) && mayHave(number)) numbers.add(number);
      }
    }
    const left = this.#maxQuestions * (1 + CONFIRMATIONS) - asked.size;
    return this.#claimsFor([...numbers].slice(0, Math.max(0, Math.min(this.#maxQuestions, left))));
  }

  /**
   * Returns the oldest, the newest and a random piece in the sink with their digests, to compare
   * them with a parent. Considers only pieces that `fits` and `mayHave` accept and that are not in
   * `asked`. Returns none if `asked` already has the maximum number of pieces.
   *
   * @param mayHave returns true if the parent may have the piece with this number
   * @param asked numbers of the pieces that the parent was already asked for
   * @param fits returns true for a piece that should be compared
   */
  #claims(
    mayHave: (number: number) => boolean,
    asked: ReadonlySet<number>,
    fits: (held: HeldPiece) => boolean,
  ): readonly Claim[] {
    const maxClaims = this.#maxQuestions - asked.size;
    const { length } = this.#order;
    const found = new Set<number>();
    for (const [from, step] of [
      [0, 1],
      [length - 1, -1],
      [Math.floor(this.#random() * length), 1],
    ] as const) {
      if (found.size >= maxClaims) break;
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
    return this.#claimsFor([...found]);
  }

  /**
   * Returns the digests and sources of the pieces with these numbers. Pieces that are not in the
   * sink are omitted.
   */
  #claimsFor(numbers: readonly number[]): readonly Claim[] {
    return numbers.flatMap((number) => {
      const held = this.#held.get(number);
      return held === undefined ? [] : [{ number, digest: held.piece.digest, source: held.source }];
    });
  }

  /**
   * Returns a comparison request with a new sequence number, or undefined if `claims` is empty.
   */
  #questionFor(parent: string, claims: readonly Claim[]): Question | undefined {
    if (claims.length === 0) return undefined;
    return { parent, claims, sequence: ++this.#sequence };
  }

  /** Moves all sources in the group `other` to the group `one`. */
  #mergeGroups(one: string, other: string): void {
    for (const state of this.#sources.values()) if (state.group === other) state.group = one;
  }

  /** Returns the state of a source. Creates the state if the source is new. */
  #stateOf(source: string): SourceState {
    let state = this.#sources.get(source);
    if (state === undefined) {
      state = {
        group: source,
        count: 0,
        oldest: undefined,
        newest: undefined,
        latestAt: 0,
        first: undefined,
        firstAt: 0,
        steadyUntil: Number.NEGATIVE_INFINITY,
        agreed: undefined,
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
 * Returns false for a parent whose first announcement had no digest. Its announcements show nothing
 * about its content, so it is not asked: two missing digests are no agreement.
 */
function canBeCompared({ first }: SourceState): boolean {
  return first?.digest !== "";
}

/** Records that a source had the content of its group in the given interval. */
function agree(state: SourceState, { from, until }: Interval): void {
  const { agreed } = state;
  state.agreed = {
    from: Math.min(agreed?.from ?? from, from),
    until: Math.max(agreed?.until ?? until, until),
  };
}

/**
 * Returns the interval in which a parent is known to have had one content: from its first
 * announcement until its last confirmation of that announcement. Returns an interval that contains
 * only 0 if the parent announced nothing.
 */
function steadyInterval({ firstAt, steadyUntil }: SourceState): Interval {
  return { from: firstAt, until: Math.max(firstAt, steadyUntil) };
}

/**
 * Returns true if all pieces of a source are known to be of one content, also if it has no piece in
 * the sink. If the source was compared, this must be the content of its group.
 *
 * Within its steady interval, a source has only one content. If the source agreed with its group in
 * that interval, this content is the content of the group.
 */
function isConfirmed(state: SourceState): boolean {
  const { oldest, newest, agreed } = state;
  if (oldest === undefined || newest === undefined) return true;
  const steady = steadyInterval(state);
  const covers = ({ from, until }: Interval): boolean =>
    from <= oldest.sequence && newest.sequence <= until;
  if (agreed === undefined) return covers(steady);
  if (agreed.from > steady.until || agreed.until < steady.from) return covers(agreed);
  return covers({
    from: Math.min(steady.from, agreed.from),
    until: Math.max(steady.until, agreed.until),
  });
}

/** Returns true if an interval is defined and contains the sequence number. */
function includes(interval: Interval | undefined, sequence: number): boolean {
  return interval !== undefined && interval.from <= sequence && sequence <= interval.until;
}
