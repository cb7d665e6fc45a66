import { abortedError, untilAborted, VortexError } from "../../errors.ts";
import type { Clock, Timer } from "../../runtime.ts";
import type { PoolOptions } from "../downloader.ts";

/** Client of one peer, as kept in a pool. */
export interface PoolClient {
  /** Resolves when the connection has ended; never rejects. */
  readonly closed: Promise<unknown>;
  /**
   * Resolves when the handshake is complete. Absent for clients that are connected from the start.
   */
  readonly ready?: Promise<void>;
  /**
   * Probes the connection. Resolves to false if the peer did not respond within `timeout` ms; never
   * rejects. Absent where the transport itself detects dead connections.
   */
  isAlive?(timeout: number): Promise<boolean>;
  /** Closes the connection immediately; pending requests fail with `error`. */
  abort?(error: VortexError): void;
  close(): Promise<void>;
}

/** Use of a pooled client by one request. */
export interface Lease<C> {
  readonly client: C;
  /**
   * True if the connection may have been dead before the request: it was reused, or {@link probe}
   * has found it dead and replaced it.
   */
  readonly stale: boolean;
  /** Returns the client to the pool. Idempotent. */
  release(): void;
  /** Removes a dead client from the pool; it is closed when its last request ends. */
  discard(): void;
  /** Checks the connection of a silent peer in the background, and replaces it if it is dead. */
  probe(): void;
}

/** Snapshot of one entry of a pool. */
export interface PoolEntryInfo {
  readonly addr: string;
  readonly activeRequests: number;
  /** Start or end of the latest request, in ms of the pool's clock. */
  readonly lastActive: number;
}

/** Connection of the pool, from the start of its dial. */
interface Entry<C> {
  readonly addr: string;
  /** Key in the pool: the address, and the index of the connection unless it is the first. */
  readonly key: string;
  /** Aborts the dial. */
  readonly dialling: AbortController;
  /** Settles with the dial. */
  readonly ready: Promise<C>;
  /** Undefined until the dial succeeds. */
  client: C | undefined;
  /** Number of requests that wait for the dial or use the client. */
  active: number;
  /** Start or end of the latest request, in ms of the pool's clock. */
  lastActive: number;
  /** End of the last probe, in ms of the pool's clock; undefined during one. */
  probedAt: number | undefined;
  /** True once a probe has found the connection dead. */
  replaced: boolean;
  /** True once the dial was aborted or the client closed. */
  retired: boolean;
}

/** Minimum timeout of a probe, in ms. */
const PROBE_TIMEOUT_MS = 1000;
/** Minimum time between two probes of one connection, in ms. */
const PROBE_INTERVAL_MS = 1000;
/**
 * Timeout of the second probe as a multiple of the dial time. A dial takes at least one round trip,
 * and a probe takes one.
 */
const PROBE_TIMEOUT_PER_DIAL = 3;

/**
 * Connects to a peer. The signal aborts when the last waiting request ends, with that request's
 * error as its reason, or when the pool is closed.
 */
export type Dial<C> = (addr: string, signal: AbortSignal) => Promise<C>;

/**
 * Pool of clients by address. Any number of requests share a client; with several clients per
 * address, a request gets the one with the fewest active requests.
 *
 * Concurrent requests to one address share one dial. Clients with active requests are never
 * evicted, ended connections are replaced at the next request, and failed dials are forgotten.
 */
export class ClientPool<C extends PoolClient> {
  readonly #dial: Dial<C>;
  readonly #options: Required<PoolOptions>;
  readonly #clock: Clock;
  readonly #entries = new Map<string, Entry<C>>();
  /** Pending closes of removed clients. */
  readonly #closing = new Set<Promise<void>>();
  #cleanup: Timer | undefined;
  #closed = false;

  constructor(dial: Dial<C>, options: Required<PoolOptions>, clock: Clock) {
    this.#dial = dial;
    this.#options = options;
    this.#clock = clock;
  }

