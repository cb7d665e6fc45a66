/** Tracks which network holds which items of a limited resource, see {@link networkOf}. */
export class FairSet<T> {
  /** Items by network, the oldest first. */
  readonly #held = new Map<string, Set<T>>();
  #size = 0;

  /** Number of items of all networks. */
  get size(): number {
    return this.#size;
  }

  /** Adds an item as the newest of its network. Does nothing if the network has it already. */
  add(network: string, item: T): void {
    const held = this.#held.get(network) ?? new Set();
    this.#held.set(network, held);
    if (held.has(item)) return;
    held.add(item);
    this.#size++;
  }

  /** Removes an item. Returns false if the network does not have it. */
  delete(network: string, item: T): boolean {
    const held = this.#held.get(network);
    if (held?.delete(item) !== true) return false;
    this.#size--;
    if (held.size === 0) this.#held.delete(network);
    return true;
  }

  /**
   * Returns the item to evict for a new one of `network`: the oldest item of the network with the
   * most items. Returns undefined unless that network then still has more items than `network`.
   */
  evictionCandidate(network: string): T | undefined {
    let largest: Set<T> | undefined;
    for (const held of this.#held.values()) if (held.size > (largest?.size ?? 0)) largest = held;
    if (largest === undefined || largest.size - 1 <= (this.#held.get(network)?.size ?? 0))
      return undefined;
    const [oldest] = largest;
    return oldest;
  }
}
