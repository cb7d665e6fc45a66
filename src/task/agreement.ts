import type { SinkPiece } from "./sink.ts";

/** Source of the pieces that an earlier download left. Parents are sources by their name, `host:port`. */
export const EARLIER_DOWNLOAD = "an earlier download";

/** Held pieces looked at in search of one to ask about, for each of them. A task may have a million pieces. */
const MAX_SCANNED_PIECES = 256;

/** A piece that is here. */
export interface HeldPiece {
  readonly piece: SinkPiece;
  /** A parent's name, or {@link EARLIER_DOWNLOAD}. */
  readonly source: string;
  /** Position of its announcement among all announcements; 0 for {@link EARLIER_DOWNLOAD}. */
  readonly sequence: number;
}

/** A piece, and the digest that a source has for it. */
export interface Claim {
  readonly number: number;
  /** `algorithm:encoded` */
  readonly digest: string;
  readonly source: string;
}

/** Pieces to ask one parent about: its announcement of each has to name the content of the claim. */
export interface Question {
  readonly parent: string;
  readonly claims: readonly Claim[];
  /** Number of announcements received when it was asked. */
  readonly sequence: number;
}

/** What is known of one source. */
interface SourceState {
  /** Sources that agree have the same group. */
  group: string;
  /** Pieces here that it brought, and the one of them that was announced last. */
  count: number;
  last: HeldPiece | undefined;
  /** Its first announcement, and the positions of that and of its latest one. */
  first: Claim | undefined;
  firstSequence: number;
  latestSequence: number;
  /** Its announcements up to this position are vouched for: by a later answer of its own, or by another source. */
  confirmedSequence: number;
  /** Whether its pieces may be committed without another question. */
  isCompared: boolean;
  /** Pieces of others that it was asked about, whatever it said. */
  readonly asked: Set<number>;
  /** A question is open. */
  isAsked: boolean;
  /** The latest question failed. None follows before a piece of this parent waits again. */
  questionFailed: boolean;
}

/**
 * Tracks which sources of a task have the same content, as far as they were compared. A state machine without I/O: its user asks the
 * parents, and reports the answers.
 *
 * The first piece that is here makes its source the reference. Each other source is asked about up to three pieces of the sources
 * before it: the oldest, the newest and a random one, since a source that changes its content does so once in most cases. When
 * nothing more comes from a parent, it is asked again for the first piece that it announced, since it may have changed meanwhile.
 */
export class Agreement {
  readonly #maxQuestions: number;
  readonly #random: () => number;
  readonly #held = new Map<number, HeldPiece>();
  /** Numbers of the held pieces, in the order in which they came. */
  readonly #order: number[] = [];
  readonly #sources = new Map<string, SourceState>();
  #announcements = 0;

  /**
   * @param most greatest number of pieces of others that one parent is asked about
   * @param random from 0 to 1
   */
  constructor(most: number, random: () => number) {
    this.#maxQuestions = most;
    this.#random = random;
  }

  /** Whether no piece is here. */
  get isEmpty(): boolean {
    return this.#held.size === 0;
  }

  /** All pieces that are here, in the order in which they came. */
  get pieces(): Iterable<HeldPiece> {
    return this.#held.values();
  }

