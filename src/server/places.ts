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

interface TakenPlace extends Place {
  readonly makeRoom: () => void;
  requests: number;
  /** Ends it, once it is to make room. */
  notice: Timer | undefined;
}

/**
 * Places on a server for connections. One that comes when all are taken is given a place all the same, if it can be: of the first that
 * has not said yet what it wants; where all have, of the one that has been without a request for longest, whose client can come again;
 * and when all have requests, of the one whose requests began first among those from the network which holds most places. So neither
 * whoever connects and says nothing, nor a single host whose requests it never lets end, keeps others out.
 */
export class Places {
  readonly #most: number;
  readonly #clock: Clock;
  /** Have made no request yet, the oldest first. */
  readonly #silent = new Set<TakenPlace>();
  /** Without a request now; the one that has been so for longest is the first. */
  readonly #idle = new Set<TakenPlace>();
  /** With requests; the one whose present ones began first is the first. */
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
    if (this.#silent.size + this.#idle.size + this.#busy.size >= this.#most) {
      const idler = this.#wantsNothing();
      if (idler !== undefined) {
        this.#giveNotice(idler);
      } else {
        const crowding = this.#busy.crowding(network);
        if (crowding === undefined) return undefined;
        crowding.leave();
        crowding.makeRoom();
      }
    }
    const place: TakenPlace = {
      network,
      makeRoom,
      requests: 0,
      notice: undefined,
      begin: () => {
        if (place.requests++ > 0) return;
        if (this.#silent.delete(place) || this.#idle.delete(place)) this.#busy.add(network, place);
      },
      end: () => {
        if (--place.requests === 0 && this.#busy.delete(network, place)) this.#idle.add(place);
      },
      leave: () => {
        place.notice?.cancel();
        this.#silent.delete(place);
        this.#idle.delete(place);
        this.#busy.delete(network, place);
      },
    };
    this.#silent.add(place);
    return place;
  }

  #wantsNothing(): TakenPlace | undefined {
    for (const places of [this.#silent, this.#idle]) for (const first of places) return first;
    return undefined;
  }

  #giveNotice(place: TakenPlace): void {
    place.leave();
    const over = (): void => {
      place.notice = undefined;
      const other = this.#wantsNothing();
      if (place.requests === 0 || other === undefined) {
        place.makeRoom();
        return;
      }
      // It has said what it wants, so another one makes room that still wants nothing.
      this.#giveNotice(other);
      this.#busy.add(place.network, place);
    };
    place.notice = this.#clock.setTimer(over, NOTICE, { background: true });
  }
}
