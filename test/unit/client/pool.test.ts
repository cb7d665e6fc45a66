import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ClientPool, type Lease, type PoolClient } from "../../../src/client/call/pool.ts";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { createDownloader } from "../../../src/client/core-factory.ts";
import type { PieceRequest, PoolOptions } from "../../../src/client/downloader.ts";
import { downloaderFactory } from "../../../src/client/factory.ts";
import {
  QuicDownloader,
  TcpDownloader,
  VortexDownloader,
} from "../../../src/client/vortex/downloader.ts";
import { VortexError } from "../../../src/errors.ts";
import type { Resolved } from "../../../src/resolved.ts";
import type { Runtime } from "../../../src/runtime.ts";
import { VortexServer } from "../../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import { formatAddress, parseAddress } from "../../../src/transport/address.ts";
import { MemoryTransport } from "../../../src/transport/memory.ts";
import type { Connection, DialOptions, Transport } from "../../../src/transport/transport.ts";
import { assertRejects, rejectionOf } from "../../support/failures.ts";
import { FakeClock, fakeRuntime, settle } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";

const never = new AbortController().signal;

/** Client whose connection the test ends. */
class FakeClient implements PoolClient {
  readonly closed: Promise<unknown>;
  closes = 0;
  /** Ends the connection from the network side. */
  die: () => void = () => {};

  constructor() {
    this.closed = new Promise<void>((resolve) => {
      this.die = resolve;
    });
  }

  async close(): Promise<void> {
    this.closes++;
    this.die();
  }
}

/** Dial that the test settles. */
interface FakeDial {
  readonly addr: string;
  readonly signal: AbortSignal;
  readonly client: FakeClient;
  succeed(): Promise<void>;
  fail(error: VortexError): Promise<void>;
}

function poolOf(options: Partial<Resolved<PoolOptions>> = {}): {
  pool: ClientPool<FakeClient>;
  clock: FakeClock;
  dials: FakeDial[];
  /** Acquires and lets the dial succeed. */
  use(addr: string): Promise<Lease<FakeClient>>;
} {
  const clock = new FakeClock();
  const dials: FakeDial[] = [];
  const pool = new ClientPool<FakeClient>(
    (remote, signal) =>
      new Promise((resolve, reject) => {
        const client = new FakeClient();
        // Like in transports, the dial rejects with the signal's reason.
        signal.addEventListener("abort", () => reject(signal.reason));
        dials.push({
          addr: formatAddress(remote),
          signal,
          client,
          succeed: () => {
            resolve(client);
            return settle();
          },
          fail: (error) => {
            reject(error);
            return settle();
          },
        });
      }),
    { connectionsPerAddress: 1, capacity: 3, idleTimeout: 1000, cleanupInterval: 100, ...options },
    clock,
  );
  const use = async (addr: string): Promise<Lease<FakeClient>> => {
    const lease = pool.acquire(parseAddress(addr), never);
    await dials.at(-1)?.succeed();
    return lease;
  };
  return { pool, clock, dials, use };
}

function addrs(pool: ClientPool<FakeClient>): string[] {
  return pool.entries().map(({ addr }) => addr);
}

/** Client whose probes the test answers. */
class SuspectClient extends FakeClient {
  /** Timeout of each probe in ms, with the function that answers it. */
  readonly asked: {
    readonly patience: number;
    readonly answer: (alive: boolean) => Promise<void>;
  }[] = [];
  readonly aborted: VortexError[] = [];
  readonly ready: Promise<void>;
  /** Completes the handshake, or fails it. */
  stand: (error?: VortexError) => Promise<void> = settle;

  constructor() {
    super();
    this.ready = new Promise((resolve, reject) => {
      this.stand = (error) => {
        if (error === undefined) resolve();
        else reject(error);
        return settle();
      };
    });
  }

  isAlive(patience: number): Promise<boolean> {
    return new Promise((resolve) => {
      this.asked.push({
        patience,
        answer: (alive) => {
          resolve(alive);
          return settle();
        },
      });
    });
  }

  abort(error: VortexError): void {
    this.aborted.push(error);
    this.die();
  }
}

/** Pool with one client whose connection is probed, and the dials that result. */
async function suspected() {
  const clock = new FakeClock();
  const clients: SuspectClient[] = [];
  const pool = new ClientPool<SuspectClient>(
    async () => {
      const client = new SuspectClient();
      clients.push(client);
      return client;
    },
    { connectionsPerAddress: 1, capacity: 3, idleTimeout: 1000, cleanupInterval: 100 },
    clock,
  );
  const lease = await pool.acquire(parseAddress("a:1"), never);
  const [first] = clients;
  assert.ok(first);
  const suspect = (): Promise<void> => {
    lease.probe();
    return settle();
  };
  return { pool, clock, clients, lease, first, suspect };
}