  /** Sources of the pieces that are here. */
  get contributors(): readonly string[] {
    return [...this.#sources].filter(([, { count }]) => count > 0).map(([source]) => source);
  }

  /** A parent announced a piece. Returns the announcement's position among all. */
  announced(parent: string, number: number, digest: string): number {
    const standing = this.#stateOf(parent);
    const at = ++this.#announcements;
    if (standing.first === undefined) {
      standing.first = { number, digest, source: parent };
      standing.firstSequence = at;
    }
    standing.latestSequence = at;
    return at;
  }

  /** A piece is here and right; each is held once. @param at position of its announcement */
  hold(piece: SinkPiece, source: string, at: number): void {
    const held: HeldPiece = { piece, source, sequence: at };
    const standing = this.#stateOf(source);
    if (this.isEmpty) standing.isCompared = true;
    standing.count++;
    if (standing.last === undefined || at > standing.last.sequence) standing.last = held;
    this.#held.set(piece.number, held);
    this.#order.push(piece.number);
  }

  /** Only these pieces are left, and their sources are compared again. */
  restart(kept: readonly HeldPiece[]): void {
    this.#held.clear();
    this.#order.length = 0;
    this.#sources.clear();
    for (const { piece, source, sequence } of kept) this.hold(piece, source, sequence);
  }

  /** Whether a piece of this parent may be committed, as far as other sources are concerned. */
  mayCommit(parent: string, offers: (number: number) => boolean): boolean {
    const { isCompared, isAsked } = this.#stateOf(parent);
    return isCompared || (!isAsked && this.#unconfirmedClaims(parent, offers).length === 0);
  }

  /** A piece of the parent waits to be committed. */
  clearFailure(parent: string): void {
    this.#stateOf(parent).questionFailed = false;
  }

  /**
   * What to ask a parent before its first piece is committed, and later, where fewer pieces than can be asked about were here then.
   * Undefined when there is nothing to ask, or a question is open.
   */
  question(parent: string, offers: (number: number) => boolean): Question | undefined {
    const { isAsked, isCompared, questionFailed, first, asked } = this.#stateOf(parent);
    if (isAsked || questionFailed || first === undefined || asked.size >= this.#maxQuestions)
      return undefined;
    if (!isCompared) return this.#questionFor(parent, this.#unconfirmedClaims(parent, offers));
    // The reference itself is not asked: the others are asked about its pieces.
    if (asked.size === 0) return undefined;
    const claims = this.#claims(offers, asked, ({ source }) => source !== parent);
    return claims.length < this.#maxQuestions - asked.size
      ? undefined
      : this.#questionFor(parent, claims);
  }

  /**
   * What to ask a parent from which nothing more comes.
   *
   * @param gone whether a parent can be asked no more, so that another one has to answer for it
   * @param all whether every wanted piece is here; before, some of its announcements may be of pieces under way
   */
  lastQuestion(
    parent: string,
    offers: (number: number) => boolean,
    gone: (parent: string) => boolean,
    all: boolean,
  ): Question | undefined {
    const {
      isAsked,
      questionFailed,
      first,
      firstSequence,
      latestSequence,
      confirmedSequence,
      last,
      count,
      group,
    } = this.#stateOf(parent);
    if (isAsked || questionFailed) return undefined;
    const from = Math.max(firstSequence, confirmedSequence);
    if (
      first !== undefined &&
      (all ? (last?.sequence ?? 0) : latestSequence) > from &&
      offers(first.number)
    ) {
      return this.#questionFor(parent, [first]);
    }
    if (!all) return undefined;
    if (count > 0 || !this.#isEarlierConfirmed) {
      const question = this.#questionFor(parent, this.#unconfirmedClaims(parent, offers));
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
        !(other.questionFailed || gone(source)) ||
        this.#stateOf(parent).asked.has(number) ||
        !offers(number)
      )
        continue;
      return this.#questionFor(parent, this.#claimsFor([number]));
    }
    return undefined;
  }

  /** The question is open: no other one to this parent before it is answered. */
  asked({ parent }: Question): void {
    this.#stateOf(parent).isAsked = true;
  }

  /** The parent announces these contents as claimed; it could not tell of the other ones. */
  answered({ parent, claims, sequence }: Question, same: readonly Claim[]): void {
    const standing = this.#stateOf(parent);
    standing.isAsked = false;
    for (const { number, source } of claims) if (source !== parent) standing.asked.add(number);
    for (const { number, source } of same) {
      standing.confirmedSequence = Math.max(standing.confirmedSequence, sequence);
      if (source === parent) continue;
      standing.isCompared = true;
      const other = this.#stateOf(source);
      other.confirmedSequence = Math.max(
        other.confirmedSequence,
        this.#held.get(number)?.sequence ?? 0,
      );
      this.#mergeGroups(standing.group, other.group);
    }
    // A parent that does not have its own piece any more is not asked for it again.
    if (same.length === 0 && claims.every(({ source }) => source === parent))
      standing.questionFailed = true;
  }

  /** The question failed. */
  failed({ parent }: Question): void {
    const standing = this.#stateOf(parent);
    standing.isAsked = false;
    standing.questionFailed = true;
  }

  /** Whether all sources of what is here agree, each from its first piece to its last. */
  get complete(): boolean {
    const contributors = [...this.#sources.values()].filter(({ count }) => count > 0);
    const groups = new Set(contributors.map(({ group }) => group));
    return groups.size <= 1 && contributors.every(isConfirmed) && this.#isEarlierConfirmed;
  }

  /** Whether some parent has the content of what an earlier download left, if that left anything. */
  get #isEarlierConfirmed(): boolean {
    const earlier = this.#sources.get(EARLIER_DOWNLOAD);
    if (earlier === undefined || earlier.count === 0) return true;
    return [...this.#sources].some(
      ([source, { group }]) => source !== EARLIER_DOWNLOAD && group === earlier.group,
    );
  }

  /** Pieces of sources that are not known to have the content of this parent. */
  #unconfirmedClaims(parent: string, offers: (number: number) => boolean): readonly Claim[] {
    const { group, asked } = this.#stateOf(parent);
    const others = [...this.#sources.values()].some(
      (other) => other.count > 0 && other.group !== group,
    );
    return others
      ? this.#claims(offers, asked, ({ source }) => this.#stateOf(source).group !== group)
      : [];
  }

  /** The oldest, the newest and a random one of the pieces here that fit, and that were not asked about. */
  #claims(
    offers: (number: number) => boolean,
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
          !offers(number)
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
    return { parent, claims, sequence: this.#announcements };
  }

  #mergeGroups(one: string, other: string): void {
    for (const standing of this.#sources.values())
      if (standing.group === other) standing.group = one;
  }

  #stateOf(source: string): SourceState {
    let standing = this.#sources.get(source);
    if (standing === undefined) {
      standing = {
        group: source,
        count: 0,
        last: undefined,
        first: undefined,
        firstSequence: 0,
        latestSequence: 0,
        confirmedSequence: 0,
        isCompared: false,
        asked: new Set(),
        isAsked: false,
        questionFailed: false,
      };
      this.#sources.set(source, standing);
    }
    return standing;
  }
}

/** One announcement needs no other. Of several, the first one has to hold after the last. */
function isConfirmed({ firstSequence, last, confirmedSequence }: SourceState): boolean {
  return last === undefined || last.sequence <= Math.max(firstSequence, confirmedSequence);
}
