import type { Clock, Timer } from "../../runtime.ts";
import { FairSet } from "./fair-set.ts";
import { networkOf } from "./network.ts";

/**
 * Permission of one connection to stay open on a server. A server has `maxConnections` of them, see
 * {@link ConnectionSlots}.
 */
export interface ConnectionSlot {
  /** Network of the client: its IPv4 address or IPv6 /64 prefix, see {@link networkOf}. */
  readonly network: string;
  /** Records that a request has started on the connection. */
  begin(): void;
  /** Records that a request has ended. Must be called once for each call of {@link begin}. */
  end(): void;
  /** Frees the slot. The server calls this method when the connection has ended. Idempotent. */
  leave(): void;
}

/**
 * Delay in ms between selecting a connection for eviction and closing it. A connection that starts
 * a request during the delay may stay open. New connections need that time: when many arrive at
 * once, all are accepted before the first request is read.
 */
export const EVICTION_DELAY_MS = 50;

/**
 * Number of connections that a listener accepts in addition to `maxConnections`. These have no slot
 * yet, or wait for their eviction (state `noticed`). The number covers a full accept queue of the
 * operating system.
 */
export const EXTRA_CONNECTIONS = 512;

/**
 * State of a connection:
 *
 * - `silent`: it has not started a request yet.
 * - `busy`: it has requests in flight.
 * - `idle`: it has started requests, and all of them have ended.
 * - `noticed`: it was selected for eviction, holds no slot, and is closed after
 *   {@link EVICTION_DELAY_MS}. It stays open if a slot is free by then. It also stays open if it
 *   has started a request meanwhile and another connection can be evicted instead.
 * - `left`: it has ended, or was evicted. Terminal.
 */
type SlotState = "silent" | "busy" | "idle" | "noticed" | "left";

interface TakenSlot extends ConnectionSlot {
  /** Closes the connection. */
  readonly evict: () => void;
  state: SlotState;
  /** Number of requests in flight on the connection. Counted in every {@link SlotState}. */
  requests: number;
  /** True if the connection has ever started a request. */
  hasRequested: boolean;
  /** True if the connection has started a request since it last entered state `noticed`. */
  requestedSinceNotice: boolean;
  /**
   * Timer that ends state `noticed` after {@link EVICTION_DELAY_MS}; undefined before the first
   * notice.
   */
  notice: Timer | undefined;
}

/**
 * Limits the number of concurrent connections of a server. When all slots are taken, a new
 * connection evicts another one, in this order of preference:
 *
 * - first the oldest connection that has not started a request
 * - else the connection that has been idle for longest, because its client can reconnect
 * - else the connection with the oldest requests, of the network with the most busy connections
 *
 * So neither silent connections nor one host with endless requests can lock out other clients. In
 * the first two cases the eviction is delayed by {@link EVICTION_DELAY_MS}. If the selected
 * connection starts a request in that time, the same rules select another connection in its place.
 */
export class ConnectionSlots {
  readonly #maxConnections: number;
  readonly #clock: Clock;
  /** Connections in state `silent`, in the order of their arrival. */
  readonly #silent = new Set<TakenSlot>();
  /** Connections in state `idle`, the longest idle connection first. */
  readonly #idle = new Set<TakenSlot>();
  /**
   * Connections in state `busy`, grouped by network. In each group, the connection that has been
   * busy for longest comes first.
   */
  readonly #busy = new FairSet<TakenSlot>();

  /** @param maxConnections maximum number of concurrent connections, at least 1 */
  constructor(maxConnections: number, clock: Clock) {
    this.#maxConnections = maxConnections;
    this.#clock = clock;
  }

  /**
   * Assigns a slot to a new connection. If all slots are taken, evicts another connection. Returns
   * undefined if no other connection may be evicted.
   *
   * @param host IP address of the client
   * @param evict closes the new connection; called when it is evicted later
   */
  take(host: string, evict: () => void): ConnectionSlot | undefined {
    const network = networkOf(host);
    if (this.#full && !this.#makeRoomFor(network)) return undefined;
    const slot: TakenSlot = {
      network,
      evict,
      state: "left",
      requests: 0,
      hasRequested: false,
      requestedSinceNotice: false,
      notice: undefined,
      begin: () => {
        slot.requests++;
        slot.hasRequested = true;
        slot.requestedSinceNotice = true;
        if (slot.state === "silent" || slot.state === "idle") this.#enter(slot);
      },
      end: () => {
        slot.requests--;
        if (slot.state === "busy" && slot.requests === 0) this.#enter(slot);
      },
      leave: () => this.#move(slot, "left"),
    };
    this.#enter(slot);
    return slot;
  }

  /**
   * True if all slots are taken. Connections in state `noticed` do not count, because they hold no
   * slot.
   */
  get #full(): boolean {
    return this.#silent.size + this.#idle.size + this.#busy.size >= this.#maxConnections;
  }

  /**
   * Frees a slot for a new connection from `network`, by evicting another connection. Returns
   * false, and evicts none, if no connection may be evicted.
   */
  #makeRoomFor(network: string): boolean {
    for (const slots of [this.#silent, this.#idle]) {
      for (const first of slots) {
        this.#giveNotice(first);
        return true;
      }
    }
    const candidate = this.#busy.evictionCandidate(network);
    if (candidate === undefined) return false;
    this.#evict(candidate);
    return true;
  }

  #giveNotice(slot: TakenSlot): void {
    this.#move(slot, "noticed");
    slot.requestedSinceNotice = false;
    const over = (): void => {
      const stays = !this.#full || (slot.requestedSinceNotice && this.#makeRoomFor(slot.network));
      if (stays) this.#enter(slot);
      else this.#evict(slot);
    };
    slot.notice = this.#clock.setTimer(over, EVICTION_DELAY_MS, { background: true });
  }

  #evict(slot: TakenSlot): void {
    this.#move(slot, "left");
    slot.evict();
  }

  /**
   * Moves a connection to state `silent`, `idle` or `busy`, depending on its past and current
   * requests.
   */
  #enter(slot: TakenSlot): void {
    this.#move(slot, slot.requests > 0 ? "busy" : slot.hasRequested ? "idle" : "silent");
  }

  #move(slot: TakenSlot, state: SlotState): void {
    slot.notice?.cancel();
    this.#silent.delete(slot);
    this.#idle.delete(slot);
    this.#busy.delete(slot.network, slot);
    slot.state = state;
    if (state === "silent") this.#silent.add(slot);
    else if (state === "idle") this.#idle.add(slot);
    else if (state === "busy") this.#busy.add(slot.network, slot);
  }
}
