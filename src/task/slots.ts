/**
 * Download that sends requests to parents and counts towards the limit of {@link ParentSlots}. Each
 * request in flight uses one slot.
 */
export interface SlotHolder {
  /** Called after `take` returned false for this download, once a slot may be free. */
  readonly onSlot: () => void;
}

/**
 * Requests in flight to one parent, and the downloads that wait to send another. Each request in
 * flight uses one slot.
 */
interface ParentSlotState {
  /** Number of requests in flight to the parent. */
  used: number;
  /** Number of requests in flight to the parent, by download. */
  readonly held: Map<SlotHolder, number>;
  /** Downloads that wait for a slot at the parent, the one with the longest wait first. */
  waiting: Set<SlotHolder>;
  /**
   * Downloads that were notified of the latest free slot and have not tried to use it yet. A
   * download that is paused or done never tries. It delays other downloads at most until the next
   * slot becomes free.
   */
  notified: Set<SlotHolder>;
}

/**
 * Limits the requests in flight to each parent, across all downloads of one downloader. Each
 * request uses one slot. If several downloads compete for a parent, the download with the fewest
 * requests in flight to it gets the next slot.
 */
export class ParentSlots {
  /** Maximum number of requests in flight to one parent. */
  readonly #limit: number;
  /** State of each parent that has requests in flight or waiting downloads, by address. */
  readonly #parents = new Map<string, ParentSlotState>();

  /** @param limit maximum number of requests in flight to one parent */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * Reserves a slot for one request of `holder` to the parent `addr`. Returns false if the limit is
   * reached, or if the slot is left to a download with fewer requests in flight. In that case,
   * `holder.onSlot` is called once a slot may be free.
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

  /** Releases a slot of `holder` at the parent `addr`, after its request has ended. */
  release(addr: string, holder: SlotHolder): void {
    const parent = this.#parents.get(addr);
    const heldByHolder = parent?.held.get(holder);
    if (parent === undefined || heldByHolder === undefined) return;
    if (heldByHolder === 1) parent.held.delete(holder);
    else parent.held.set(holder, heldByHolder - 1);
    parent.used--;
    this.#wake(addr, parent);
  }

  /**
   * Ends all waiting of `holder` for slots. Slots that it still uses must be released separately.
   */
  leave(holder: SlotHolder): void {
    for (const [addr, parent] of this.#parents) {
      parent.waiting.delete(holder);
      if (parent.notified.delete(holder)) this.#wake(addr, parent);
    }
  }

  /**
   * Notifies the downloads that wait for a slot at a parent that a slot is free. Removes the parent
   * if it has no requests in flight and no waiting downloads.
   */
  #wake(addr: string, parent: ParentSlotState): void {
    if (parent.used === 0 && parent.waiting.size === 0) this.#parents.delete(addr);
    const { held, waiting } = parent;
    // Downloads with fewer requests in flight come first, then those with a longer wait, since the
    // sort is stable.
    const order = [...waiting].sort((a, b) => (held.get(a) ?? 0) - (held.get(b) ?? 0));
    parent.waiting = new Set();
    parent.notified = waiting;
    for (const holder of order) holder.onSlot();
  }
}

/** Returns the state of a parent without requests in flight. */
function newParent(): ParentSlotState {
  return { used: 0, held: new Map(), waiting: new Set(), notified: new Set() };
}
