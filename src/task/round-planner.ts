/**
 * Result of a failed round. A round is one pass over all requested pieces with one set of parents.
 */
export interface RoundEnd {
  /**
   * True if all pieces were fetched, but the digest of the whole content is wrong. False if some
   * piece was unavailable.
   */
  readonly mismatch: boolean;
  /**
   * Sources of the pieces in the sink at the end of the round: names of parents, and of earlier
   * downloads.
   */
  readonly sources: readonly string[];
}

/**
 * Selects the parents of each round, for a task whose digest is known. A round is one pass over all
 * requested pieces with one set of parents. It fails if the content has the wrong digest, or if a
 * piece is unavailable.
 *
 * The first round uses all parents. During a round, a parent is excluded if its content contradicts
 * that of other parents.
 *
 * After a failed round, the excluded parents are tried. Then each parent that delivered wrong
 * content is tried alone, and finally all parents together. A parent that delivered wrong content
 * alone is never used again. No set of parents is tried twice.
 *
 * So a parent with wrong content cannot fail a task for which another parent has the right content.
 */
export class RoundPlanner {
  /** Names of all parents. */
  readonly #parents: readonly string[];
  /** Sets of parents for later rounds, in the order in which they are tried. */
  readonly #queue: (readonly string[])[] = [];
  /** Keys of the sets of parents that were already tried. Each key is made by {@link keyOf}. */
  readonly #tried = new Set<string>();
  /** Parents that delivered content with the wrong digest while no other parent took part. */
  readonly #wrongParents = new Set<string>();
  /**
   * Parents that are excluded from the current round, since their content contradicts that of other
   * parents.
   */
  readonly #excluded = new Set<string>();
  /** True once the content of any round had the wrong digest. */
  #mismatched = false;
  /** Parents of the current round, including parents excluded during the round. */
  #current: readonly string[];

  /** @param parents names of all parents; the first round uses all of them */
  constructor(parents: readonly string[]) {
    this.#parents = parents;
    this.#current = parents;
  }

  /** Parents of the current round, without parents excluded during the round. */
  get current(): readonly string[] {
    return this.#current.filter((parent) => !this.#excluded.has(parent));
  }

  /**
   * Excludes a parent from the current round, since its content contradicts that of other parents.
   */
  exclude(parent: string): void {
    this.#excluded.add(parent);
  }

  /**
   * Ends a failed round. Returns the parents of the next round, or undefined if no further set of
   * parents is left to try.
   */
  next({ mismatch, sources }: RoundEnd): readonly string[] | undefined {
    this.#mismatched ||= mismatch;
    // If pieces are missing, no parent was excluded and no digest was wrong, another round cannot
    // help.
    if (!this.#mismatched && this.#excluded.size === 0) return undefined;
    const parents = sources.filter((source) => this.#parents.includes(source));
    // If the round used pieces of an earlier download, these may be the wrong pieces, so its set of
    // parents may be tried again.
    if (parents.length === sources.length) this.#tried.add(keyOf(this.current));
    // If no parent was excluded, this set is empty, and skipped below.
    this.#queue.push([...this.#excluded]);
    if (mismatch) {
      if (sources.length === 1) for (const parent of parents) this.#wrongParents.add(parent);
      else this.#queue.push(...parents.map((parent) => [parent]));
    }
    this.#excluded.clear();
    for (;;) {
      const next = this.#queue.shift() ?? this.#parents;
      const candidates = next.filter((parent) => !this.#wrongParents.has(parent));
      if (candidates.length > 0 && !this.#tried.has(keyOf(candidates))) {
        this.#current = candidates;
        return candidates;
      }
      if (next === this.#parents) return undefined;
    }
  }
}

/** Returns a key for a set of parents, independent of their order. */
function keyOf(parents: readonly string[]): string {
  return [...parents].sort().join(" ");
}
