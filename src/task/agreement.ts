import type { SinkPiece } from "./sink.ts";

/**
 * Held pieces examined in search of one to ask about, for each of them. A task may have a million
 * pieces.
 */
const MAX_SCANNED_PIECES = 256;
/**
 * Pieces that one parent is asked to confirm for other sources, as a multiple of those that it is
 * asked at first.
 */
const CONFIRMATIONS = 8;

const EARLIER = "an earlier download";

/**
 * Names the source of pieces that an earlier download left. Each parent of that download is a
 * separate source: its pieces may never have been compared with those of the others.
 *
 * @param parent undefined when the sink does not know it
 */
export function earlierSource(parent: string | undefined): string {
  return parent === undefined ? EARLIER : `${EARLIER} from ${parent}`;
}

/**
 * Returns true for a source that {@link earlierSource} made. Parents are sources by their name,
 * `host:port`.
 */
export function isEarlierSource(source: string): boolean {
  return source.startsWith(EARLIER);
}

/** Piece in the sink. */
export interface HeldPiece {
  readonly piece: SinkPiece;
  /** Parent's name, or an {@link earlierSource}. */
  readonly source: string;
  /**
   * Sequence number of its announcement; negative, in the order of their commits, for pieces of an
   * earlier download.
   */
  readonly sequence: number;
}

/** Piece, and the digest that a source has for it. */
export interface Claim {
  readonly number: number;
  /** `algorithm:encoded` */
  readonly digest: string;
  readonly source: string;
}

/** Pieces to ask one parent about: its announcement of each has to have the digest of the claim. */
export interface Question {
  readonly parent: string;
  readonly claims: readonly Claim[];
  /** Sequence number of the question. */
  readonly sequence: number;
}

/** Sequence numbers from one to another, both included. Empty when `until` is less than `from`. */
interface Interval {
  readonly from: number;
  readonly until: number;
}

/** Knowledge about one source. */
interface SourceState {
  /** Sources that agree have the same group. */
  group: string;
  /** Number of its pieces in the sink, and those announced first and last. */
  count: number;
  oldest: HeldPiece | undefined;
  newest: HeldPiece | undefined;
  /** Number of its announcements, and the sequence number of the latest. */
  announcements: number;
  latestAt: number;
  /** Announcement with the earliest request, and the sequence number of that request. */
  first: Claim | undefined;
  firstAt: number;
  /**
   * Sequence number of the latest question about `first` that had the same answer; negative
   * infinity before one.
   */
  steadyUntil: number;
  /**
   * First to last moment at which the source is known to have the content of its group. An answer
   * about a piece of another source shows that; so does another parent's answer about its piece.
   */
  agreed: Interval | undefined;
  /** True when its pieces may be committed without another question. */
  isCompared: boolean;
  /** Pieces of others that it was asked about, whatever it answered. */
  readonly asked: Set<number>;
  /** True while a question is open. */
  hasOpenQuestion: boolean;
  /** True after a failed question, until another piece of this parent waits. */
  questionFailed: boolean;
}

/**
 * Tracks which sources of a task have the same content, as far as they were compared. State machine
 * without I/O: the caller asks the parents, and reports the answers.
 *
 * The source of the first piece is the reference. Each other parent is asked about up to three
 * pieces of the sources before it: the oldest, the newest and a random one. Such an answer shows
 * the parent's content at that moment only, and a parent may change its content between two
 * announcements. Most change it once. So each parent is asked again for its first announced piece,
 * after its last piece and after the comparison. The same answer shows that nothing changed in
 * between. A source that cannot be asked any more needs another parent to confirm its oldest and
 * its newest piece.
 *
 * Sequence numbers order requests, announcements, questions and answers. Times would not: several
 * may share a millisecond.
 */
export class Agreement {
  readonly #maxQuestions: number;
  readonly #random: () => number;
  readonly #held = new Map<number, HeldPiece>();
  /** Numbers of the held pieces, in the order of their commits. */
  readonly #order: number[] = [];
  readonly #sources = new Map<string, SourceState>();
  #sequence = 0;

  /**
   * @param maxQuestions greatest number of pieces of others that one parent is asked about before
   * it is compared
   * @param random returns 0 to 1
   */
  constructor(maxQuestions: number, random: () => number) {
    this.#maxQuestions = maxQuestions;
    this.#random = random;
  }

