/** How a round ended. */
export interface RoundEnd {
  /** Whether every piece came, and the whole has another digest than it should. Else some piece could not be fetched. */
  readonly mismatch: boolean;
  /** Sources of the pieces that were here. */
  readonly sources: readonly string[];
}

/**
 * Decides which parents take part in the next round of a task whose digest is known, after the pieces of one round did not make the
 * whole: so no parent can make a task fail that others have right.
 *
 * A round begins with some parents. One that contradicts the others is set aside. When the round fails, those set aside are tried,
 * then each source of a wrong whole alone. A parent whose pieces alone made a wrong whole is wrong, and takes part in no later round.
 * No set of parents is tried twice.
 */
export class RoundPlanner {
  readonly #parents: readonly string[];
  readonly #queue: (readonly string[])[] = [];
  readonly #tried = new Set<string>();
  readonly #wrongParents = new Set<string>();
  readonly #excluded = new Set<string>();
  #mismatched = false;
  #current: readonly string[];

  /** @param parents all of them: they take part in the first round */
  constructor(parents: readonly string[]) {
    this.#parents = parents;
    this.#current = parents;
  }

  /** Parents of the round. */
  get current(): readonly string[] {
    return this.#current.filter((parent) => !this.#excluded.has(parent));
  }

  /** The parent has another content than the others of the round. */
  exclude(parent: string): void {
    this.#excluded.add(parent);
  }

  /** The round failed. Returns the parents of the next one, or undefined when nothing else is left to try. */
  next({ mismatch, sources }: RoundEnd): readonly string[] | undefined {
    this.#mismatched ||= mismatch;
    // Pieces that cannot be fetched come no sooner without those that are here.
    if (!this.#mismatched && this.#excluded.size === 0) return undefined;
    const [only] = sources;
    const alone =
      mismatch && sources.length === 1 && only !== undefined && this.#parents.includes(only);
    if (alone) this.#wrongParents.add(only);
    // A round with pieces of an earlier download was no trial of its parents.
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

function keyOf(parents: readonly string[]): string {
  return [...parents].sort().join(" ");
}
