import type { SinkPiece } from "./sink.ts";

/** Source of the pieces that an earlier download left. Parents are sources by their name, `host:port`. */
export const EARLIER = "an earlier download";

/** Held pieces looked at in search of one to ask about, for each of them. A task may have a million pieces. */
const LOOK = 256;

/** A piece that is here. */
export interface HeldPiece {
  readonly piece: SinkPiece;
  /** A parent's name, or {@link EARLIER}. */
  readonly source: string;
  /** Position of its announcement among all announcements; 0 for {@link EARLIER}. */
  readonly at: number;
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
  readonly at: number;
}

/** What is known of one source. */
interface Standing {
  /** Sources that agree have the same group. */
  group: string;
  /** Pieces here that it brought, and the one of them that was announced last. */
  count: number;
  last: HeldPiece | undefined;
  /** Its first announcement, and the positions of that and of its latest one. */
  first: Claim | undefined;
  firstAt: number;
  latestAt: number;
  /** Its announcements up to this position are vouched for: by a later answer of its own, or by another source. */
  covered: number;
  /** Whether its pieces may be committed without another question. */
  compared: boolean;
  /** Pieces of others that it was asked about, whatever it said. */
  readonly asked: Set<number>;
  /** A question is open. */
  busy: boolean;
  /** The latest question failed. None follows before a piece of this parent waits again. */
  failed: boolean;
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
  readonly #most: number;
  readonly #random: () => number;
  readonly #held = new Map<number, HeldPiece>();
  /** Numbers of the held pieces, in the order in which they came. */
  readonly #order: number[] = [];
  readonly #standings = new Map<string, Standing>();
  #announcements = 0;

  /**
   * @param most greatest number of pieces of others that one parent is asked about
   * @param random from 0 to 1
   */
  constructor(most: number, random: () => number) {
    this.#most = most;
    this.#random = random;
  }

  /** Whether no piece is here. */
  get empty(): boolean {
    return this.#held.size === 0;
  }

  /** All pieces that are here, in the order in which they came. */
  get pieces(): Iterable<HeldPiece> {
    return this.#held.values();
  }

