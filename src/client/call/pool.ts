import { abortedError, untilAborted, VortexError } from "../../errors.ts";
import type { Clock, Timer } from "../../runtime.ts";
import type { PoolOptions } from "../downloader.ts";

/** What a pool keeps: something that is connected to one peer. */
export interface PoolClient {
  /** Resolves, never rejects, when the connection has ended. */
  readonly closed: Promise<unknown>;
  /** Resolves when the connection stands, for clients that are handed out before it does. */
  readonly ready?: Promise<void>;
  /**
   * Asks the peer for a sign of life; false when none came within `patience` ms. Never rejects.
   * Absent where a dead connection shows by itself.
   */
  isAlive?(patience: number): Promise<boolean>;
  /** Ends the connection at once; whatever waits on it fails with `error`. */
  abort?(error: VortexError): void;
  close(): Promise<void>;
}

/** The use of a client for one request. */
export interface Lease<C> {
  readonly client: C;
  /**
   * True when the connection may have been dead before the request: it is older, or
   * {@link suspect} has found it dead and replaced it.
   */
  readonly stale: boolean;
  /** Ends the use. Idempotent. */
  release(): void;
  /** Takes the client out of the pool, since it turned out to be dead; it is closed when its last request ends. */
  discard(): void;
  /** Examines the connection of a peer that owes an answer and is silent; replaces a dead one. */
  suspect(): void;
}

/** What one look at a pool shows. */
export interface PoolEntryInfo {
  readonly addr: string;
  readonly activeRequests: number;
  /** Milliseconds on the pool's clock. */
  readonly lastActive: number;
}

interface Entry<C> {
  readonly addr: string;
  /** Its place in the pool: the address, and which of its connections this is. */
  readonly key: string;
  readonly dialling: AbortController;
  /** Settles when the dial does. */
  readonly ready: Promise<C>;
  client: C | undefined;
  /** Requests that wait for the dial or use the client. */
  active: number;
  lastActive: number;
  /** End of the last examination, in ms of the pool's clock; undefined during one. */
  vouchedAt: number | undefined;
  replaced: boolean;
  /** True once its dial was ended, or its client closed. */
  retired: boolean;
}

/** Milliseconds for a sign of life of a suspected peer. */
const PATIENCE = 1000;
/** Milliseconds for which a suspected peer that has answered is not asked again. */
const VOUCHED = 1000;
/** A dial took a round trip at least, and a sign of life takes one. */
const DIALS_FOR_A_SIGN = 3;

/**
 * Makes a client. The signal aborts when the last waiting request does, with the error that it was rejected with, or when the pool
 * is closed.
 */
export type Dial<C> = (addr: string, signal: AbortSignal) => Promise<C>;

/**
 * Clients by address, each shared by any number of requests. Where an address may have several, a request takes the one with
 * the fewest.
 *
 * Requests to one address at the same time share one dial. A client with active requests is never evicted; one whose
 * connection ended is replaced; a dial that failed leaves nothing behind.
 */
export class ClientPool<C extends PoolClient> {
  readonly #dial: Dial<C>;
  readonly #options: Required<PoolOptions>;
  readonly #clock: Clock;
  readonly #entries = new Map<string, Entry<C>>();
  /** Clients that are out of the map but still in use, or closing. */
  readonly #leaving = new Set<Promise<void>>();
  #cleanup: Timer | undefined;
  #closed = false;

  constructor(dial: Dial<C>, options: Required<PoolOptions>, clock: Clock) {
    this.#dial = dial;
    this.#options = options;
    this.#clock = clock;
  }