describe("probing a silent client", () => {
  it("starts after its handshake, and pauses for a second after its answer", async () => {
    const { pool, clock, clients, first, suspect } = await suspected();
    await suspect();
    assert.equal(first.asked.length, 0);
    await first.stand();
    assert.deepEqual(
      first.asked.map(({ patience }) => patience),
      [1000],
    );
    await suspect();
    assert.equal(first.asked.length, 1);
    await clock.advance(500);
    await first.asked[0]?.answer(true);
    await clock.advance(999);
    await suspect();
    assert.equal(first.asked.length, 1);
    await clock.advance(1);
    await suspect();
    assert.equal(first.asked.length, 2);
    assert.equal(clients.length, 1);
    await pool.close();
  });

  it("repeats after the second dial, with three times the dial time as timeout", async () => {
    for (const [took, patience] of [
      [100, 1000],
      [700, 2100],
    ] as const) {
      const { pool, clock, clients, lease, first, suspect } = await suspected();
      await suspect();
      await first.stand();
      await first.asked[0]?.answer(false);
      assert.equal(clients.length, 2);
      await clock.advance(took);
      assert.equal(first.asked.length, 1);
      await clients[1]?.stand();
      assert.equal(first.asked[1]?.patience, patience);
      await first.asked[1]?.answer(true);
      assert.deepEqual(
        [clients[0]?.closes, clients[1]?.closes, lease.stale, first.aborted],
        [0, 1, false, []],
      );
      await pool.close();
    }
  });

  it("replaces a dead client with the second one, which is then closed like any other", async () => {
    const { pool, clock, clients, lease, first, suspect } = await suspected();
    await suspect();
    await first.stand();
    await first.asked[0]?.answer(false);
    assert.equal(lease.stale, false);
    await clients[1]?.stand();
    await first.asked[1]?.answer(false);
    assert.equal(lease.stale, true);
    assert.deepEqual(
      first.aborted.map(({ code, addr }) => [code, addr]),
      [["ConnectionLost", "a:1"]],
    );
    const next = await pool.acquire(parseAddress("a:1"), never);
    assert.equal(next.client, clients[1]);
    assert.equal(clients.length, 2);
    // It is in the pool already, and replaces no other client.
    assert.equal(next.stale, true);
    next.probe();
    await settle();
    assert.equal(clients[1]?.asked.length, 0);
    await clock.advance(1000);
    next.probe();
    await settle();
    assert.equal(clients[1]?.asked.length, 1);
    clients[1]?.die();
    await settle();
    assert.deepEqual(pool.entries(), []);
    next.release();
    lease.release();
    await pool.close();
    assert.deepEqual([first.closes, clients[1]?.closes], [1, 1]);
  });

  it("keeps the client if the second handshake fails, and closes the second one", async () => {
    const { pool, clock, clients, lease, first, suspect } = await suspected();
    await suspect();
    await first.stand();
    await first.asked[0]?.answer(false);
    await clients[1]?.stand(new VortexError("HandshakeFailed", "no"));
    assert.deepEqual(
      [clients[1]?.closes, first.asked.length, first.aborted, lease.stale],
      [1, 1, [], false],
    );
    await clock.advance(1000);
    await suspect();
    assert.equal(first.asked.length, 2);
    await pool.close();
  });

  it("closes the second connection if the client has left the pool", async () => {
    const { pool, clients, lease, first, suspect } = await suspected();
    await suspect();
    await first.stand();
    await first.asked[0]?.answer(false);
    await clients[1]?.stand();
    lease.discard();
    const other = await pool.acquire(parseAddress("a:1"), never);
    await first.asked[1]?.answer(false);
    assert.deepEqual([clients[1]?.closes, first.aborted.length, lease.stale], [1, 1, true]);
    assert.equal((await pool.acquire(parseAddress("a:1"), never)).client, other.client);
    assert.equal(other.client, clients[2]);
    await pool.close();
  });
});

