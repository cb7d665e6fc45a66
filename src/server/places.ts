import type { Clock, Timer } from "../runtime.ts";
import { Crowd } from "./crowd.ts";
import { networkOf } from "./network.ts";

/** A connection's place on a server. */
export interface Place {
  /** Where it comes from, see {@link networkOf}. */
  readonly network: string;
  /** A request of it is being answered from here on. */
  begin(): void;
  /** One fewer is. */
  end(): void;
  /** The connection has ended. Idempotent. */
  leave(): void;
}

/** Milliseconds that who has to make room still has to say what it wants: of many that come at once, all are taken in before any is read. */
export const NOTICE = 50;

/**
 * Connections beyond its places that a server's listener lets in: those that have to make room are there a little longer, and this many a
 * system keeps ready to be accepted at once.
 */
export const NEWCOMERS = 512;

/**
 * What a connection is doing, as far as its place depends on it:
 *
 * - `silent`: it has made no request yet;
 * - `busy`: requests of it are being answered;
 * - `idle`: it had requests, and has none now;
 * - `noticed`: it is to make room at the end of its notice, unless it asks for something by then or there is room again;
 * - `left`: it has ended, or was ended to make room. Nothing follows.
 */
type PlaceState = "silent" | "busy" | "idle" | "noticed" | "left";

interface TakenPlace extends Place {
  readonly makeRoom: () => void;
  state: PlaceState;
  /** Requests that are being answered, in whatever state. */
  requests: number;
  /** Whether it has ever made a request. */
  asked: boolean;
  /** Whether it has made a request since its notice. */
  askedSinceNotice: boolean;
  /** The end of its notice, while it is `noticed`. */
  notice: Timer | undefined;
}

/**
 * Places on a server for connections. One that comes when all are taken is given a place all the same, if it can be: of the first that
 * has not said yet what it wants; where all have, of the one that has been without a request for longest, whose client can come again;
 * and when all have requests, of the one whose requests began first among those from the network which holds most places. So neither
 * whoever connects and says nothing, nor a single host whose requests it never lets end, keeps others out.
 *
 * The first two have a notice: one that asks for something within it is treated as a newcomer, so that the same rule finds another.
 */
export class Places {
  readonly #most: number;
  readonly #clock: Clock;
  /** Those that are `silent`, the oldest first. */
  readonly #silent = new Set<TakenPlace>();
  /** Those that are `idle`, the longest idle first. */
  readonly #idle = new Set<TakenPlace>();
  /** Those that are `busy`, by network; the one whose present requests began first is the first. */
  readonly #busy = new Crowd<TakenPlace>();

  /** @param most how many there are, at least 1 */
  constructor(most: number, clock: Clock) {
    this.#most = most;
    this.#clock = clock;
  }

  /**
   * A place for a connection from `host`, an IP address; undefined when none can be had.
   *
   * @param makeRoom ends the connection, since another one is given its place
   */
  take(host: string, makeRoom: () => void): Place | undefined {
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

  /** Whether all places are taken. One under notice has none any more. */
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
    const crowding = this.#busy.crowding(network);
    if (crowding === undefined) return false;
    this.#evict(crowding);
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

  /** Puts a place among those that do what it does. */
  #enter(place: TakenPlace): void {
    this.#move(place, place.requests > 0 ? "busy" : place.asked ? "idle" : "silent");
  }

  #move(place: TakenPlace, state: PlaceState): void {
    place.notice?.cancel();
    place.notice = undefined;
    if (place.state === "silent") this.#silent.delete(place);
    else if (place.state === "idle") this.#idle.delete(place);
    else if (place.state === "busy") this.#busy.delete(place.network, place);
    place.state = state;
    if (state === "silent") this.#silent.add(place);
    else if (state === "idle") this.#idle.add(place);
    else if (state === "busy") this.#busy.add(place.network, place);
  }
}