  /** Every entry, for tests and diagnostics. */
  entries(): PoolEntryInfo[] {
    return [...this.#entries.values()].map(({ addr, active, lastActive }) => ({
      addr,
      activeRequests: active,
      lastActive,
    }));
  }

  /** A client for `addr`, dialled if there is none. Rejects as the dial does, `Closed`, or as the signal says. */
  async acquire(addr: string, signal: AbortSignal): Promise<Lease<C>> {
    if (this.#closed) throw new VortexError("Closed", "the downloader is closed");
    if (signal.aborted) throw abortedError(signal, `a request to ${addr}`);
    const entry = this.#entryFor(addr);
    const reused = entry.client !== undefined;
    const isStale = (): boolean => reused || entry.replaced;
    entry.active++;
    entry.lastActive = this.#clock.now();
    let client: C;
    try {
      client = entry.client ?? (await untilAborted(entry.ready, signal, `a request to ${addr}`));
    } catch (error) {
      this.#release(entry, error);
      throw error;
    }
    let released = false;
    return {
      client,
      get stale() {
        return isStale();
      },
      release: () => {
        if (released) return;
        released = true;
        this.#release(entry);
      },
      discard: () => this.#forget(entry),
      suspect: () => void this.#examine(entry, client),
    };
  }

  /**
   * Tells a dead connection from a slow peer and from a dead path. A peer that has restarted
   * knows nothing of the connection, and may have no way to say so. So it is asked for a sign of
   * life, and without one a second connection is dialled. That proves path and peer; if the first
   * connection is still silent then, it is dead, and the second takes its place.
   */
  async #examine(entry: Entry<C>, client: C): Promise<void> {
    const { vouchedAt } = entry;
    if (
      client.isAlive === undefined ||
      vouchedAt === undefined ||
      this.#clock.now() - vouchedAt < VOUCHED
    )
      return;
    entry.vouchedAt = undefined;
    try {
      await client.ready;
      if (await client.isAlive(PATIENCE)) return;
      const started = this.#clock.now();
      const second = await this.#dial(entry.addr, entry.dialling.signal);
      try {
        await second.ready;
        const took = this.#clock.now() - started;
        const alive = await client.isAlive(Math.max(PATIENCE, DIALS_FOR_A_SIGN * took));
        if (alive || entry.dialling.signal.aborted) this.#track(second.close());
        else this.#replace(entry, client, second);
      } catch {
        this.#track(second.close());
      }
    } catch {
      // That proves nothing of the first: the path may be dead, or the peer have no room for another.
    } finally {
      entry.vouchedAt = this.#clock.now();
    }
  }

  #replace(entry: Entry<C>, client: C, second: C): void {
    entry.replaced = true;
    if (this.#entries.get(entry.key) === entry) this.#adopt(entry, second);
    else this.#track(second.close());
    const { addr } = entry;
    client.abort?.(
      new VortexError(
        "ConnectionLost",
        "the peer answers on a new connection and no longer on this one",
        { addr },
      ),
    );
  }

  /** Puts a client in the place of a dead one. */
  #adopt({ addr, key }: Entry<C>, client: C): void {
    const entry: Entry<C> = {
      addr,
      key,
      dialling: new AbortController(),
      ready: Promise.resolve(client),
      client,
      active: 0,
      lastActive: this.#clock.now(),
      vouchedAt: this.#clock.now(),
      replaced: false,
      retired: false,
    };
    this.#entries.set(key, entry);
    void client.closed.then(() => this.#forget(entry));
  }

  /** Closes the clients of `addr` that no request uses. */
  closeIdle(addr: string): void {
    for (const entry of [...this.#entries.values()]) {
      if (entry.addr === addr && entry.active === 0) this.#forget(entry);
    }
  }

  /** Closes every client, active or not, and fails the dials under way. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const entry of [...this.#entries.values()]) {
      this.#entries.delete(entry.key);
      this.#retire(entry, new VortexError("Closed", "the downloader is closed"));
    }
    this.#schedule();
    while (this.#leaving.size > 0) await Promise.all(this.#leaving);
  }

  /** The least busy of the address's entries; a new one while all are in use and there may be more. */
  #entryFor(addr: string): Entry<C> {
    let least: Entry<C> | undefined;
    let free: string | undefined;
    for (let index = 0; index < this.#options.connectionsPerAddress; index++) {
      const key = index === 0 ? addr : `${addr} ${index}`;
      const entry = this.#entries.get(key);
      if (entry === undefined) free ??= key;
      else if (least === undefined || entry.active < least.active) least = entry;
    }
    if (least === undefined) return this.#open(addr, addr);
    return free === undefined || least.active === 0 ? least : this.#open(addr, free);
  }

  #open(addr: string, key: string): Entry<C> {
    const dialling = new AbortController();
    const entry: Entry<C> = {
      addr,
      key,
      dialling,
      ready: this.#dial(addr, dialling.signal).then((client) => {
        if (dialling.signal.aborted) {
          // Closed, or given up by all who waited, while the dial was on its last step.
          this.#track(client.close());
          throw dialling.signal.reason;
        }
        entry.client = client;
        void client.closed.then(() => this.#forget(entry));
        return client;
      }),
      client: undefined,
      active: 0,
      lastActive: this.#clock.now(),
      vouchedAt: Number.NEGATIVE_INFINITY,
      replaced: false,
      retired: false,
    };
    this.#entries.set(key, entry);
    entry.ready.catch(() => this.#forget(entry));
    this.#shrink();
    this.#schedule();
    return entry;
  }

  /** @param reason why the request ended, when it did so while it waited for the dial */
  #release(entry: Entry<C>, reason?: unknown): void {
    entry.active--;
    entry.lastActive = this.#clock.now();
    if (entry.active > 0) return;
    if (entry.client === undefined) {
      // The last waiting request has left this dial.
      this.#forget(entry, reason);
    } else if (this.#entries.get(entry.key) !== entry) {
      this.#retire(entry, unused(entry));
    } else {
      this.#shrink();
    }
  }

  #forget(entry: Entry<C>, reason: unknown = unused(entry)): void {
    if (this.#entries.get(entry.key) === entry) this.#entries.delete(entry.key);
    if (entry.active === 0) this.#retire(entry, reason);
    this.#schedule();
  }

  /** Ends the entry's dial with `reason`, or closes its client. */
  #retire(entry: Entry<C>, reason: unknown): void {
    if (entry.retired) return;
    entry.retired = true;
    entry.dialling.abort(reason);
    if (entry.client !== undefined) this.#track(entry.client.close());
  }

  #track(closing: Promise<void>): void {
    const tracked = closing.catch(() => {}).finally(() => this.#leaving.delete(tracked));
    this.#leaving.add(tracked);
  }

  /** Evicts the longest idle entries while there are more than the capacity. */
  #shrink(): void {
    if (this.#entries.size <= this.#options.capacity) return;
    const idle = [...this.#entries.values()]
      .filter((entry) => entry.active === 0 && entry.client !== undefined)
      .sort((a, b) => a.lastActive - b.lastActive);
    for (const entry of idle.slice(0, this.#entries.size - this.#options.capacity))
      this.#forget(entry);
  }

  /** Keeps one timer running while there are entries. */
  #schedule(): void {
    if (this.#entries.size === 0) {
      this.#cleanup?.cancel();
      this.#cleanup = undefined;
    } else {
      this.#cleanup ??= this.#clock.setTimer(
        () => {
          this.#cleanup = undefined;
          const oldest = this.#clock.now() - this.#options.idleTimeout;
          for (const entry of [...this.#entries.values()]) {
            if (entry.active === 0 && entry.lastActive <= oldest) this.#forget(entry);
          }
          this.#schedule();
        },
        this.#options.cleanupInterval,
        { background: true },
      );
    }
  }
}

function unused({ addr }: { readonly addr: string }): VortexError {
  return new VortexError("Closed", `the connection to ${addr} is not in use: the pool closed it`, {
    addr,
  });
}
