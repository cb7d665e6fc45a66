import { abortedError, untilAborted, VortexError } from "../../errors.ts";
import type { Resolved } from "../../resolved.ts";
import type { Clock, Timer } from "../../runtime.ts";
import { type Address, formatAddress } from "../../transport/address.ts";
import type { PoolOptions } from "../downloader.ts";

/** Client with one connection to one peer, as stored in a {@link ClientPool}. */
export interface PoolClient {
  /** Resolves when the connection has ended. Never rejects. */
  readonly closed: Promise<unknown>;
  /**
   * Resolves when the handshake is complete. Absent for clients whose handshake was complete when
   * they were created.
   */
  readonly ready?: Promise<void>;
  /**
   * Sends a probe over the connection. Resolves to false if the peer does not respond within
   * `timeout` ms, else to true. Never rejects. Absent if the transport itself detects dead
   * connections.
   */
  isAlive?(timeout: number): Promise<boolean>;
  /** Closes the connection immediately. Pending requests on it fail with `error`. */
  abort?(error: VortexError): void;
  /** Closes the connection once its pending requests have ended. Idempotent. */
  close(): Promise<void>;
}

/** Use of a pooled client by one request, until {@link Lease.release}. */
export interface Lease<C> {
  readonly client: C;
  /**
   * True if the connection may have been dead before the request: it was reused, or
   * {@link Lease.probe} has found it dead.
   */
  readonly stale: boolean;
  /** Ends the use of the client by this request. Idempotent. */
  release(): void;
  /** Removes a dead client from the pool. The client is closed when its last request ends. */
  discard(): void;
  /**
   * Checks in the background whether the connection of a silent peer is dead. A dead connection is
   * closed and replaced by a new one.
   */
  probe(): void;
}

/** Snapshot of one connection of a {@link ClientPool}. */
export interface PoolEntryInfo {
  /** Address of the peer, `host:port`. */
  readonly addr: string;
  /** Number of requests that use the connection. */
  readonly activeRequests: number;
  /** Time at which the latest request started or ended, in ms of the pool's clock. */
  readonly lastActive: number;
}

/** Connection of the pool, from the start of its dial to its removal. */
interface Entry<C> {
  readonly remote: Address;
  /** The address of the peer as text, for messages and as a key. */
  readonly addr: string;
  /**
   * Key in the pool: the address of the peer. For a second or further connection to the address, an
   * index is appended.
   */
  readonly key: string;
  /** Controller whose abort aborts the dial. */
  readonly dialling: AbortController;
  /**
   * Promise of the dial: resolves to the connected client, or rejects with the error of the dial.
   */
  readonly ready: Promise<C>;
  /** Connected client; undefined until the dial succeeds. */
  client: C | undefined;
  /** Number of requests that wait for the dial or use the client. */
  active: number;
  /** Time at which the latest request started or ended, in ms of the pool's clock. */
  lastActive: number;
  /**
   * Time at which the last probe of the connection ended, in ms of the pool's clock. Undefined
   * while a probe is running.
   */
  probedAt: number | undefined;
  /** True once probes have found the connection dead. */
  replaced: boolean;
  /** True once the dial was aborted or the client was closed. */
  retired: boolean;
}

/** Minimum timeout of a probe, in ms: time within which the peer must respond. */
const PROBE_TIMEOUT_MS = 1000;
/** Minimum time in ms between two probes of the same connection. */
const PROBE_INTERVAL_MS = 1000;
/**
 * Timeout of a connection's second probe, as a multiple of the time that dialling a new connection
 * took. A dial takes at least one round trip, and a probe takes one.
 */
const PROBE_TIMEOUT_PER_DIAL = 3;

/**
 * Connects to a peer. `signal` aborts when the pool is closed. It also aborts when the last request
 * that waits for the connection ends; its reason is then the error of that request.
 */
export type Dial<C> = (remote: Address, signal: AbortSignal) => Promise<C>;

/**
 * Pool of clients by peer address. Any number of requests share one client. With several clients
 * per address, a request uses the client with the fewest active requests.
 *
 * Concurrent requests to one address share one dial. A client with active requests is never
 * evicted. An ended connection is replaced at the next request. After a failed dial, the next
 * request dials again.
 */
export class ClientPool<C extends PoolClient> {
  readonly #dial: Dial<C>;
  readonly #options: Resolved<PoolOptions>;
  readonly #clock: Clock;
  readonly #entries = new Map<string, Entry<C>>();
  /** Promises of the clients that are being closed. {@link ClientPool.close} waits for them. */
  readonly #closing = new Set<Promise<void>>();
  #cleanup: Timer | undefined;
  #closed = false;

  constructor(dial: Dial<C>, options: Resolved<PoolOptions>, clock: Clock) {
    this.#dial = dial;
    this.#options = options;
    this.#clock = clock;
  }

