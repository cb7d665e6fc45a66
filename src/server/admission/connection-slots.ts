import type { Clock, Timer } from "../../runtime.ts";
import { FairSet } from "./fair-set.ts";
import { networkOf } from "./network.ts";

/** A connection's place on a server. */
export interface ConnectionSlot {
  /** Network of the client, see {@link networkOf}. */
  readonly network: string;
  /** Records that a request of the connection is being answered. */
  begin(): void;
  /** Records that one has been answered. */
  end(): void;
  /** Records that the connection has ended. Idempotent. */
  leave(): void;
}

/**
 * Notice in ms for a connection that has to make room. Of many that arrive at once, all are
 * accepted before the request of any is read.
 */
export const NOTICE = 50;

/**
 * Connections that a listener accepts beyond the places of its server. Those under notice stay a
 * little longer, and a system keeps this many ready to be accepted at once.
 */
export const NEWCOMERS = 512;

/**
 * State of a connection, as far as its place depends on it:
 *
 * - `silent`: it has made no request yet.
 * - `busy`: requests of it are being answered.
 * - `idle`: it had requests, and has none now.
 * - `noticed`: it makes room at the end of its notice, unless it asks by then or there is room
 *   again.
 * - `left`: it has ended, or was ended to make room. Terminal.
 */
type PlaceState = "silent" | "busy" | "idle" | "noticed" | "left";

interface TakenPlace extends ConnectionSlot {
  readonly makeRoom: () => void;
  state: PlaceState;
  /** Requests that are being answered, in any state. */
  requests: number;
  /** True once it has made a request. */
  asked: boolean;
  /** True once it has made a request since its notice. */
  askedSinceNotice: boolean;
  /** End of its last notice. */
  notice: Timer | undefined;
}

/**
 * Places on a server for connections. A newcomer to a full server takes the place of, in this
 * order:
 *
 * 1. the oldest connection that has made no request;
 * 2. the connection that has been idle for longest, whose client can come again;
 * 3. the connection with the oldest requests, from the network that holds most places.
 *
 * So neither connections that say nothing nor a single host with endless requests keep others out.
 * The first two have a notice. One that asks within it is treated as a newcomer: the same rule
 * finds another connection to make room.
 */
export class ConnectionSlots {
  readonly #most: number;
  readonly #clock: Clock;
  /** All `silent` ones, the oldest first. */
  readonly #silent = new Set<TakenPlace>();
  /** All `idle` ones, the longest idle first. */
  readonly #idle = new Set<TakenPlace>();
  /** All `busy` ones, by network, those with the oldest requests first. */
  readonly #busy = new FairSet<TakenPlace>();

  /** @param most number of places, at least 1 */
  constructor(most: number, clock: Clock) {
    this.#most = most;
    this.#clock = clock;
  }

  /**
   * Takes a place for a connection from `host`, an IP address; undefined when none can be freed.
   *
   * @param makeRoom ends the connection, whose place goes to another one
   */
  take(host: string, makeRoom: () => void): ConnectionSlot | undefined {
    const network = networkOf(host);
    if (this.#full && !this.#makeRoomFor(network)) return undefined;
    const place: TakenPlace = {
      network,
      makeRoom,
      state: "left",
      requests: 0,
      asked: false,
      askedSinceNotice: false,
      notice: undefined,
      begin: () => {
        place.requests++;
        place.asked = true;
        place.askedSinceNotice = true;
        if (place.state === "silent" || place.state === "idle") this.#enter(place);
      },
      end: () => {
        place.requests--;
        if (place.state === "busy" && place.requests === 0) this.#enter(place);
      },
      leave: () => this.#move(place, "left"),
    };
    this.#enter(place);
    return place;
  }

  /** True while all places are taken. A connection under notice holds none. */
  get #full(): boolean {
    return this.#silent.size + this.#idle.size + this.#busy.size >= this.#most;
  }

  /** Frees a place for a connection of `network`; false when there is none to be freed. */
  #makeRoomFor(network: string): boolean {
    for (const places of [this.#silent, this.#idle]) {
      for (const first of places) {
        this.#giveNotice(first);
        return true;
      }
    }
    const candidate = this.#busy.evictionCandidate(network);
    if (candidate === undefined) return false;
    this.#evict(candidate);
    return true;
  }

  #giveNotice(place: TakenPlace): void {
    this.#move(place, "noticed");
    place.askedSinceNotice = false;
    const over = (): void => {
      const stays = !this.#full || (place.askedSinceNotice && this.#makeRoomFor(place.network));
      if (stays) this.#enter(place);
      else this.#evict(place);
    };
    place.notice = this.#clock.setTimer(over, NOTICE, { background: true });
  }

  #evict(place: TakenPlace): void {
    this.#move(place, "left");
    place.makeRoom();
  }

  /** Moves a place to the state that its requests give it. */
  #enter(place: TakenPlace): void {
    this.#move(place, place.requests > 0 ? "busy" : place.asked ? "idle" : "silent");
  }

  #move(place: TakenPlace, state: PlaceState): void {
    place.notice?.cancel();
    this.#silent.delete(place);
    this.#idle.delete(place);
    this.#busy.delete(place.network, place);
    place.state = state;
    if (state === "silent") this.#silent.add(place);
    else if (state === "idle") this.#idle.add(place);
    else if (state === "busy") this.#busy.add(place.network, place);
  }
}
