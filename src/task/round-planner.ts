/** Result of a round. */
export interface RoundEnd {
  /**
   * True if all pieces arrived, but the whole has the wrong digest. False if some piece was
   * unavailable.
   */
  readonly mismatch: boolean;
  /** Sources of the pieces in the sink at the end of the round. */
  readonly sources: readonly string[];
}

/**
 * Selects the parents of each round, for a task whose digest is known. A new round starts when the
 * pieces of the last one did not form the right content. So no parent can fail a task that other
 * parents have right.
 *
 * The first round uses all parents, and excludes one that contradicts the others. After a failed
 * round, the excluded parents are tried, then each source of the wrong content alone. A parent
 * whose pieces alone formed wrong content is never used again. No set of parents is tried twice.
 */
export class RoundPlanner {
  readonly #parents: readonly string[];
  /** Sets of parents to try in later rounds, first one next. */
  readonly #queue: (readonly string[])[] = [];
  /** Keys of the sets of parents that were tried, see {@link keyOf}. */
  readonly #tried = new Set<string>();
  /** Parents whose pieces alone formed wrong content. */
  readonly #wrongParents = new Set<string>();
  /** Parents that are excluded from the current round. */
  readonly #excluded = new Set<string>();
  /** True once any round ended with the wrong digest. */
  #mismatched = false;
  /** Parents of the current round, including excluded ones. */
  #current: readonly string[];

  /** @param parents names of all parents, which take part in the first round */
  constructor(parents: readonly string[]) {
    this.#parents = parents;
    this.#current = parents;
  }

  /** Parents of the current round, without the excluded ones. */
  get current(): readonly string[] {
    return this.#current.filter((parent) => !this.#excluded.has(parent));
  }

  /**
   * Excludes a parent from the current round, since its content differs from that of the others.
   */
  exclude(parent: string): void {
    this.#excluded.add(parent);
  }

  /**
   * Ends a failed round. Returns the parents of the next round; undefined if nothing is left to
   * try.
   */
  next({ mismatch, sources }: RoundEnd): readonly string[] | undefined {
    this.#mismatched ||= mismatch;
    // Missing pieces do not become available by dropping those that are present.
    if (!this.#mismatched && this.#excluded.size === 0) return undefined;
    const [firstSource] = sources;
    const isSingleParent =
      mismatch &&
      sources.length === 1 &&
      firstSource !== undefined &&
      this.#parents.includes(firstSource);
    if (isSingleParent) this.#wrongParents.add(firstSource);
    // A round that used pieces of an earlier download does not prove that its parents fail.
    if (sources.every((source) => this.#parents.includes(source)))
      this.#tried.add(keyOf(this.current));
    if (this.#excluded.size > 0) this.#queue.push([...this.#excluded]);
    if (mismatch && !isSingleParent)
      for (const source of sources) if (this.#parents.includes(source)) this.#queue.push([source]);
    this.#excluded.clear();
    for (;;) {
      const parents = this.#queue.shift() ?? this.#parents;
      const candidates = parents.filter((parent) => !this.#wrongParents.has(parent));
      if (candidates.length > 0 && !this.#tried.has(keyOf(candidates))) {
        this.#current = candidates;
        return candidates;
      }
      if (parents === this.#parents) return undefined;
    }
  }
}

/** Returns a key for a set of parents, independent of their order. */
function keyOf(parents: readonly string[]): string {
  return [...parents].sort().join(" ");
}