  /** Sources of the pieces that are here. */
  get contributors(): readonly string[] {
    return [...this.#standings].filter(([, { count }]) => count > 0).map(([source]) => source);
  }

  /** A parent announced a piece. Returns the announcement's position among all. */
  announced(parent: string, number: number, digest: string): number {
    const standing = this.#of(parent);
    const at = ++this.#announcements;
    if (standing.first === undefined) {
      standing.first = { number, digest, source: parent };
      standing.firstAt = at;
    }
    standing.latestAt = at;
    return at;
  }

  /** A piece is here and right; each is held once. @param at position of its announcement */
  hold(piece: SinkPiece, source: string, at: number): void {
    const held: HeldPiece = { piece, source, at };
    const standing = this.#of(source);
    if (this.empty) standing.compared = true;
    standing.count++;
    if (standing.last === undefined || at > standing.last.at) standing.last = held;
    this.#held.set(piece.number, held);
    this.#order.push(piece.number);
  }

  /** Only these pieces are left, and their sources are compared again. */
  restart(kept: readonly HeldPiece[]): void {
    this.#held.clear();
    this.#order.length = 0;
    this.#standings.clear();
    for (const { piece, source, at } of kept) this.hold(piece, source, at);
  }

  /** Whether a piece of this parent may be committed, as far as other sources are concerned. */
  isOpen(parent: string, offers: (number: number) => boolean): boolean {
    const { compared, busy } = this.#of(parent);
    return compared || (!busy && this.#strangers(parent, offers).length === 0);
  }

  /** A piece of the parent waits to be committed. */
  waits(parent: string): void {
    this.#of(parent).failed = false;
  }

  /**
   * What to ask a parent before its first piece is committed, and later, where fewer pieces than can be asked about were here then.
   * Undefined when there is nothing to ask, or a question is open.
   */
  question(parent: string, offers: (number: number) => boolean): Question | undefined {
    const { busy, compared, failed, first, asked } = this.#of(parent);
    if (busy || failed || first === undefined || asked.size >= this.#most) return undefined;
    if (!compared) return this.#ask(parent, this.#strangers(parent, offers));
    // The reference itself is not asked: the others are asked about its pieces.
    if (asked.size === 0) return undefined;
    const claims = this.#claims(offers, asked, ({ source }) => source !== parent);
    return claims.length < this.#most - asked.size ? undefined : this.#ask(parent, claims);
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
    const { busy, failed, first, firstAt, latestAt, covered, last, count, group } =
      this.#of(parent);
    if (busy || failed) return undefined;
    const from = Math.max(firstAt, covered);
    if (first !== undefined && (all ? (last?.at ?? 0) : latestAt) > from && offers(first.number)) {
      return this.#ask(parent, [first]);
    }
    if (!all) return undefined;
    if (count > 0 || !this.#isEarlierConfirmed) {
      const question = this.#ask(parent, this.#strangers(parent, offers));
      if (question !== undefined) return question;
    }
    for (const [source, other] of this.#standings) {
      if (
        source === parent ||
        isCovered(other) ||
        other.group !== group ||
        other.last === undefined
      )
        continue;
      const { number } = other.last.piece;
      if (!(other.failed || gone(source)) || this.#of(parent).asked.has(number) || !offers(number))
        continue;
      return this.#ask(parent, this.#claimsOf([number]));
    }
    return undefined;
  }

  /** The question is open: no other one to this parent before it is answered. */
  begin({ parent }: Question): void {
    this.#of(parent).busy = true;
  }

  /** The parent announces these contents as claimed; it could not tell of the other ones. */
  answered({ parent, claims, at }: Question, same: readonly Claim[]): void {
    const standing = this.#of(parent);
    standing.busy = false;
    for (const { number, source } of claims) if (source !== parent) standing.asked.add(number);
    for (const { number, source } of same) {
      standing.covered = Math.max(standing.covered, at);
      if (source === parent) continue;
      standing.compared = true;
      const other = this.#of(source);
      other.covered = Math.max(other.covered, this.#held.get(number)?.at ?? 0);
      this.#join(standing.group, other.group);
    }
    // A parent that does not have its own piece any more is not asked for it again.
    if (same.length === 0 && claims.every(({ source }) => source === parent))
      standing.failed = true;
  }

  /** The question failed. */
  failed({ parent }: Question): void {
    const standing = this.#of(parent);
    standing.busy = false;
    standing.failed = true;
  }

  /** Whether all sources of what is here agree, each from its first piece to its last. */
  get complete(): boolean {
    const contributors = [...this.#standings.values()].filter(({ count }) => count > 0);
    const groups = new Set(contributors.map(({ group }) => group));
    return groups.size <= 1 && contributors.every(isCovered) && this.#isEarlierConfirmed;
  }

  /** Whether some parent has the content of what an earlier download left, if that left anything. */
  get #isEarlierConfirmed(): boolean {
    const earlier = this.#standings.get(EARLIER);
    if (earlier === undefined || earlier.count === 0) return true;
    return [...this.#standings].some(
      ([source, { group }]) => source !== EARLIER && group === earlier.group,
    );
  }

  /** Pieces of sources that are not known to have the content of this parent. */
  #strangers(parent: string, offers: (number: number) => boolean): readonly Claim[] {
    const { group, asked } = this.#of(parent);
    const others = [...this.#standings.values()].some(
      (other) => other.count > 0 && other.group !== group,
    );
    return others
      ? this.#claims(offers, asked, ({ source }) => this.#of(source).group !== group)
      : [];
  }

  /** The oldest, the newest and a random one of the pieces here that fit, and that were not asked about. */
  #claims(
    offers: (number: number) => boolean,
    asked: ReadonlySet<number>,
    fits: (held: HeldPiece) => boolean,
  ): readonly Claim[] {
    if (asked.size >= this.#most) return [];
    const { length } = this.#order;
    const found = new Set<number>();
    for (const [from, step] of [
      [0, 1],
      [length - 1, -1],
      [Math.floor(this.#random() * length), 1],
    ] as const) {
      for (let at = from, left = LOOK; left > 0; at += step, left--) {
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
    return this.#claimsOf([...found].slice(0, this.#most - asked.size));
  }

  #claimsOf(numbers: readonly number[]): readonly Claim[] {
    return numbers.flatMap((number) => {
      const held = this.#held.get(number);
      return held === undefined ? [] : [{ number, digest: held.piece.digest, source: held.source }];
    });
  }

  #ask(parent: string, claims: readonly Claim[]): Question | undefined {
    if (claims.length === 0) return undefined;
    return { parent, claims, at: this.#announcements };
  }

  #join(one: string, other: string): void {
    for (const standing of this.#standings.values())
      if (standing.group === other) standing.group = one;
  }

  #of(source: string): Standing {
    let standing = this.#standings.get(source);
    if (standing === undefined) {
      standing = {
        group: source,
        count: 0,
        last: undefined,
        first: undefined,
        firstAt: 0,
        latestAt: 0,
        covered: 0,
        compared: false,
        asked: new Set(),
        busy: false,
        failed: false,
      };
      this.#standings.set(source, standing);
    }
    return standing;
  }
}

/** One announcement needs no other. Of several, the first one has to hold after the last. */
function isCovered({ firstAt, last, covered }: Standing): boolean {
  return last === undefined || last.at <= Math.max(firstAt, covered);
}