describe("the pool's dials", () => {
  it("concurrent requests to one address share one dial and one client", async () => {
    const { pool, dials } = poolOf();
    const leases = [1, 2, 3].map(() => pool.acquire(parseAddress("a:1"), never));
    assert.equal(dials.length, 1);
    await dials[0]?.succeed();
    const clients = (await Promise.all(leases)).map(({ client }) => client);
    assert.deepEqual(new Set(clients), new Set([dials[0]?.client]));
    assert.deepEqual(
      pool.entries().map(({ activeRequests }) => activeRequests),
      [3],
    );
    await pool.close();
  });

  it("a later request reuses the client, and its lease is stale", async () => {
    const { pool, dials, use } = poolOf();
    const first = await use("a:1");
    const second = await pool.acquire(parseAddress("a:1"), never);
    assert.deepEqual([first.stale, second.stale], [false, true]);
    assert.equal(first.client, second.client);
    assert.equal(dials.length, 1);
    await pool.close();
  });

  it("two addresses have separate dials", async () => {
    const { pool, dials } = poolOf();
    const leases = [
      pool.acquire(parseAddress("a:1"), never),
      pool.acquire(parseAddress("b:1"), never),
    ];
    assert.deepEqual(
      dials.map(({ addr }) => addr),
      ["a:1", "b:1"],
    );
    for (const dial of dials) await dial.succeed();
    await Promise.all(leases);
    await pool.close();
  });

  it("aborting one waiter rejects only that waiter, at once", async () => {
    const { pool, dials } = poolOf();
    const abort = new AbortController();
    const given = pool.acquire(parseAddress("a:1"), abort.signal);
    const kept = pool.acquire(parseAddress("a:1"), never);
    abort.abort(new Error("enough"));
    await assertRejects(given, "Aborted");
    assert.equal(dials[0]?.signal.aborted, false);
    assert.equal(pool.entries()[0]?.activeRequests, 1);
    await dials[0]?.succeed();
    assert.equal((await kept).client, dials[0]?.client);
    await pool.close();
  });

  it("aborting all waiters aborts the dial, and leaves nothing behind", async () => {
    const { pool, dials, clock } = poolOf();
    const aborts = [new AbortController(), new AbortController()];
    const waiting = aborts.map(({ signal }) => pool.acquire(parseAddress("a:1"), signal));
    for (const abort of aborts) abort.abort();
    for (const lease of waiting) await assertRejects(lease, "Aborted");
    assert.equal(dials[0]?.signal.aborted, true);
    assert.deepEqual(pool.entries(), []);
    assert.equal(clock.pending, 0);
    const again = pool.acquire(parseAddress("a:1"), never);
    assert.equal(dials.length, 2);
    await dials[1]?.succeed();
    assert.equal((await again).client, dials[1]?.client);
    await pool.close();
  });

  it("the reason of the last aborted waiter becomes the reason of the aborted dial", async () => {
    const { pool, dials } = poolOf();
    const late = new VortexError("PieceTimeout", "late");
    for (const reason of [late, new Error("enough")]) {
      const [first, last] = [new AbortController(), new AbortController()];
      const waiting = [
        pool.acquire(parseAddress("a:1"), first.signal),
        pool.acquire(parseAddress("a:1"), last.signal),
      ].map(rejectionOf);
      first.abort(new Error("another reason"));
      last.abort(reason);
      const [, rejected] = await Promise.all(waiting);
      assert.equal(dials.at(-1)?.signal.reason, rejected);
      assert.equal(reason === late ? rejected : rejected?.cause, reason);
    }
    await pool.close();
  });

  it("closing the pool aborts a dial with Closed", async () => {
    const { pool, dials } = poolOf();
    const waiting = rejectionOf(pool.acquire(parseAddress("a:1"), never));
    await pool.close();
    assert.equal(dials[0]?.signal.reason, await waiting);
    assert.deepEqual(
      [(await waiting).code, (await waiting).message],
      ["Closed", "the downloader is closed"],
    );
  });

  it("evicting an idle connection is not reported as closing the downloader", async () => {
    const { pool, dials, use } = poolOf({ capacity: 1 });
    (await use("a:1")).release();
    (await use("b:1")).release();
    assert.match(String(dials[0]?.signal.reason), /a:1 is not in use/);
    await pool.close();
  });

  it("a dial that succeeds after all waiters aborted closes its client", async () => {
    const clock = new FakeClock();
    const client = new FakeClient();
    let succeed: () => void = () => {};
    const dial = new Promise<FakeClient>((resolve) => {
      succeed = () => resolve(client);
    });
    const pool = new ClientPool<FakeClient>(
      () => dial,
      { connectionsPerAddress: 1, capacity: 3, idleTimeout: 9, cleanupInterval: 9 },
      clock,
    );
    const abort = new AbortController();
    const waiting = pool.acquire(parseAddress("a:1"), abort.signal);
    abort.abort();
    await assertRejects(waiting, "Aborted");
    succeed();
    await settle();
    assert.equal(client.closes > 0, true);
    assert.deepEqual(pool.entries(), []);
    assert.equal(clock.pending, 0);
  });

  it("an aborted signal rejects with Aborted, without a dial", async () => {
    const { pool, dials } = poolOf();
    await assertRejects(pool.acquire(parseAddress("a:1"), AbortSignal.abort()), "Aborted");
    const own = new VortexError("PieceTimeout", "late");
    assert.equal(await rejectionOf(pool.acquire(parseAddress("a:1"), AbortSignal.abort(own))), own);
    assert.equal(dials.length, 0);
  });

  it("a failed dial rejects all waiters, and the next request dials again", async () => {
    const { pool, dials, clock } = poolOf();
    const waiting = [
      pool.acquire(parseAddress("a:1"), never),
      pool.acquire(parseAddress("a:1"), never),
    ];
    for (const lease of waiting) lease.catch(() => {});
    await dials[0]?.fail(new VortexError("ConnectionRefused", "no"));
    for (const lease of waiting) await assertRejects(lease, "ConnectionRefused");
    assert.deepEqual(pool.entries(), []);
    assert.equal(clock.pending, 0);
    const next = pool.acquire(parseAddress("a:1"), never);
    assert.equal(dials.length, 2);
    await dials[1]?.succeed();
    await next;
    await pool.close();
  });
});

