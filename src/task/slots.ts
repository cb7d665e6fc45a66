/** Consumer of request slots: one download. */
export interface SlotHolder {
  /** Called when a slot may be free that was refused to this holder before. */
  readonly onSlot: () => void;
}

/** Slots at one parent, and the holders that wait for one. */
interface ParentSlotState {
  /** Number of slots in use. */
  used: number;
  /** Number of slots in use, by holder. */
  readonly held: Map<SlotHolder, number>;
  /** Holders whose last request for a slot was refused, longest wait first. */
  waiting: Set<SlotHolder>;
  /**
   * Holders that were notified of the last free slot and have not come back yet. A holder that
   * never does, since it is paused or done, delays others at most until the next slot becomes free.
   */
  notified: Set<SlotHolder>;
}

/**
 * Limits the requests in flight to each parent, across all downloads of one downloader. Downloads
 * that compete for a parent share it fairly: the one with fewer slots there gets the next.
 */
export class ParentSlots {
  readonly #limit: number;
  readonly #parents = new Map<string, ParentSlotState>();

  /** @param limit maximum number of requests in flight to one parent */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * Takes a slot at the parent `addr`. Returns false if no slot is available to `holder` now; its
   * `onSlot` is then called once one may be.
   */
  take(addr: string, holder: SlotHolder): boolean {
    const parent = this.#parents.get(addr) ?? newParent();
    this.#parents.set(addr, parent);
    parent.notified.delete(holder);
    const heldByHolder = parent.held.get(holder) ?? 0;
    const free = parent.used < this.#limit;
    if (
      !free ||
      [...parent.notified].some((other) => (parent.held.get(other) ?? 0) < heldByHolder)
    ) {
      parent.waiting.add(holder);
      return false;
    }
    parent.waiting.delete(holder);
    parent.held.set(holder, heldByHolder + 1);
    parent.used++;
    return true;
  }

  /** Releases a slot of `holder` at the parent `addr`. */
  release(addr: string, holder: SlotHolder): void {
    const parent = this.#parents.get(addr);
    const heldByHolder = parent?.held.get(holder);
    if (parent === undefined || heldByHolder === undefined) return;
    if (heldByHolder === 1) parent.held.delete(holder);
    else parent.held.set(holder, heldByHolder - 1);
    parent.used--;
    this.#wake(addr, parent);
  }

  /** Withdraws a holder from all waiting lists. The slots that it holds must still be released. */
  leave(holder: SlotHolder): void {
    for (const [addr, parent] of this.#parents) {
      parent.waiting.delete(holder);
      if (parent.notified.delete(holder)) this.#wake(addr, parent);
    }
  }

  /** Notifies the waiting holders that a slot is free. */
  #wake(addr: string, parent: ParentSlotState): void {
    if (parent.used === 0 && parent.waiting.size === 0) this.#parents.delete(addr);
    const { held, waiting } = parent;
    // Holders with fewer slots come first, then those that waited longer: the sort is stable.
    const order = [...waiting].sort((a, b) => (held.get(a) ?? 0) - (held.get(b) ?? 0));
    parent.waiting = new Set();
    parent.notified = waiting;
    for (const holder of order) holder.onSlot();
  }
}

function newParent(): ParentSlotState {
  return { used: 0, held: new Map(), waiting: new Set(), notified: new Set() };
}
