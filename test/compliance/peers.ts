/** What the tests of transports share: a pair of peers, and what to do with streams. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import type { VortexError } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import type {
  ByteReader,
  ByteStream,
  ByteWriter,
  Connection,
  Listener,
  ListenOptions,
  Transport,
} from "../../src/transport/transport.ts";
import { rejectionOf } from "../support/failures.ts";
import { dialAddressOf, type TransportFixture, type TransportTuning } from "../support/fixture.ts";
import { readAll } from "../support/hostile.ts";
import { joined, seededBytes } from "../support/random.ts";
import { type UdpRelay, udpRelay } from "../support/udp-relay.ts";

/** A listener, and a connection to it. */
export interface Peers {
  readonly transport: Transport;
  readonly listener: Listener;
  /** Where the listener is dialled. */
  readonly address: Address;
  /** What stands between, if that was asked for. */
  readonly relay: UdpRelay | undefined;
  /** A connection to the listener. */
  readonly connection: Connection;
  /** The next stream that the listener's side got, whatever connection it came by. */
  acceptStream(): Promise<[stream: ByteStream, connection: Connection]>;
  /** Opens a stream (of another connection), and gives both of its ends and the accepting side's connection. */
  open(by?: Connection): Promise<[near: ByteStream, far: ByteStream, accepted: Connection]>;
}

/** How the peers of a test are to be. */
export interface PeersOptions extends ListenOptions {
  /** Default: the fixture's address. */
  readonly local?: Address;
  readonly tuning?: TransportTuning;
  /** Whether a relay of datagrams stands between. Default false. */
  readonly relayed?: boolean;
}

/** What the tests of each topic are made with. */
export interface Suite {
  /** The transport's name. */
  readonly name: string;
  readonly fixture: TransportFixture;
  /** Registers a test, or a skip if the fixture names it as a gap. */
  it(test: string, run: () => Promise<void>): void;
  withPeers(use: (peers: Peers) => Promise<void>, options?: PeersOptions): Promise<void>;
}

/** Dials a listener of the fixture's transport, and ends both when `use` is done. */
export async function runPeers(
  fixture: TransportFixture,
  use: (peers: Peers) => Promise<void>,
  options: PeersOptions = {},
): Promise<void> {
  const { tuning, local = fixture.listenAddress, ...limits } = options;
  const transport = await fixture.transport(tuning);
  const listener = await transport.listen(local, limits);
  const listening = dialAddressOf(fixture, listener.address);
  const relay = options.relayed === true ? await udpRelay(listening) : undefined;
  const address = relay?.address ?? listening;
  const arrived: [ByteStream, Connection][] = [];
  const waiting: ((arrival: [ByteStream, Connection]) => void)[] = [];
  const arrive = (arrival: [ByteStream, Connection]): void => {
    const taker = waiting.shift();
    if (taker === undefined) arrived.push(arrival);
    else taker(arrival);
  };
  const accepting = each(listener.accept(), (connection) =>
    each(connection.accept(), async (stream) => arrive([stream, connection])),
  );
  const connection = await transport.dial(address);
  const acceptStream = (): Promise<[ByteStream, Connection]> =>
    new Promise((resolve) => {
      const arrival = arrived.shift();
      if (arrival === undefined) waiting.push(resolve);
      else resolve(arrival);
    });
  const open = async (
    by: Connection = connection,
  ): Promise<[ByteStream, ByteStream, Connection]> => {
    const near = await by.openStream();
    // The other side need not see a stream before its first byte.
    await near.writer.write(Uint8Array.of(0));
    const [far, accepted] = await acceptStream();
    assert.deepEqual(await far.reader.read(), Uint8Array.of(0));
    return [near, far, accepted];
  };
  try {
    await use({ transport, listener, address, relay, connection, acceptStream, open });
  } finally {
    await connection.close({ grace: 0 });
    await listener.close({ grace: 0 });
    await relay?.close();
  }
  await accepting;
}

/** Echoes every stream that comes, but resets those whose first byte says so. */
export function serveEchoes({ acceptStream }: Peers): { stop(): Promise<void> } {
  let stopped = false;
  const running: Promise<void>[] = [];
  const accepting = (async () => {
    for (;;) {
      const [stream] = await acceptStream();
      if (stopped) return;
      running.push(echo(stream).catch(() => {}));
    }
  })();
  accepting.catch(() => {});
  return {
    async stop() {
      stopped = true;
      await Promise.all(running);
    },
  };
}