describe("limits of the pool", () => {
  it("the longest-idle client is evicted over the capacity", async () => {
    const { pool, dials, clock, use } = poolOf();
    const leases: Lease<FakeClient>[] = [];
    for (const addr of ["a:1", "b:1", "c:1"]) leases.push(await use(addr));
    // Released in a different order than acquired.
    for (const at of [1, 0, 2]) {
      await clock.advance(10);
      leases[at]?.release();
    }
    await use("d:1");
    assert.deepEqual(addrs(pool), ["a:1", "c:1", "d:1"]);
    assert.deepEqual(
      dials.map(({ client }) => client.closes > 0),
      [false, true, false, false],
    );
    await pool.close();
  });

  it("a client in use is never evicted; the excess is evicted when idle", async () => {
    const { pool, clock, use } = poolOf({ capacity: 2 });
    const leases: Lease<FakeClient>[] = [];
    for (const addr of ["a:1", "b:1", "c:1", "d:1"]) leases.push(await use(addr));
    await clock.advance(10_000);
    assert.deepEqual(addrs(pool), ["a:1", "b:1", "c:1", "d:1"]);
    assert.equal(
      leases.every(({ client }) => client.closes === 0),
      true,
    );
    leases[2]?.release();
    assert.deepEqual(addrs(pool), ["a:1", "b:1", "d:1"]);
    leases[0]?.release();
    assert.deepEqual(addrs(pool), ["b:1", "d:1"]);
    leases[1]?.release();
    assert.deepEqual(addrs(pool), ["b:1", "d:1"]);
    await pool.close();
  });

  it("no client is evicted below the capacity", async () => {
    const { pool, use } = poolOf({ capacity: 4 });
    for (const addr of ["a:1", "b:1", "c:1", "d:1"]) (await use(addr)).release();
    assert.deepEqual(addrs(pool), ["a:1", "b:1", "c:1", "d:1"]);
    await pool.close();
  });

  it("closeIdle closes only the idle clients of one address", async () => {
    const { pool, use, dials } = poolOf({ connectionsPerAddress: 2 });
    const [first, second] = [await use("a:1"), await use("a:1")];
    (await use("b:1")).release();
    second.release();
    pool.closeIdle(parseAddress("a:1"));
    assert.deepEqual(addrs(pool), ["a:1", "b:1"]);
    assert.deepEqual(
      dials.map(({ client }) => client.closes),
      [0, 1, 0],
    );
    first.release();
    await pool.close();
  });

  it("the cleanup goes on after the pool was empty, and keeps no process alive", async () => {
    const { pool, clock, use } = poolOf();
    const first = await use("a:1");
    assert.deepEqual([clock.pending, clock.foregroundPending], [1, 0]);
    first.discard();
    assert.equal(clock.pending, 0);
    first.release();
    (await use("a:1")).release();
    await clock.advance(1100);
    assert.deepEqual([addrs(pool), clock.pending], [[], 0]);
    await pool.close();
  });

  it("an entry shows the start or end of its latest request", async () => {
    const { pool, clock, use } = poolOf();
    const lease = await use("a:1");
    await clock.advance(50);
    const second = await pool.acquire(parseAddress("a:1"), never);
    assert.equal(pool.entries()[0]?.lastActive, clock.now());
    await clock.advance(50);
    second.release();
    assert.equal(pool.entries()[0]?.lastActive, clock.now());
    lease.release();
    await pool.close();
  });

  it("a pending dial is never evicted", async () => {
    const { pool, dials } = poolOf({ capacity: 1 });
    const waiting = ["a:1", "b:1", "c:1"].map((addr) => pool.acquire(parseAddress(addr), never));
    assert.deepEqual(addrs(pool), ["a:1", "b:1", "c:1"]);
    for (const dial of dials) await dial.succeed();
    for (const lease of await Promise.all(waiting)) assert.equal(lease.client.closes, 0);
    await pool.close();
  });

  it("an idle client is closed at the first cleanup after the idle timeout", async () => {
    const { pool, clock, use } = poolOf({ idleTimeout: 1000, cleanupInterval: 300 });
    const lease = await use("a:1");
    await clock.advance(250);
    lease.release();
    // Idle from 250 on, overdue at 1250; the cleanups run at 300, 600, and so on.
    await clock.advance(1499 - 250);
    assert.deepEqual(addrs(pool), ["a:1"]);
    await clock.advance(1);
    assert.deepEqual(addrs(pool), []);
    assert.equal(lease.client.closes > 0, true);
    assert.equal(clock.pending, 0);
  });

  it("a request restarts the idle time", async () => {
    const { pool, clock, use } = poolOf({ idleTimeout: 1000, cleanupInterval: 100 });
    (await use("a:1")).release();
    await clock.advance(900);
    (await pool.acquire(parseAddress("a:1"), never)).release();
    await clock.advance(900);
    assert.deepEqual(addrs(pool), ["a:1"]);
    await clock.advance(100);
    assert.deepEqual(addrs(pool), []);
  });

  it("a client in use outlives the idle timeout", async () => {
    const { pool, clock, use } = poolOf();
    const lease = await use("a:1");
    await clock.advance(100_000);
    assert.equal(lease.client.closes, 0);
    assert.deepEqual(addrs(pool), ["a:1"]);
    await pool.close();
  });
});

describe("leases of the pool", () => {
  it("release is idempotent", async () => {
    const { pool, use } = poolOf();
    const first = await use("a:1");
    const second = await pool.acquire(parseAddress("a:1"), never);
    first.release();
    first.release();
    first.release();
    assert.equal(pool.entries()[0]?.activeRequests, 1);
    second.release();
    assert.equal(pool.entries()[0]?.activeRequests, 0);
    await pool.close();
  });

  it("a client whose connection ended is replaced, even while it is in use", async () => {
    const { pool, dials, use } = poolOf();
    const lease = await use("a:1");
    lease.client.die();
    await settle();
    assert.deepEqual(pool.entries(), []);
    const next = await use("a:1");
    assert.equal(dials.length, 2);
    assert.notEqual(next.client, lease.client);
    lease.release();
    assert.deepEqual(
      pool.entries().map(({ addr, activeRequests }) => [addr, activeRequests]),
      [["a:1", 1]],
    );
    await pool.close();
  });

  it("discard removes the client at once, and closes it after its last request", async () => {
    const { pool, use } = poolOf();
    const first = await use("a:1");
    const second = await pool.acquire(parseAddress("a:1"), never);
    first.discard();
    assert.deepEqual(pool.entries(), []);
    const replacement = await use("a:1");
    first.release();
    assert.equal(first.client.closes, 0);
    second.release();
    assert.equal(first.client.closes > 0, true);
    // A second discard of a removed client does not affect its replacement.
    second.discard();
    assert.deepEqual(addrs(pool), ["a:1"]);
    assert.equal(replacement.client.closes, 0);
    await pool.close();
  });
});