  /** True while the sink holds no piece. */
  get isEmpty(): boolean {
    return this.#held.size === 0;
  }

  /** Pieces in the sink, in the order of their commits. */
  get pieces(): Iterable<HeldPiece> {
    return this.#held.values();
  }

  /** Sources of the pieces in the sink. */
  get contributors(): readonly string[] {
    return [...this.#sources].filter(([, { count }]) => count > 0).map(([source]) => source);
  }

  /**
   * Notes that a parent is asked for a piece. Returns the sequence number of the request, for
   * {@link announced}.
   */
  requested(): number {
    return ++this.#sequence;
  }

  /**
   * Notes an announcement.
   *
   * @param requestedAt sequence number of its request
   * @returns its own sequence number
   */
  announced(
    parent: string,
    number: number,
    digest: string,
    requestedAt: number = this.requested(),
  ): number {
    const state = this.#stateOf(parent);
    // A peer answers its requests in their order in most cases, and answers may overtake each
    // other.
    if (state.first === undefined || requestedAt < state.firstAt) {
      state.first = { number, digest, source: parent };
      state.firstAt = requestedAt;
      state.steadyUntil = Number.NEGATIVE_INFINITY;
    }
    state.announcements++;
    state.latestAt = ++this.#sequence;
    return this.#sequence;
  }

  /** Notes a committed piece; each is held once. @param sequence that of its announcement */
  hold(piece: SinkPiece, source: string, sequence: number): void {
    const held: HeldPiece = { piece, source, sequence };
    const state = this.#stateOf(source);
    if (this.isEmpty) state.isCompared = true;
    state.count++;
    if (state.oldest === undefined || sequence < state.oldest.sequence) state.oldest = held;
    if (state.newest === undefined || sequence > state.newest.sequence) state.newest = held;
    this.#held.set(piece.number, held);
    this.#order.push(piece.number);
  }

  /** Keeps only these pieces, and forgets every comparison. */
  restart(kept: readonly HeldPiece[]): void {
    this.#held.clear();
    this.#order.length = 0;
    this.#sources.clear();
    for (const { piece, source, sequence } of kept) this.hold(piece, source, sequence);
  }

  /**
   * Returns whether a piece of this parent may be committed, as far as other sources are concerned.
   */
  mayCommit(parent: string, mayHave: (number: number) => boolean): boolean {
    const { isCompared, hasOpenQuestion } = this.#stateOf(parent);
    return (
      isCompared || (!hasOpenQuestion && this.#unconfirmedClaims(parent, mayHave).length === 0)
    );
  }

  /** Notes that a piece of the parent waits to be committed. */
  clearFailure(parent: string): void {
    this.#stateOf(parent).questionFailed = false;
  }

  /**
   * Returns what to ask a parent before its first piece is committed, and later, if fewer pieces
   * than the limit were in the sink then. Undefined when there is nothing to ask, or a question is
   * open.
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
    // The reference itself is not asked: the others are asked about its pieces.
    if (asked.size === 0) return undefined;
    const claims = this.#claims(mayHave, asked, ({ source }) => source !== parent);
    return claims.length < this.#maxQuestions - asked.size
      ? undefined
      : this.#questionFor(parent, claims);
  }

  /**
   * Returns what to ask a parent that has no request in flight.
   *
   * @param isUnavailable returns whether a parent cannot be asked any more, so that another one has
   * to confirm its pieces
   * @param isComplete true when every wanted piece is in the sink; before, some announcements are
   * of pieces in flight
   */
  lastQuestion(
    parent: string,
    mayHave: (number: number) => boolean,
    isUnavailable: (parent: string) => boolean,
    isComplete: boolean,
  ): Question | undefined {
    const state = this.#stateOf(parent);
    if (state.hasOpenQuestion || state.questionFailed) return undefined;
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

  /** Opens a question: the parent gets no other one before its answer. */
  asked({ parent }: Question): void {
    this.#stateOf(parent).hasOpenQuestion = true;
  }

  /**
   * Notes an answer.
   *
   * @param same claims that the parent announced with the same digest; about the others it could
   * not say anything
   */
  answered({ parent, claims, sequence }: Question, same: readonly Claim[]): void {
    const state = this.#stateOf(parent);
    const answeredAt = ++this.#sequence;
    state.hasOpenQuestion = false;
    for (const { number, source } of claims) if (source !== parent) state.asked.add(number);
    for (const { number, source } of same) {
      if (source === parent) {
        state.steadyUntil = Math.max(state.steadyUntil, sequence);
        continue;
      }
      state.isCompared = true;
      // The parent had this content at some moment between its question and its answer.
      agree(state, { from: answeredAt, until: sequence });
      const other = this.#stateOf(source);
      const held = this.#held.get(number);
      if (held !== undefined) agree(other, { from: held.sequence, until: held.sequence });
      this.#mergeGroups(state.group, other.group);
    }
    // A parent without its own piece is not asked for it again.
    if (same.length === 0 && claims.every(({ source }) => source === parent))
      state.questionFailed = true;
  }

  /** Notes a question without an answer. */
  failed({ parent }: Question): void {
    const state = this.#stateOf(parent);
    state.hasOpenQuestion = false;
    state.questionFailed = true;
  }

  /**
   * True when all sources of the pieces in the sink agree, each from its oldest piece to its
   * newest.
   */
  get complete(): boolean {
    const contributors = [...this.#sources].filter(([, { count }]) => count > 0);
    const groups = new Set(contributors.map(([, { group }]) => group));
    return groups.size <= 1 && contributors.every(([, state]) => isConfirmed(state));
  }

  get #hasUnconfirmedEarlier(): boolean {
    return [...this.#sources].some(
      ([source, state]) => isEarlierSource(source) && !isConfirmed(state),
    );
  }

  /** Claims about pieces of sources that are not known to have the content of this parent. */
  #unconfirmedClaims(parent: string, mayHave: (number: number) => boolean): readonly Claim[] {
    const { group, asked } = this.#stateOf(parent);
    const others = [...this.#sources.values()].some(
      (other) => other.count > 0 && other.group !== group,
    );
    return others
      ? this.#claims(mayHave, asked, ({ source }) => this.#stateOf(source).group !== group)
      : [];
  }

  /** Claims that this parent can confirm for sources that cannot be asked themselves. */
  #confirmations(
    parent: string,
    mayHave: (number: number) => boolean,
    isUnavailable: (parent: string) => boolean,
  ): readonly Claim[] {
    const { asked } = this.#stateOf(parent);
    const numbers = new Set<number>();
    for (const [source, state] of this.#sources) {
      if (source === parent || state.count === 0 || isConfirmed(state)) continue;
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
   * Claims about the oldest, the newest and a random one of the pieces that fit and were not asked
   * about.
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

  #claimsFor(numbers: readonly number[]): readonly Claim[] {
    return numbers.flatMap((number) => {
      const held = this.#held.get(number);
      return held === undefined ? [] : [{ number, digest: held.piece.digest, source: held.source }];
    });
  }

  #questionFor(parent: string, claims: readonly Claim[]): Question | undefined {
    if (claims.length === 0) return undefined;
    return { parent, claims, sequence: ++this.#sequence };
  }

  #mergeGroups(one: string, other: string): void {
    for (const state of this.#sources.values()) if (state.group === other) state.group = one;
  }

  #stateOf(source: string): SourceState {
    let state = this.#sources.get(source);
    if (state === undefined) {
      state = {
        group: source,
        count: 0,
        oldest: undefined,
        newest: undefined,
        announcements: 0,
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

/** Extends the time in which a source is known to have the content of its group. */
function agree(state: SourceState, { from, until }: Interval): void {
  const { agreed } = state;
  state.agreed = {
    from: Math.min(agreed?.from ?? from, from),
    until: Math.max(agreed?.until ?? until, until),
  };
}

/**
 * Returns the time in which a parent did not change its content, whichever it has. A single
 * announcement is such a time.
 */
function steadyInterval({
  announcements,
  first,
  firstAt,
  latestAt,
  steadyUntil,
}: SourceState): Interval {
  if (first === undefined) return { from: 0, until: Number.NEGATIVE_INFINITY };
  const own = announcements === 1 ? latestAt : firstAt;
  return { from: firstAt, until: Math.max(own, steadyUntil) };
}

/**
 * Returns true when all pieces of a source are of one content: that of its group, where it was
 * compared.
 *
 * Within the steady time there is one content. It is that of the group if the source agreed with
 * the group within that time.
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

function includes(interval: Interval | undefined, sequence: number): boolean {
  return interval !== undefined && interval.from <= sequence && sequence <= interval.until;
}
