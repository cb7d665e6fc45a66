/** What networks hold of something of which there is so much. See {@link networkOf}. */
export class FairSet<T> {
  /** Of each, what it has held for longest is the first. */
  readonly #held = new Map<string, Set<T>>();
  #size = 0;

  /** How much is held, by all together. */
  get size(): number {
    return this.#size;
  }

  add(network: string, item: T): void {
    const held = this.#held.get(network) ?? new Set();
    this.#held.set(network, held);
    if (held.has(item)) return;
    held.add(item);
    this.#size++;
  }

  /** False when the network does not hold it. */
  delete(network: string, item: T): boolean {
    const held = this.#held.get(network);
    if (held?.delete(item) !== true) return false;
    this.#size--;
    if (held.size === 0) this.#held.delete(network);
    return true;
  }

  /** What makes room for one more of `network`: the oldest of the network that holds most, if that has more even with one fewer. */
  evictionCandidate(network: string): T | undefined {
    let most: Set<T> | undefined;
    for (const held of this.#held.values()) if (held.size > (most?.size ?? 0)) most = held;
    if (most === undefined || most.size - 1 <= (this.#held.get(network)?.size ?? 0))
      return undefined;
    const [oldest] = most;
    return oldest;
  }
}
