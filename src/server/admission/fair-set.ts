/**
 * Set of items, such as connections, grouped by the network of the client that uses them; see
 * `networkOf`. When a server reaches a limit, the set selects an item of the network with the
 * most items for eviction.
 */
export class FairSet<T> {
  /** Items of each network, in the order in which they were added. */
  readonly #held = new Map<string, Set<T>>();
  #size = 0;

  /** Total number of items, over all networks. */
  get size(): number {
    return this.#size;
  }

  /**
   * Adds an item of `network` as its newest. Does nothing if the item is already in the set for
   * that network.
   */
  add(network: string, item: T): void {
    const held = this.#held.get(network) ?? new Set();
    this.#held.set(network, held);
    if (held.has(item)) return;
    held.add(item);
    this.#size++;
  }

  /**
   * Removes an item of `network`. Returns false if the set does not contain the item for that
   * network.
   */
  delete(network: string, item: T): boolean {
    const held = this.#held.get(network);
    if (held?.delete(item) !== true) return false;
    this.#size--;
    if (held.size === 0) this.#held.delete(network);
    return true;
  }

  /**
   * Returns the item to evict so that a new item of `network` can be added: the oldest item of the
   * network with the most items. Does not remove the item.
   *
   * Returns undefined if, without the item, that network would have no more items than `network`
   * has. `network` then uses its fair share already.
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
