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
  readonly #queue: (readonly string[])[] = [];
  readonly #tried = new Set<string>();
  readonly #wrongParents = new Set<string>();
  readonly #excluded = new Set<string>();
  #mismatched = false;
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
    const [only] = sources;
    const alone =
      mismatch && sources.length === 1 && only !== undefined && this.#parents.includes(only);
    if (alone) this.#wrongParents.add(only);
    // A round that used pieces of an earlier download does not prove that its parents fail.
    if (sources.every((source) => this.#parents.includes(source)))
      this.#tried.add(keyOf(this.current));
    if (this.#excluded.size > 0) this.#queue.push([...this.#excluded]);
    if (mismatch && !alone)
      for (const source of sources) if (this.#parents.includes(source)) this.#queue.push([source]);
    this.#excluded.clear();
    for (;;) {
      const parents = this.#queue.shift() ?? this.#parents;
      const right = parents.filter((parent) => !this.#wrongParents.has(parent));
      if (right.length > 0 && !this.#tried.has(keyOf(right))) {
        this.#current = right;
        return right;
      }
      if (parents === this.#parents) return undefined;
    }
  }
}

/** Returns a key for a set of parents, independent of their order. */
function keyOf(parents: readonly string[]): string {
  return [...parents].sort().join(" ");
}
