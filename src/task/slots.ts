/** Whoever takes slots: one download. */
export interface SlotHolder {
  /** A slot has become free that was refused before. */
  readonly onSlot: () => void;
}

interface Parent {
  used: number;
  readonly held: Map<SlotHolder, number>;
  /** Holders that were refused, the longest waiting first. */
  waiting: Set<SlotHolder>;
  /**
   * Those that waited when the last slot became free and have not come for it yet. One that does not come, since it is paused or
   * wants no more, stands in the way of others until the next slot becomes free at most.
   */
  invited: Set<SlotHolder>;
}

/**
 * Requests to each parent at a time, of all downloads of one downloader together. Where downloads compete for a parent, the
 * one that holds fewer slots there gets the next.
 */
export class ParentSlots {
  readonly #limit: number;
  readonly #parents = new Map<string, Parent>();

  /** @param limit requests to one parent at a time */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Takes a slot at `addr`. When there is none for `holder` now, its `onSlot` is called once there may be. */
  take(addr: string, holder: SlotHolder): boolean {
    const parent = this.#parents.get(addr) ?? newParent();
    this.#parents.set(addr, parent);
    parent.invited.delete(holder);
    const mine = parent.held.get(holder) ?? 0;
    const free = parent.used < this.#limit;
    if (!free || [...parent.invited].some((other) => (parent.held.get(other) ?? 0) < mine)) {
      parent.waiting.add(holder);
      return false;
    }
    parent.waiting.delete(holder);
    parent.held.set(holder, mine + 1);
    parent.used++;
    return true;
  }

  /** Gives a slot back. */
  release(addr: string, holder: SlotHolder): void {
    const parent = this.#parents.get(addr);
    const mine = parent?.held.get(holder);
    if (parent === undefined || mine === undefined) return;
    if (mine === 1) parent.held.delete(holder);
    else parent.held.set(holder, mine - 1);
    parent.used--;
    this.#wake(addr, parent);
  }

  /** The holder wants no more. What it holds it still gives back. */
  leave(holder: SlotHolder): void {
    for (const [addr, parent] of this.#parents) {
      parent.waiting.delete(holder);
      if (parent.invited.delete(holder)) this.#wake(addr, parent);
    }
  }

  #wake(addr: string, parent: Parent): void {
    if (parent.used === 0 && parent.waiting.size === 0) this.#parents.delete(addr);
    const { held, waiting } = parent;
    // Who holds less is asked first, and of those the one who waited longer: the sort is stable.
    const order = [...waiting].sort((a, b) => (held.get(a) ?? 0) - (held.get(b) ?? 0));
    parent.waiting = new Set();
    parent.invited = waiting;
    for (const holder of order) holder.onSlot();
  }
}

function newParent(): Parent {
  return { used: 0, held: new Map(), waiting: new Set(), invited: new Set() };
}