describe("several connections to one address", () => {
  it("an idle one is reused even if an earlier one is gone", async () => {
    const { pool, dials } = poolOf({ connectionsPerAddress: 2 });
    const lost = rejectionOf(pool.acquire(parseAddress("a:1"), never));
    const lease = pool.acquire(parseAddress("a:1"), never);
    await dials[1]?.succeed();
    await dials[0]?.fail(new VortexError("ConnectionRefused", "nobody listens"));
    await lost;
    (await lease).release();
    const again = await pool.acquire(parseAddress("a:1"), never);
    assert.equal(again.client, dials[1]?.client);
    assert.equal(dials.length, 2);
    await pool.close();
  });

  it("are dialled while all others are in use, up to the limit; requests take the least busy", async () => {
    const { pool, use, dials } = poolOf({ connectionsPerAddress: 2 });
    const [first, second] = [await use("a:1"), await use("a:1")];
    assert.equal(dials.length, 2);
    assert.notEqual(first.client, second.client);
    const third = await pool.acquire(parseAddress("a:1"), never);
    assert.equal(third.client, first.client);
    first.release();
    third.release();
    assert.equal(
      (await pool.acquire(parseAddress("a:1"), never)).client,
      first.client,
      "the second is in use",
    );
    assert.equal(dials.length, 2);
    await pool.close();
  });

  it("the least busy one is taken at any index", async () => {
    const { pool, use, dials } = poolOf({ connectionsPerAddress: 3 });
    const leases = [await use("a:1"), await use("a:1"), await use("a:1")];
    const more = [await use("a:1"), await use("a:1"), await use("a:1")];
    assert.equal(dials.length, 3);
    more[1]?.release();
    assert.equal((await use("a:1")).client, leases[1]?.client);
    more[2]?.release();
    leases[2]?.release();
    assert.equal((await use("a:1")).client, leases[2]?.client);
    await pool.close();
  });

  it("none is dialled while one is idle, and a lost one is dialled again", async () => {
    const { pool, use, dials } = poolOf({ connectionsPerAddress: 2 });
    const first = await use("a:1");
    first.release();
    const again = await pool.acquire(parseAddress("a:1"), never);
    assert.equal(again.client, first.client);
    assert.equal(dials.length, 1);
    const second = await use("a:1");
    again.client.die();
    await settle();
    const third = await use("a:1");
    assert.notEqual(third.client, second.client);
    assert.equal(dials.length, 3);
    await pool.close();
  });
});

describe("closing the pool", () => {
  it("closes idle and active clients, and waits until they are closed", async () => {
    const { pool, use, clock } = poolOf();
    const idle = await use("a:1");
    idle.release();
    const active = await use("b:1");
    await pool.close();
    assert.deepEqual([idle.client.closes > 0, active.client.closes > 0], [true, true]);
    assert.deepEqual(pool.entries(), []);
    assert.equal(clock.pending, 0);
    active.release();
    await pool.close();
    await settle();
    assert.equal(clock.pending, 0);
  });

  it("waits for every client, including removed ones, and closes each once", async () => {
    const { pool, clock, use, dials } = poolOf();
    const [left, active] = [await use("a:1"), await use("b:1")];
    const closing = dials.map(({ client }) => {
      let end: () => void = () => {};
      const ended = new Promise<void>((resolve) => {
        end = resolve;
      });
      client.close = async () => {
        client.closes++;
        client.die();
        await ended;
      };
      return end;
    });
    left.discard();
    left.release();
    let closed = false;
    const close = pool.close().then(() => {
      closed = true;
    });
    active.release();
    assert.deepEqual([pool.entries(), clock.pending], [[], 0]);
    for (const end of closing) {
      await settle();
      assert.equal(closed, false);
      end();
    }
    await close;
    assert.deepEqual(
      dials.map(({ client }) => client.closes),
      [1, 1],
    );
  });

  it("fails pending dials with Closed", async () => {
    const { pool, dials, clock } = poolOf();
    const waiting = pool.acquire(parseAddress("a:1"), never);
    waiting.catch(() => {});
    await pool.close();
    await assertRejects(waiting, "Closed");
    assert.equal(dials[0]?.signal.aborted, true);
    assert.equal(clock.pending, 0);
  });

  it("also fails waiters of a dial that ignores its signal", async () => {
    const client = new FakeClient();
    let succeed: () => void = () => {};
    const dial = new Promise<FakeClient>((resolve) => {
      succeed = () => resolve(client);
    });
    const options = { connectionsPerAddress: 1, capacity: 3, idleTimeout: 9, cleanupInterval: 9 };
    const pool = new ClientPool<FakeClient>(() => dial, options, new FakeClock());
    const waiting = pool.acquire(parseAddress("a:1"), never);
    waiting.catch(() => {});
    await pool.close();
    succeed();
    await assertRejects(waiting, "Closed");
    assert.equal(client.closes > 0, true);
  });

  it("succeeds even if the close of a client fails", async () => {
    const client = new FakeClient();
    client.close = async () => {
      throw new Error("no");
    };
    const options = { connectionsPerAddress: 1, capacity: 3, idleTimeout: 9, cleanupInterval: 9 };
    const pool = new ClientPool<FakeClient>(async () => client, options, new FakeClock());
    await pool.acquire(parseAddress("a:1"), never);
    await pool.close();
  });

  it("rejects later requests with Closed", async () => {
    const { pool, dials } = poolOf();
    await pool.close();
    await assertRejects(pool.acquire(parseAddress("a:1"), never), "Closed");
    assert.equal(dials.length, 0);
  });
});