  /** Lists all entries, for tests and diagnostics. */
  entries(): PoolEntryInfo[] {
    return [...this.#entries.values()].map(({ addr, active, lastActive }) => ({
      addr,
      activeRequests: active,
      lastActive,
    }));
  }

  /**
   * Leases a client for `addr`; dials if there is none. Rejects with the error of the dial, with
   * `Closed`, or with `Aborted` when `signal` aborts.
   */
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
      discard: () => this.#remove(entry),
      probe: () => void this.#probe(entry, client),
    };
  }

  /**
   * Distinguishes a dead connection from a slow peer and from a dead path. A restarted peer has
   * lost the connection's state, and may be unable to reset it. If the first probe fails, a second
   * connection is dialled: its handshake proves that path and peer work. If the first connection
   * then fails another probe, it is dead, and the second one replaces it.
   */
  async #probe(entry: Entry<C>, client: C): Promise<void> {
    const { probedAt } = entry;
    if (
      client.isAlive === undefined ||
      probedAt === undefined ||
      this.#clock.now() - probedAt < PROBE_INTERVAL_MS
    )
      return;
    entry.probedAt = undefined;
    try {
      await client.ready;
      if (await client.isAlive(PROBE_TIMEOUT_MS)) return;
      const started = this.#clock.now();
      const second = await this.#dial(entry.addr, entry.dialling.signal);
      try {
        await second.ready;
        const dialMs = this.#clock.now() - started;
        const alive = await client.isAlive(
          Math.max(PROBE_TIMEOUT_MS, PROBE_TIMEOUT_PER_DIAL * dialMs),
        );
        if (alive || entry.dialling.signal.aborted) this.#trackClosing(second.close());
        else this.#replace(entry, client, second);
      } catch {
        this.#trackClosing(second.close());
      }
    } catch {
      // A failed dial proves nothing about the first connection: the path may be dead, or the peer
      // may have no capacity for another one.
    } finally {
      entry.probedAt = this.#clock.now();
    }
  }

  /** Replaces a dead client with `second`, and fails its requests with `ConnectionLost`. */
  #replace(entry: Entry<C>, client: C, second: C): void {
    entry.replaced = true;
    if (this.#entries.get(entry.key) === entry) this.#adopt(entry, second);
    else this.#trackClosing(second.close());
    const { addr } = entry;
    client.abort?.(
      new VortexError(
        "ConnectionLost",
        "dead connection: the peer answers on a new connection and no longer on this one",
        { addr },
      ),
    );
  }

  /** Adds a connected client under the key of a dead one. */
  #adopt({ addr, key }: Entry<C>, client: C): void {
    const entry: Entry<C> = {
      addr,
      key,
      dialling: new AbortController(),
      ready: Promise.resolve(client),
      client,
      active: 0,
      lastActive: this.#clock.now(),
      probedAt: this.#clock.now(),
      replaced: false,
      retired: false,
    };
    this.#entries.set(key, entry);
    void client.closed.then(() => this.#remove(entry));
  }

  /** Closes the idle clients of `addr`. */
  closeIdle(addr: string): void {
    for (const entry of [...this.#entries.values()]) {
      if (entry.addr === addr && entry.active === 0) this.#remove(entry);
    }
  }

  /** Closes every client, including those in use; pending dials fail with `Closed`. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const entry of [...this.#entries.values()]) {
      this.#entries.delete(entry.key);
      this.#retire(entry, new VortexError("Closed", "the downloader is closed"));
    }
    this.#scheduleCleanup();
    while (this.#closing.size > 0) await Promise.all(this.#closing);
  }

  /**
   * Returns the entry of `addr` with the fewest requests. Opens a new one if all are in use and
   * `connectionsPerAddress` allows it.
   */
  #entryFor(addr: string): Entry<C> {
    let leastBusy: Entry<C> | undefined;
    let freeKey: string | undefined;
    for (let index = 0; index < this.#options.connectionsPerAddress; index++) {
      const key = index === 0 ? addr : `${addr} ${index}`;
      const entry = this.#entries.get(key);
      if (entry === undefined) freeKey ??= key;
      else if (leastBusy === undefined || entry.active < leastBusy.active) leastBusy = entry;
    }
    if (leastBusy === undefined) return this.#open(addr, addr);
    if (freeKey === undefined || leastBusy.active === 0) return leastBusy;
    return this.#open(addr, freeKey);
  }

  /** Starts a dial and adds its entry to the pool. */
  #open(addr: string, key: string): Entry<C> {
    const dialling = new AbortController();
    const entry: Entry<C> = {
      addr,
      key,
      dialling,
      ready: this.#dial(addr, dialling.signal).then((client) => {
        if (dialling.signal.aborted) {
          // The pool was closed, or all waiting requests aborted, just before the dial succeeded.
          this.#trackClosing(client.close());
          throw dialling.signal.reason;
        }
        entry.client = client;
        void client.closed.then(() => this.#remove(entry));
        return client;
      }),
      client: undefined,
      active: 0,
      lastActive: this.#clock.now(),
      probedAt: Number.NEGATIVE_INFINITY,
      replaced: false,
      retired: false,
    };
    this.#entries.set(key, entry);
    entry.ready.catch(() => this.#remove(entry));
    this.#evictIdle();
    this.#scheduleCleanup();
    return entry;
  }

  /**
   * Ends a request. Aborts the dial if no other request waits for it.
   *
   * @param reason error of a request that ended while it waited for the dial
   */
  #release(entry: Entry<C>, reason?: unknown): void {
    entry.active--;
    entry.lastActive = this.#clock.now();
    if (entry.active > 0) return;
    if (entry.client === undefined) {
      // No request waits for the dial any more.
      this.#remove(entry, reason);
    } else if (this.#entries.get(entry.key) !== entry) {
      this.#retire(entry, closedWhileIdle(entry));
    } else {
      this.#evictIdle();
    }
  }

  /** Removes an entry from the pool; closes its client once no request uses it. */
  #remove(entry: Entry<C>, reason: unknown = closedWhileIdle(entry)): void {
    if (this.#entries.get(entry.key) === entry) this.#entries.delete(entry.key);
    if (entry.active === 0) this.#retire(entry, reason);
    this.#scheduleCleanup();
  }

  /** Aborts the entry's dial with `reason`, and closes its client if it has one. */
  #retire(entry: Entry<C>, reason: unknown): void {
    if (entry.retired) return;
    entry.retired = true;
    entry.dialling.abort(reason);
    if (entry.client !== undefined) this.#trackClosing(entry.client.close());
  }

  /** Makes {@link close} wait for the close of a client. */
  #trackClosing(closing: Promise<void>): void {
    const tracked = closing.catch(() => {}).finally(() => this.#closing.delete(tracked));
    this.#closing.add(tracked);
  }

  /** Evicts the longest-idle entries while the pool is over its capacity. */
  #evictIdle(): void {
    if (this.#entries.size <= this.#options.capacity) return;
    const idle = [...this.#entries.values()]
      .filter((entry) => entry.active === 0 && entry.client !== undefined)
      .sort((a, b) => a.lastActive - b.lastActive);
    for (const entry of idle.slice(0, this.#entries.size - this.#options.capacity))
      this.#remove(entry);
  }

  /** Keeps the timer for idle timeouts running while the pool has entries. */
  #scheduleCleanup(): void {
    if (this.#entries.size === 0) {
      this.#cleanup?.cancel();
      this.#cleanup = undefined;
    } else {
      this.#cleanup ??= this.#clock.setTimer(
        () => {
          this.#cleanup = undefined;
          const oldest = this.#clock.now() - this.#options.idleTimeout;
          for (const entry of [...this.#entries.values()]) {
            if (entry.active === 0 && entry.lastActive <= oldest) this.#remove(entry);
          }
          this.#scheduleCleanup();
        },
        this.#options.cleanupInterval,
        { background: true },
      );
    }
  }
}

function closedWhileIdle({ addr }: { readonly addr: string }): VortexError {
  return new VortexError("Closed", `the connection to ${addr} is not in use: the pool closed it`, {
    addr,
  });
}
