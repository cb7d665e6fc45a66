/** Fuzz models: random sequences of operations on the pool and on a connection, with invariants. */
import assert from "node:assert/strict";
import fc from "fast-check";
import {
  ClientPool,
  type Lease,
  type PoolClient,
  type PoolEntryInfo,
} from "../../src/client/call/pool.ts";
import { VortexError } from "../../src/errors.ts";
import { parseAddress } from "../../src/transport/address.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { ByteStream } from "../../src/transport/transport.ts";
import { assertRejects } from "../support/failures.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { readAll } from "../support/hostile.ts";
import { seededBytes } from "../support/random.ts";

/** Name of an operation, and a number that selects its target among the current objects. */
type Operation<Name extends string> = readonly [name: Name, which: number];

const operations = <Name extends string>(
  ...names: readonly Name[]
): fc.Arbitrary<Operation<Name>[]> =>
  fc.array(fc.tuple(fc.constantFrom(...names), fc.nat({ max: 1000 })), { maxLength: 60 });

/** Pool client that counts calls of `close`. */
class CountingClient implements PoolClient {
  readonly closed: Promise<void>;
  closes = 0;
  dead = false;
  /** Set once `close` has finished. */
  closeFinished = false;
  #end: () => void = () => {};

  constructor() {
    this.closed = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  die(): void {
    this.dead = true;
    this.#end();
  }

  async close(): Promise<void> {
    this.closes++;
    this.die();
    await settle();
    this.closeFinished = true;
  }
}

interface PendingDial {
  succeed(): void;
  fail(): void;
}

/**
 * Property of the pool, for any sequence of operations:
 *
 * - A client in use is never closed or lost, and each entry counts its requests.
 * - A new connection is dialled if and only if all connections of the address are in use.
 * - Idle connections are closed after the idle timeout and above the capacity.
 * - Every failure is a `VortexError`.
 * - After all leases are released, no request, timer or open client remains.
 */
export const pool: fc.IAsyncProperty<[number, Operation<string>[]]> = fc.asyncProperty(
  fc.integer({ min: 1, max: 3 }),
  operations(
    ...([
      "acquire",
      "acquire",
      "acquire",
      "connect",
      "connect",
      "release",
      "release",
      "wait",
      "wait",
    ] as const),
    ...(["abort", "discard", "refuse", "die", "closeIdle"] as const),
  ),
  async (connectionsPerAddress, steps) => {
    const clock = new FakeClock();
    const made: CountingClient[] = [];
    const dials: PendingDial[] = [];
    const options = { connectionsPerAddress, capacity: 3, idleTimeout: 1000, cleanupInterval: 100 };
    const tested = new ClientPool<CountingClient>(
      (_addr, signal) =>
        new Promise((resolve, reject) => {
          let settled = false;
          const once = (finish: () => void) => (): void => {
            if (settled) return;
            settled = true;
            finish();
          };
          signal.addEventListener(
            "abort",
            once(() => reject(signal.reason)),
          );
          dials.push({
            succeed: once(() => {
              const client = new CountingClient();
              made.push(client);
              resolve(client);
            }),
            fail: once(() => reject(new VortexError("ConnectionRefused", "the dial was refused"))),
          });
        }),
      options,
      clock,
    );
    const waiting = new Set<AbortController>();
    const held: Lease<CountingClient>[] = [];
    const entriesOf = (addr: string): readonly PoolEntryInfo[] =>
      tested.entries().filter((entry) => entry.addr === addr);
    const discarded = new Set<CountingClient>();
    const acquire = (addr: string): void => {
      const controller = new AbortController();
      waiting.add(controller);
      const before = entriesOf(addr);
      const dials =
        before.every(({ activeRequests }) => activeRequests > 0) &&
        before.length < connectionsPerAddress;
      void tested
        .acquire(parseAddress(addr), controller.signal)
        .then((lease) => held.push(lease), assertVortexError)
        .finally(() => waiting.delete(controller));
      assert.equal(
        entriesOf(addr).length,
        before.length + (dials ? 1 : 0),
        "number of connections to the address",
      );
    };
    const discard = (lease: Lease<CountingClient> | undefined): void => {
      if (lease === undefined) return;
      lease.discard();
      discarded.add(lease.client);
    };
    const closeIdle = (addr = "peer-0:1"): void => {
      const others = tested
        .entries()
        .filter((entry) => entry.addr !== addr || entry.activeRequests > 0);
      tested.closeIdle(parseAddress(addr));
      assert.deepEqual(tested.entries(), others, "closeIdle");
    };
    const actions: Record<string, (which: number) => unknown> = {
      acquire: (which) => acquire(`peer-${which % 3}:1`),
      abort: (which) => pick([...waiting], which)?.abort(),
      release: (which) => held.splice(which % Math.max(1, held.length), 1)[0]?.release(),
      discard: (which) => discard(pick(held, which)),
      connect: (which) => pick(dials, which)?.succeed(),
      refuse: (which) => pick(dials, which)?.fail(),
      die: (which) => pick(made, which)?.die(),
      wait: (which) => clock.advance(2 * which),
      closeIdle: (which) => closeIdle(pick(tested.entries(), which)?.addr),
    };
    for (const [name, which] of steps) {
      await actions[name]?.(which);
      await settle();
      for (const { client } of held)
        assert.equal(client.closes, 0, `${name}: a client in use was closed`);
      const entries = tested.entries();
      const counted = entries.reduce((sum, { activeRequests }) => sum + activeRequests, 0);
      const alive = held.filter(({ client }) => !client.dead && !discarded.has(client));
      assert.equal(counted, alive.length + waiting.size, `${name}: requests counted`);
      const idle = entries.filter(({ activeRequests }) => activeRequests <= 0);
      assert.ok(
        idle.length === 0 || entries.length <= options.capacity,
        `${name}: ${entries.length} kept, some of them idle`,
      );
      for (const { lastActive } of idle) {
        const oldest = clock.now() - options.idleTimeout - options.cleanupInterval;
        assert.ok(lastActive >= oldest, `${name}: idle for ${clock.now() - lastActive} ms`);
      }
    }
    for (const controller of waiting) controller.abort();
    await settle();
    assert.equal(waiting.size, 0, "requests that never settle");
    for (const lease of held) {
      lease.release();
      // A second release has no effect.
      lease.release();
    }
    for (const { activeRequests } of tested.entries()) assert.equal(activeRequests, 0);
    await tested.close();
    assert.deepEqual(tested.entries(), []);
    assert.equal(clock.pending, 0, "timers left");
    for (const { closes, closeFinished: gone } of made)
      assert.ok(closes > 0 && gone, "a client was left open");
  },
);

/** Stream credit of a connection: the maximum number of concurrent streams. */
const MAX_STREAMS = 3;

/** One end of a stream, with its transfer counts. */
interface Side {
  readonly stream: ByteStream;
  reading: boolean;
  writing: boolean;
  /** Bytes written at this end. The value of each byte is its position modulo 256. */
  bytesWritten: number;
  /** Bytes read at this end. */
  bytesRead: number;
}

/**
 * Property of a connection, for any sequence of operations:
 *
 * - Bytes arrive in order, and only bytes that were sent.
 * - Every failure is a `VortexError`.
 * - All stream credit is returned after the streams end.
 * - No operation stays pending after the connection ends.
 */
export const connection: fc.IAsyncProperty<[Operation<string>[], boolean]> = fc.asyncProperty(
  operations("open", "open", "giveUp", "write", "write", "read", "read", "end", "cancel", "abort"),
  fc.boolean(),
  async (steps, graceful) => {
    const transport = new MemoryTransport();
    const listener = await transport.listen(
      { host: "127.0.0.1", port: 0 },
      { maxStreams: MAX_STREAMS },
    );
    const client = await transport.dial(listener.address);
    const sides: Side[] = [];
    const pairs: [Side | undefined, Side | undefined][] = [];
    let pending = 0;
    const side = (stream: ByteStream): Side => ({
      stream,
      reading: false,
      writing: false,
      bytesWritten: 0,
      bytesRead: 0,
    });
    const track = (promise: Promise<unknown>): Promise<unknown> => {
      pending++;
      return promise.catch(assertVortexError).finally(() => pending--);
    };
    const accepting = (async () => {
      for await (const server of listener.accept()) {
        for await (const stream of server.accept()) {
          const accepted = side(stream);
          sides.push(accepted);
          const pair = pairs.find(([, other]) => other === undefined);
          if (pair !== undefined) pair[1] = accepted;
        }
      }
    })();
    const withSide = (which: number, use: (side: Side) => unknown): void => {
      const chosen = pick(sides, which);
      if (chosen !== undefined) use(chosen);
    };
    const opening: AbortController[] = [];
    const open = (): void => {
      const controller = new AbortController();
      opening.push(controller);
      void track(
        client.openStream({ signal: controller.signal }).then((stream) => {
          const opened = side(stream);
          sides.push(opened);
          pairs.push([opened, undefined]);
        }),
      );
    };
    const write = (to: Side, length: number): void => {
      if (to.writing) return;
      to.writing = true;
      const bytes = Uint8Array.from({ length }, (_none, index) => to.bytesWritten + index);
      to.bytesWritten += length;
      void track(to.stream.writer.write(bytes)).then(() => {
        to.writing = false;
      });
    };
    const read = (from: Side): void => {
      if (from.reading) return;
      from.reading = true;
      const reading = from.stream.reader.read().then((chunk) => {
        assert.notEqual(chunk?.length, 0, "an empty chunk");
        for (const byte of chunk ?? []) assert.equal(byte, from.bytesRead++ & 0xff);
      });
      void track(reading).then(() => {
        from.reading = false;
      });
    };
    const actions: Record<string, (which: number) => unknown> = {
      open,
      giveUp: (which) => pick(opening, which)?.abort(),
      write: (which) => withSide(which, (to) => write(to, 1 + which * 60)),
      read: (which) => withSide(which, read),
      end: (which) => withSide(which, (of) => !of.writing && void track(of.stream.writer.end())),
      cancel: (which) => withSide(which, ({ stream }) => stream.reader.cancel()),
      abort: (which) => withSide(which, ({ stream }) => stream.writer.abort()),
    };
    for (const [name, which] of steps) {
      actions[name]?.(which);
      await settle();
      for (const [opened, accepted] of pairs) {
        if (opened === undefined || accepted === undefined) continue;
        assert.ok(
          opened.bytesRead <= accepted.bytesWritten && accepted.bytesRead <= opened.bytesWritten,
          "more bytes were read than written",
        );
      }
    }
    for (const controller of opening) controller.abort();
    await settle();
    for (const { stream } of sides) {
      stream.reader.cancel();
      stream.writer.abort();
    }
    await settle();
    assert.equal(pending, 0, "operations that never settle");
    const before = sides.length;
    const newStreams = await Promise.all(
      Array.from({ length: MAX_STREAMS }, () => client.openStream()),
    );
    await settle();
    assert.equal(sides.length - before, MAX_STREAMS, "streams that the other side never sees");
    await transfer(newStreams[0], sides[before]?.stream, steps.length);
    await transfer(sides[before]?.stream, newStreams[0], 1 + steps.length * 3000);
    const last = newStreams.slice(1).map(({ reader }) => track(reader.read()));
    const closing = graceful ? client.close({ grace: 0 }) : client.abort();
    await assertRejects(client.openStream(), "Closed");
    await closing;
    await Promise.all(last);
    await listener.close({ grace: 0 });
    await assertRejects(transport.dial(listener.address), "ConnectionRefused");
    await accepting;
    assert.equal(pending, 0, "operations that outlive their connection");
  },
);

/** Sends `length` bytes and the end of the stream from one end to the other, and checks them. */
async function transfer(
  from: ByteStream | undefined,
  to: ByteStream | undefined,
  length: number,
): Promise<void> {
  assert.ok(from !== undefined && to !== undefined);
  const bytes = seededBytes(length, length);
  const sending = (async () => {
    await from.writer.write(bytes);
    // An empty write sends no data.
    await from.writer.write(new Uint8Array(0));
    await from.writer.end();
  })();
  assert.deepEqual(await readAll(to), bytes);
  await sending;
}

function pick<T>(from: readonly T[], which: number): T | undefined {
  return from[which % Math.max(1, from.length)];
}

function assertVortexError(error: unknown): void {
  if (!(error instanceof VortexError)) throw error;
}