/** One exchange with an echo; every seventh is aborted, every eleventh cancelled on its way. */
export async function exchangeOne(connection: Connection, at: number): Promise<void> {
  const stream = await connection.openStream();
  const sent = seededBytes(at + 1, 1 + (at % 5000));
  if (at % 7 === 3) {
    await stream.writer.write(sent);
    stream.writer.abort();
    stream.reader.cancel();
  } else if (at % 11 === 5) {
    await stream.writer.write(sent);
    stream.reader.cancel();
    await stream.writer.end();
  } else {
    await stream.writer.write(sent);
    await stream.writer.end();
    assert.deepEqual(await readAll(stream), sent, `stream ${at}`);
  }
}

/** Whether a byte sent to `address`, where everything is echoed, comes back. */
export async function isServed(transport: Transport, address: Address): Promise<boolean> {
  let connection: Connection | undefined;
  try {
    connection = await transport.dial(address, { signal: AbortSignal.timeout(20_000) });
    const stream = await connection.openStream();
    await stream.writer.write(Uint8Array.of(7));
    return (await stream.reader.read())?.[0] === 7;
  } catch {
    return false;
  } finally {
    connection?.abort();
  }
}

/** Sends back what comes, to its end. */
export async function echo({ reader, writer }: ByteStream): Promise<void> {
  try {
    for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read())
      await writer.write(chunk);
    await writer.end();
  } catch (error) {
    reader.cancel();
    writer.abort();
    throw error;
  }
}

/** Gives a stream up in both directions. */
export function giveUp({ reader, writer }: ByteStream): void {
  reader.cancel();
  writer.abort();
}

/** Writes the chunks, and ends. */
export async function writeAll(
  { writer }: ByteStream,
  chunks: readonly Uint8Array[],
): Promise<void> {
  for (const chunk of chunks) await writer.write(chunk);
  await writer.end();
}

/** Writes until that fails, and gives the error. */
export async function writeUntilRefused(writer: ByteWriter): Promise<VortexError> {
  const chunk = new Uint8Array(16 * 1024);
  return rejectionOf(
    (async () => {
      for (let written = 0; written < 1024 * 1024 * 1024; written += chunk.length)
        await writer.write(chunk);
    })(),
  );
}

/** Reads `length` bytes, in however many chunks they come. */
export async function readExactly(reader: ByteReader, length: number): Promise<Uint8Array> {
  let got: Uint8Array = new Uint8Array(0);
  while (got.length < length) {
    const chunk = await reader.read();
    if (chunk === undefined) return got;
    got = joined([got, chunk]);
  }
  return got;
}

/** Reads until that fails; a clean end resolves. */
export async function readToFailure(reader: ByteReader): Promise<void> {
  while ((await reader.read()) !== undefined);
}

/** Takes one chunk of each. */
export async function drained(...readers: ByteReader[]): Promise<void> {
  for (const reader of readers) assert.ok((await reader.read()) !== undefined);
}

/** Fails unless `chunk` is what `block`, again and again, has at `offset`. */
export function assertRepeats(chunk: Uint8Array, block: Uint8Array, offset: number): void {
  for (let at = 0; at < chunk.length; ) {
    const from = (offset + at) % block.length;
    const length = Math.min(block.length - from, chunk.length - at);
    const [got, expected] = [chunk.subarray(at, at + length), block.subarray(from, from + length)];
    // deepEqual is slow on long arrays, so it is only asked to tell the difference.
    if (Buffer.compare(got, expected) !== 0)
      assert.deepEqual(got, expected, `bytes from ${offset + at}`);
    at += length;
  }
}

/** Waits until a value has not changed for a while. */
export async function standsStill(value: () => number): Promise<void> {
  for (let still = 0, last = value(); still < 15; still++) {
    await silence(10);
    if (value() !== last) {
      last = value();
      still = 0;
    }
  }
}

/** Lets time pass, in which nothing is to happen. */
export function silence(milliseconds = 200): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
  });
}

/** A turn of the event loop, in which what is under way on this machine may go on. */
export function tick(): Promise<void> {
  return silence(1);
}

/** Runs `use` for each item, all at once, to the end of all. */
export async function each<T>(
  items: AsyncIterable<T>,
  use: (item: T) => Promise<unknown>,
): Promise<void> {
  const running: Promise<unknown>[] = [];
  for await (const item of items) running.push(use(item));
  await Promise.all(running);
}

/** As {@link each}; tells how many there were. */
export async function count<T>(
  items: AsyncIterable<T>,
  use: (item: T) => Promise<unknown> = async () => {},
): Promise<number> {
  let seen = 0;
  await each(items, (item) => {
    seen++;
    return use(item);
  });
  return seen;
}

/** The first item. */
export async function next<T>(items: AsyncIterable<T>): Promise<T> {
  for await (const item of items) return item;
  assert.fail("the loop ended without an item");
}

/** A text as bytes. */
export function text(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}