  /** Lists the connections of the pool, for tests and diagnostics. */
  entries(): PoolEntryInfo[] {
    return [...this.#entries.values()].map(({ addr, active, lastActive }) => ({
      addr,
      activeRequests: active,
      lastActive,
    }));
  }

  /**
   * Leases a client for the peer at `remote`. Dials if the pool has no such client.
   *
   * Rejects with the error of the dial, with `Closed` if the pool is closed, or with `Aborted` when
   * `signal` aborts.
   */
  async acquire(remote: Address, signal: AbortSignal): Promise<Lease<C>> {
    const addr = formatAddress(remote);
    if (this.#closed) throw new VortexError("Closed", "the downloader is closed");
    if (signal.aborted) throw abortedError(signal, `a request to ${addr}`);
    const entry = this.#entryFor(remote, addr);
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
   * Checks whether a connection is dead, and replaces a dead one. A restarted peer has lost the
   * state of its connections, and may be unable to reset them.
   *
   * If a first probe fails, dials a second connection. Its handshake proves that the network path
   * and the peer work. If a further probe of the first connection fails then, the first connection
   * is dead, and the second one replaces it.
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
      const second = await this.#dial(entry.remote, entry.dialling.signal);
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

  /**
   * Replaces the dead `client` with `second`. The requests on `client` fail with `ConnectionLost`.
   */
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

  /** Adds a connected client to the pool, under the key of the entry of a dead client. */
  #adopt({ remote, addr, key }: Entry<C>, client: C): void {
    const entry: Entry<C> = {
      remote,
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

  /** Closes the clients of `remote` that no request uses. */
  closeIdle(remote: Address): void {
    const addr = formatAddress(remote);
    for (const entry of [...this.#entries.values()]) {
      if (entry.addr === addr && entry.active === 0) this.#remove(entry);
    }
  }

  /**
   * Closes every client, including those in use. Requests that wait for a dial fail with `Closed`.
   * Resolves when all clients are closed. Idempotent.
   */
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
   * Returns the connection to `addr` with the fewest requests. Opens a new one if all are in use
   * and fewer than `connectionsPerAddress` exist.
   */
  #entryFor(remote: Address, addr: string): Entry<C> {
    let leastBusy: Entry<C> | undefined;
    let freeKey: string | undefined;
    for (let index = 0; index < this.#options.connectionsPerAddress; index++) {
      const key = index === 0 ? addr : `${addr} ${index}`;
      const entry = this.#entries.get(key);
      if (entry === undefined) freeKey ??= key;
      else if (leastBusy === undefined || entry.active < leastBusy.active) leastBusy = entry;
    }
    if (leastBusy === undefined) return this.#open(remote, addr, addr);
    if (freeKey === undefined || leastBusy.active === 0) return leastBusy;
    return this.#open(remote, addr, freeKey);
  }

  /** Starts a dial, and adds the connection to the pool. */
  #open(remote: Address, addr: string, key: string): Entry<C> {
    const dialling = new AbortController();
    const entry: Entry<C> = {
      remote,
      addr,
      key,
      dialling,
      ready: this.#dial(remote, dialling.signal).then((client) => {
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
   * Ends the use of a connection by one request. Aborts the dial if no other request waits for it.
   *
   * @param reason error of the request, if it ended while it waited for the dial
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

  /** Removes a connection from the pool, and closes it once no request uses it. */
  #remove(entry: Entry<C>, reason: unknown = closedWhileIdle(entry)): void {
    if (this.#entries.get(entry.key) === entry) this.#entries.delete(entry.key);
    if (entry.active === 0) this.#retire(entry, reason);
    this.#scheduleCleanup();
  }

  /** Aborts the dial of a connection with `reason`, and closes the client if there is one. */
  #retire(entry: Entry<C>, reason: unknown): void {
    if (entry.retired) return;
    entry.retired = true;
    entry.dialling.abort(reason);
    if (entry.client !== undefined) this.#trackClosing(entry.client.close());
  }

  /** Makes {@link close} wait until `closing` has settled. */
  #trackClosing(closing: Promise<void>): void {
    const tracked = closing.catch(() => {}).finally(() => this.#closing.delete(tracked));
    this.#closing.add(tracked);
  }

  /** Closes idle connections while the pool is over its capacity, those idle for longest first. */
  #evictIdle(): void {
    if (this.#entries.size <= this.#options.capacity) return;
    const idle = [...this.#entries.values()]
      .filter((entry) => entry.active === 0 && entry.client !== undefined)
      .sort((a, b) => a.lastActive - b.lastActive);
    for (const entry of idle.slice(0, this.#entries.size - this.#options.capacity))
      this.#remove(entry);
  }

  /** Starts the timer of the next sweep for idle connections. Cancels it if the pool is empty. */
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