describe("connections of a downloader", () => {
  const taskId = "ef".repeat(32);
  const content = seededBytes(3, 500_000);

  async function withDownloader(
    use: (download: VortexDownloader, addr: string, clock: FakeClock) => Promise<void>,
  ) {
    const clock = new FakeClock();
    const runtime = fakeRuntime(clock);
    const transport = new MemoryTransport();
    const store = new MemoryPieceStore();
    store.putTask(taskId, content, { pieceLength: 200_000 });
    const server = await VortexServer.listen(transport, { host: "peer", port: 1 }, store, runtime);
    const downloader = new VortexDownloader(async () => transport, downloaderSettings({}, runtime));
    await use(downloader, formatAddress(server.address), clock);
    await downloader.close();
    await server.close({ grace: 0 });
    assert.equal(clock.pending, 0, "timers left");
  }

  const ways: [
    until: string,
    end: (downloader: VortexDownloader, addr: string) => Promise<void>,
  ][] = [
    [
      "until its content has been read by bytes()",
      async (downloader, addr) => {
        const piece = await downloader.downloadPiece({ addr, hostId: "h", taskId, number: 0 });
        assert.equal(active(downloader), 1);
        assert.deepEqual(await piece.bytes(), content.subarray(0, 200_000));
      },
    ],
    [
      "until its content has been read as a stream",
      async (downloader, addr) => {
        const piece = await downloader.downloadPiece({ addr, hostId: "h", taskId, number: 2 });
        let got = 0;
        const reader = piece.content.getReader();
        for (let next = await reader.read(); !next.done; next = await reader.read()) {
          // The last chunk comes after all checks, when the lease has been released.
          got += next.value.length;
          assert.equal(active(downloader), got < 100_000 ? 1 : 0);
        }
        assert.equal(got, 100_000);
      },
    ],
    [
      "until it is cancelled",
      async (downloader, addr) => {
        const piece = await downloader.downloadPiece({ addr, hostId: "h", taskId, number: 1 });
        assert.equal(active(downloader), 1);
        piece.cancel();
      },
    ],
    [
      "until its content stream is cancelled",
      async (downloader, addr) => {
        const piece = await downloader.downloadPiece({ addr, hostId: "h", taskId, number: 1 });
        assert.equal(active(downloader), 1);
        await piece.content.cancel();
      },
    ],
    [
      "until it fails",
      async (downloader, addr) => {
        const failing = downloader.downloadPiece({ addr, hostId: "h", taskId, number: 99 });
        failing.catch(() => {});
        assert.equal(active(downloader), 1);
        await assertRejects(failing, "NotFound");
      },
    ],
  ];
  for (const [until, end] of ways) {
    it(`a request counts as active ${until}`, async () => {
      await withDownloader(async (downloader, addr) => {
        await end(downloader, addr);
        assert.equal(active(downloader), 0);
        assert.equal(downloader.connections().length, 1);
      });
    });
  }

  it("the end of a call is reported once, with its bytes or its error", async () => {
    await withDownloader(async (downloader, addr) => {
      const ends: (string | number)[] = [];
      const options = {
        onTransferred: (bytes: number, error: VortexError | undefined) =>
          ends.push(bytes, error?.code ?? "ok"),
      };
      const request = { addr, hostId: "h", taskId, number: 0 };
      const piece = await downloader.downloadPiece({ ...request, ...options });
      assert.deepEqual(ends, []);
      await piece.bytes();
      const part = { ...request, range: { start: 10, end: 110 } };
      await (await downloader.downloadPiece({ ...part, ...options })).bytes();
      await assertRejects(
        downloader.downloadPiece({ ...request, number: 9, ...options }),
        "NotFound",
      );
      (await downloader.downloadPiece({ ...request, ...options })).cancel();
      const invalid = downloader.downloadPiece({ ...request, number: -1, ...options });
      await assertRejects(invalid, "InvalidArgument");
      assert.deepEqual(ends, [200_000, "ok", 100, "ok", 0, "NotFound", 0, "Aborted"]);
    });
  });

  it("an idle connection is closed after seven minutes by default", async () => {
    await withDownloader(async (downloader, addr, clock) => {
      const piece = await downloader.downloadPiece({ addr, hostId: "h", taskId, number: 0 });
      await piece.bytes();
      await clock.advance(419_000);
      assert.equal(downloader.connections().length, 1);
      await clock.advance(61_000);
      assert.equal(downloader.connections().length, 0);
    });
  });

  it("a slow connect is a ConnectTimeout with the peer's address", async () => {
    const clock = new FakeClock();
    const silent: Transport = {
      protocol: "quic",
      dial: (_remote, options) =>
        new Promise((_resolve, reject) => {
          options?.signal?.addEventListener("abort", () => reject(options.signal?.reason));
        }),
      listen: () => Promise.reject(new Error("not here")),
    };
    const downloader = new VortexDownloader(
      async () => silent,
      downloaderSettings({}, fakeRuntime(clock)),
    );
    const dialling = downloader.downloadPiece({ addr: "peer:1", hostId: "h", taskId, number: 0 });
    dialling.catch(() => {});
    assert.equal(await clock.advanceUntil(dialling, 60_000, 100), 2000);
    assert.equal((await assertRejects(dialling, "ConnectTimeout")).addr, "peer:1");
    assert.equal(clock.pending, 0);
    await downloader[Symbol.asyncDispose]();
  });

  it("a dead pooled connection is replaced, and the request is retried", async () => {
    const runtime = fakeRuntime();
    const { memory, server, request } = await served(runtime);
    let dials = 0;
    let dead = false;
    const transport = through(memory, (connection) => {
      const first = dials++ === 0;
      return {
        openStream: async (open) => {
          if (first && dead) throw new VortexError("ConnectionLost", "no answer");
          return connection.openStream(open);
        },
      };
    });
    const downloader = new VortexDownloader(async () => transport, downloaderSettings({}, runtime));
    await (await downloader.downloadPiece(request)).bytes();
    dead = true;
    for (let round = 0; round < 2; round++) {
      assert.deepEqual(
        await (await downloader.downloadPiece(request)).bytes(),
        content.subarray(0, 200_000),
      );
      assert.equal(dials, 2);
    }
    await downloader.close();
    await server.close({ grace: 0 });
  });

  it("a connection that falls silent, before or within an answer, is not reused", async () => {
    const runtime = fakeRuntime();
    const { memory, server, request } = await served(runtime);
    let dials = 0;
    /** Number of reads of a stream before it falls silent. */
    let most = Number.POSITIVE_INFINITY;
    const transport = through(memory, (connection) => {
      dials++;
      return {
        openStream: async (open) => {
          const { reader, ...stream } = await connection.openStream(open);
          let reads = 0;
          let giveUp = (): void => {};
          const silence = new Promise<never>((_resolve, reject) => {
            giveUp = () => reject(new VortexError("Closed", "cancelled"));
          });
          silence.catch(() => {});
          const read = (): Promise<Uint8Array<ArrayBuffer> | undefined> =>
            reads++ < most ? reader.read() : silence;
          return { ...stream, reader: { read, cancel: () => giveUp() } };
        },
      };
    });
    const downloader = new VortexDownloader(async () => transport, downloaderSettings({}, runtime));
    const fetched = async (): Promise<Uint8Array> =>
      (await downloader.downloadPiece(request)).bytes();
    await fetched();
    for (const reads of [0, 1, 2]) {
      most = reads;
      const before = dials;
      const silent = fetched();
      silent.catch(() => {});
      await runtime.clock.advanceUntil(silent, 60_000, 1000);
      await assertRejects(silent, "Stalled");
      most = Number.POSITIVE_INFINITY;
      assert.deepEqual(await fetched(), content.subarray(0, 200_000));
      assert.equal(dials, before + 1, `dials after ${reads} reads`);
    }
    await downloader.close();
    await server.close({ grace: 0 });
  });

  it("a request whose early data was refused is retried on the same connection", async () => {
    const runtime = fakeRuntime();
    const { memory, server, request } = await served(runtime);
    let refusals = 0;
    let dials = 0;
    const transport = through(memory, (connection) => {
      dials++;
      return {
        openStream: async (open) => {
          if (refusals++ === 0)
            throw new VortexError("EarlyDataRefused", "after the handshake, please");
          return connection.openStream(open);
        },
      };
    });
    const downloader = new VortexDownloader(async () => transport, downloaderSettings({}, runtime));
    assert.deepEqual(
      await (await downloader.downloadPiece(request)).bytes(),
      content.subarray(0, 200_000),
    );
    assert.deepEqual([dials, refusals], [1, 2]);
    await downloader.close();
    await server.close({ grace: 0 });
  });

  it("a connection that is lost with its early data is dialled again once", async () => {
    const runtime = fakeRuntime();
    const { memory, server, request } = await served(runtime);
    let dials = 0;
    const lost = new Set([1, 3, 4]);
    const transport = through(memory, (connection) => {
      const dial = ++dials;
      return {
        // The third dial has early data, its replacement has none.
        earlyData: dial % 2 === 1 ? "refused" : "none",
        openStream: async (open) => {
          if (lost.has(dial))
            throw new VortexError("ConnectionLost", "what was remembered does not hold");
          return connection.openStream(open);
        },
      };
    });
    const downloader = new VortexDownloader(async () => transport, downloaderSettings({}, runtime));
    assert.deepEqual(
      await (await downloader.downloadPiece(request)).bytes(),
      content.subarray(0, 200_000),
    );
    assert.equal(dials, 2);
    await downloader.close();
    const other = new VortexDownloader(async () => transport, downloaderSettings({}, runtime));
    await assertRejects(other.downloadPiece(request), "ConnectionLost");
    assert.equal(dials, 4);
    await other.close();
    await server.close({ grace: 0 });
  });

  it("the connect timeout covers the handshake, even with early data", async () => {
    const clock = new FakeClock();
    const runtime = fakeRuntime(clock);
    const { memory, server, request } = await served(runtime);
    for (const [stands, after] of [
      [false, "ConnectTimeout"],
      [true, undefined],
    ] as const) {
      let signalled: unknown;
      const transport = through(memory, (connection, options) => {
        let reject = (_error: unknown): void => {};
        const ready = new Promise<void>((_resolve, refuse) => {
          reject = refuse;
        });
        options?.signal?.addEventListener("abort", () => {
          signalled = options.signal?.reason;
          reject(signalled);
        });
        ready.catch(() => {});
        // Also leaves the request unanswered until the signal aborts.
        return stands
          ? { ready: Promise.resolve() }
          : { ready, openStream: () => ready.then(() => connection.openStream()) };
      });
      const downloader = new VortexDownloader(
        async () => transport,
        downloaderSettings({}, runtime),
      );
      const fetching = downloader.downloadPiece(request).then((piece) => piece.bytes());
      fetching.catch(() => {});
      if (after === undefined) {
        assert.deepEqual(await fetching, content.subarray(0, 200_000));
        await clock.advance(5_000);
        assert.equal(signalled, undefined);
      } else {
        assert.equal(await clock.advanceUntil(fetching, 60_000, 100), 2000);
        await assertRejects(fetching, after);
      }
      await downloader.close();
    }
    await server.close({ grace: 0 });
  });

  it("a transport that cannot be loaded fails the call, not createDownloader", async () => {
    const missing = async (): Promise<Transport> => {
      throw new VortexError("Unavailable", "no QUIC here: use tcp");
    };
    const downloader = new QuicDownloader(missing, downloaderSettings({}, fakeRuntime()));
    const error = await assertRejects(
      downloader.downloadPiece({ addr: "peer:1", hostId: "h", taskId, number: 0 }),
      "Unavailable",
    );
    assert.equal(error.addr, "peer:1");
    await downloader.close();
  });

  it("a transport of another protocol is InvalidArgument", async () => {
    for (const downloader of [
      new QuicDownloader(
        async () => new MemoryTransport("tcp"),
        downloaderSettings({}, fakeRuntime()),
      ),
      new TcpDownloader(
        async () => new MemoryTransport("quic"),
        downloaderSettings({}, fakeRuntime()),
      ),
    ]) {
      const request = { addr: "peer:1", hostId: "h", taskId, number: 0 };
      await assertRejects(downloader.downloadPiece(request), "InvalidArgument");
      await downloader.close();
    }
  });

  it("a downloader closes the transport that it loaded, but not one that it was passed", async () => {
    const closes: string[] = [];
    const transport = (name: string): Transport => {
      const memory = new MemoryTransport("tcp");
      return Object.assign(memory, {
        close: async () => {
          closes.push(name);
        },
      });
    };
    const given = transport("given");
    const settings = downloaderSettings({}, fakeRuntime());
    const request = { addr: "peer:1", hostId: "h", taskId, number: 0 };
    const none = (): never => assert.fail("only TCP is used");
    const loaded = downloaderFactory({
      runtime: fakeRuntime(),
      quic: none,
      grpc: none,
      tcp: async () => transport("loaded"),
    });
    for (const downloader of [
      new TcpDownloader(async () => given, settings),
      createDownloader({ protocol: "tcp", transport: given }),
      // Nothing has been loaded yet.
      loaded({ protocol: "tcp" }),
    ]) {
      await downloader.close();
    }
    assert.deepEqual(closes, []);
    const downloader = loaded({ protocol: "tcp" });
    await assertRejects(downloader.downloadPiece(request), "ConnectionRefused");
    await downloader.close();
    assert.deepEqual(closes, ["loaded"]);
  });

  async function served(
    runtime: Runtime,
  ): Promise<{ memory: MemoryTransport; server: VortexServer; request: PieceRequest }> {
    const memory = new MemoryTransport();
    const store = new MemoryPieceStore();
    store.putTask(taskId, content, { pieceLength: 200_000 });
    const server = await VortexServer.listen(memory, { host: "peer", port: 1 }, store, runtime);
    return {
      memory,
      server,
      request: { addr: formatAddress(server.address), hostId: "h", taskId, number: 0 },
    };
  }

  /** Wraps a transport so that parts of its connections are replaced. */
  function through(
    memory: MemoryTransport,
    change: (connection: Connection, options: DialOptions | undefined) => Partial<Connection>,
  ): Transport {
    return {
      protocol: "quic",
      listen: () => Promise.reject(new Error("not here")),
      async dial(remote, options) {
        const connection = await memory.dial(remote, options);
        return {
          protocol: connection.protocol,
          remote: connection.remote,
          resumed: false,
          earlyData: "none",
          ready: Promise.resolve(),
          closed: connection.closed,
          accept: () => connection.accept(),
          close: () => connection.close({ grace: 0 }),
          abort: () => connection.abort(),
          openStream: (open) => connection.openStream(open),
          ...change(connection, options),
        };
      },
    };
  }

  function active(downloader: VortexDownloader): number {
    return downloader.connections().reduce((sum, { activeRequests }) => sum + activeRequests, 0);
  }
});
