import type { Clock, Timer } from "../../runtime.ts";
import { FairSet } from "./fair-set.ts";
import { networkOf } from "./network.ts";

/** Slot of one connection on a server. */
export interface ConnectionSlot {
  /** Network of the client, see {@link networkOf}. */
  readonly network: string;
  /** Records the start of a request on the connection. */
  begin(): void;
  /** Records the end of a request, for each call of {@link begin}. */
  end(): void;
  /** Frees the slot when the connection has ended. Idempotent. */
  leave(): void;
}

/**
 * Delay between the choice of a connection for eviction and its end, in ms. When many connections
 * arrive at once, all are accepted before any request is read. The delay gives them time to make
 * one.
 */
export const EVICTION_DELAY_MS = 50;

/**
 * Number of connections that a listener accepts beyond the slots of its server. They are those in
 * state `noticed`, and new ones, up to a full accept queue of the system.
 */
export const EXTRA_CONNECTIONS = 512;

/**
 * State of a connection:
 *
 * - `silent`: it has made no request yet.
 * - `busy`: it has requests in flight.
 * - `idle`: it has made requests, and none is in flight.
 * - `noticed`: it holds no slot, and is evicted after {@link EVICTION_DELAY_MS}. It gets a slot
 *   again if one is free by then, or if it has made a request and another connection can be
 *   evicted.
 * - `left`: it has ended, or was evicted. Terminal.
 */
type SlotState = "silent" | "busy" | "idle" | "noticed" | "left";

interface TakenSlot extends ConnectionSlot {
  /** Ends the connection. */
  readonly evict: () => void;
  state: SlotState;
  /** Number of requests in flight, in any state. */
  requests: number;
  /** True once the connection has made a request. */
  hasRequested: boolean;
  /** True once the connection has made a request since it last entered state `noticed`. */
  requestedSinceNotice: boolean;
  /** Timer that ends the `noticed` state. */
  notice: Timer | undefined;
}

/**
 * Admission control for the connections of a server. When all slots are taken, a new connection
 * evicts, in this order:
 *
 * 1. the oldest connection that has made no request;
 * 2. the connection that has been idle for longest, because its client can reconnect;
 * 3. the connection whose requests are oldest, of the network with the most busy connections.
 *
 * So neither silent connections nor one host with endless requests can lock out other clients. In
 * the first two cases the eviction is delayed by {@link EVICTION_DELAY_MS}. A connection that makes
 * a request in that time competes like a new one: the same rule selects another connection.
 */
export class ConnectionSlots {
  readonly #maxConnections: number;
  readonly #clock: Clock;
  /** Connections in state `silent`, the oldest first. */
  readonly #silent = new Set<TakenSlot>();
  /** Connections in state `idle`, the longest idle first. */
  readonly #idle = new Set<TakenSlot>();
  /** Connections in state `busy` by network, those with the oldest requests first. */
  readonly #busy = new FairSet<TakenSlot>();

  /** @param maxConnections number of slots, at least 1 */
  constructor(maxConnections: number, clock: Clock) {
    this.#maxConnections = maxConnections;
    this.#clock = clock;
  }

  /**
   * Takes a slot for a new connection. Returns undefined if no slot is free and none can be freed.
   *
   * @param host IP address of the client
   * @param evict ends the connection; called when another connection gets its slot
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

  /** True while all slots are taken. A `noticed` connection holds none. */
  get #full(): boolean {
    return this.#silent.size + this.#idle.size + this.#busy.size >= this.#maxConnections;
  }

  /** Frees a slot for a connection of `network`. Returns false if no connection may be evicted. */
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

  /** Moves a connection to the state that follows from its requests. */
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
