/** Sequences of operations on the pool and on a connection, in any order, against what must hold after each. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { ClientPool, type Lease, type PoolClient } from "../../src/client/pool.ts";
import { VortexError } from "../../src/errors.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { ByteStream } from "../../src/transport/transport.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

/** An operation, and which of the things at hand it is done to. */
type Operation<Name extends string> = readonly [name: Name, which: number];

const operations = <Name extends string>(...names: readonly Name[]): fc.Arbitrary<Operation<Name>[]> =>
  fc.array(fc.tuple(fc.constantFrom(...names), fc.nat({ max: 1000 })), { maxLength: 60 });

/** A pooled connection that counts how often it was closed. */
class CountingClient implements PoolClient {
  readonly closed: Promise<void>;
  closes = 0;
  dead = false;
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
  }
}

interface PendingDial {
  succeed(): void;
  fail(): void;
}

/**
 * Whatever is done to a pool: a client in use is never closed, each entry counts its requests, what fails is a `VortexError`, and
 * once all is given back nothing is left: no request, no timer, no client open.
 */
export const pool: fc.IAsyncProperty<[number, Operation<string>[]]> = fc.asyncProperty(
  fc.integer({ min: 1, max: 3 }),
  operations("acquire", "acquire", "abort", "release", "discard", "connect", "refuse", "die", "wait", "closeIdle"),
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
    const acquire = (addr: string): void => {
      const controller = new AbortController();
      waiting.add(controller);
      void tested
        .acquire(addr, controller.signal)
        .then((lease) => held.push(lease), assertVortexError)
        .finally(() => waiting.delete(controller));
    };
    const act: Record<string, (which: number) => unknown> = {
      acquire: (which) => acquire(`peer-${which % 5}:1`),
      abort: (which) => pick([...waiting], which)?.abort(),
      release: (which) => held.splice(which % Math.max(1, held.length), 1)[0]?.release(),
      discard: (which) => pick(held, which)?.discard(),
      connect: (which) => pick(dials, which)?.succeed(),
      refuse: (which) => pick(dials, which)?.fail(),
      die: (which) => pick(made, which)?.die(),
      wait: (which) => clock.advance(which),
      closeIdle: (which) => tested.closeIdle(`peer-${which % 5}:1`),
    };
    for (const [name, which] of steps) {
      await act[name]?.(which);
      await settle();
      for (const { client } of held) assert.equal(client.closes, 0, `${name}: a client in use was closed`);
      const counted = tested.entries().reduce((sum, { activeRequests }) => sum + activeRequests, 0);
      assert.ok(counted <= held.length + waiting.size, `${name}: ${counted} requests counted`);
      for (const { activeRequests } of tested.entries()) assert.ok(activeRequests >= 0);
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
    for (const { closes } of made) assert.ok(closes > 0, "a client was left open");
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
    const side = (stream: ByteStream): Side => ({ stream, reading: false, writing: false, wrote: 0, got: 0 });
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
        assert.ok(opened.got <= accepted.wrote && accepted.got <= opened.wrote, "bytes that nobody sent");
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
    const fresh = await Promise.all(Array.from({ length: CREDIT }, () => client.openStream()));
    const last = fresh.map(({ reader }) => note(reader.read()));
    if (graceful) await client.close({ grace: 0 });
    else client.abort();
    await Promise.all(last);
    await listener.close({ grace: 0 });
    await accepting;
    assert.equal(pending, 0, "operations that outlive their connection");
  },
);

function pick<T>(from: readonly T[], which: number): T | undefined {
  return from[which % Math.max(1, from.length)];
}

function assertVortexError(error: unknown): void {
  if (!(error instanceof VortexError)) throw error;
}
