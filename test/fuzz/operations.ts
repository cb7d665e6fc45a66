/** Sequences of operations on the pool and on a connection, in any order, against what must hold after each. */
import assert from "node:assert/strict";
import fc from "fast-check";
import {
  ClientPool,
  type Lease,
  type PoolClient,
  type PoolEntryInfo,
} from "../../src/client/call/pool.ts";
import { VortexError } from "../../src/errors.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { ByteStream } from "../../src/transport/transport.ts";
import { assertRejects } from "../support/failures.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { readAll } from "../support/hostile.ts";
import { seededBytes } from "../support/random.ts";

/** An operation, and which of the things at hand it is done to. */
type Operation<Name extends string> = readonly [name: Name, which: number];

const operations = <Name extends string>(
  ...names: readonly Name[]
): fc.Arbitrary<Operation<Name>[]> =>
  fc.array(fc.tuple(fc.constantFrom(...names), fc.nat({ max: 1000 })), { maxLength: 60 });

/** A pooled connection that counts how often it was closed. */
class CountingClient implements PoolClient {
  readonly closed: Promise<void>;
  closes = 0;
  dead = false;
  /** Whether its closing has come to an end. */
  gone = false;
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
    this.gone = true;
  }
}

interface PendingDial {
  succeed(): void;
  fail(): void;
}

/**
 * Whatever is done to a pool: a client in use is never closed nor lost, each entry counts its requests, a connection is made when all
 * others of its address are in use and only then, idle ones go in time and when there are too many, what fails is a `VortexError`,
 * and once all is given back nothing is left: no request, no timer, no client open.
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
            fail: once(() => reject(new VortexError("ConnectionRefused", "nobody listens"))),
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
      const wanted =
        before.every(({ activeRequests }) => activeRequests > 0) &&
        before.length < connectionsPerAddress;
      void tested
        .acquire(addr, controller.signal)
        .then((lease) => held.push(lease), assertVortexError)
        .finally(() => waiting.delete(controller));
      assert.equal(
        entriesOf(addr).length,
        before.length + (wanted ? 1 : 0),
        "connections of an address",
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
      tested.closeIdle(addr);
      assert.deepEqual(tested.entries(), others, "closeIdle");
    };
    const act: Record<string, (which: number) => unknown> = {
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
      await act[name]?.(which);
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
    assert.equal(waiting.size, 0, "requests that wait for ever");
    for (const lease of held) {
      lease.release();
      // A second release is none.
      lease.release();
    }
    for (const { activeRequests } of tested.entries()) assert.equal(activeRequests, 0);
    await tested.close();
    assert.deepEqual(tested.entries(), []);
    assert.equal(clock.pending, 0, "timers left");
    for (const { closes, gone } of made) assert.ok(closes > 0 && gone, "a client was left open");
  },
);

/** Streams that a connection may have at a time. */
const CREDIT = 3;

/** One side of a stream, and what went over it. */
interface Side {
  readonly stream: ByteStream;
  reading: boolean;
  writing: boolean;
  /** Bytes written here, and read here; each byte is its position. */
  wrote: number;
  got: number;
}

/**
 * Whatever is done to a connection: bytes arrive in order, none that was not sent, what fails is a `VortexError`, all credit for
 * streams comes back, and nothing waits beyond the connection's end.
 */
export const connection: fc.IAsyncProperty<[Operation<string>[], boolean]> = fc.asyncProperty(
  operations("open", "open", "giveUp", "write", "write", "read", "read", "end", "cancel", "abort"),
  fc.boolean(),
  async (steps, graceful) => {
    const transport = new MemoryTransport();
    const listener = await transport.listen({ host: "127.0.0.1", port: 0 }, { maxStreams: CREDIT });
    const client = await transport.dial(listener.address);
    const sides: Side[] = [];
    const pairs: [Side | undefined, Side | undefined][] = [];
    let pending = 0;
    const side = (stream: ByteStream): Side => ({
      stream,
      reading: false,
      writing: false,
      wrote: 0,
      got: 0,
    });
    const note = (promise: Promise<unknown>): Promise<unknown> => {
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
      void note(
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
      const bytes = Uint8Array.from({ length }, (_none, index) => to.wrote + index);
      to.wrote += length;
      void note(to.stream.writer.write(bytes)).then(() => {
        to.writing = false;
      });
    };
    const read = (from: Side): void => {
      if (from.reading) return;
      from.reading = true;
      const reading = from.stream.reader.read().then((chunk) => {
        assert.notEqual(chunk?.length, 0, "an empty chunk");
        for (const byte of chunk ?? []) assert.equal(byte, from.got++ & 0xff);
      });
      void note(reading).then(() => {
        from.reading = false;
      });
    };
    const act: Record<string, (which: number) => unknown> = {
      open,
      giveUp: (which) => pick(opening, which)?.abort(),
      write: (which) => withSide(which, (to) => write(to, 1 + which * 60)),
      read: (which) => withSide(which, read),
      end: (which) => withSide(which, (of) => !of.writing && void note(of.stream.writer.end())),
      cancel: (which) => withSide(which, ({ stream }) => stream.reader.cancel()),
      abort: (which) => withSide(which, ({ stream }) => stream.writer.abort()),
    };
    for (const [name, which] of steps) {
      act[name]?.(which);
      await settle();
      for (const [opened, accepted] of pairs) {
        if (opened === undefined || accepted === undefined) continue;
        assert.ok(
          opened.got <= accepted.wrote && accepted.got <= opened.wrote,
          "bytes that nobody sent",
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
    assert.equal(pending, 0, "operations that wait for ever");
    const before = sides.length;
    const fresh = await Promise.all(Array.from({ length: CREDIT }, () => client.openStream()));
    await settle();
    assert.equal(sides.length - before, CREDIT, "streams that the other side never sees");
    await pass(fresh[0], sides[before]?.stream, steps.length);
    await pass(sides[before]?.stream, fresh[0], 1 + steps.length * 3000);
    const last = fresh.slice(1).map(({ reader }) => note(reader.read()));
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

/** Sends so many bytes from one side to the other, and the end after them. */
async function pass(
  from: ByteStream | undefined,
  to: ByteStream | undefined,
  length: number,
): Promise<void> {
  assert.ok(from !== undefined && to !== undefined);
  const bytes = seededBytes(length, length);
  const sending = (async () => {
    await from.writer.write(bytes);
    // Nothing of it is sent.
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
