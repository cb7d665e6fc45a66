/** Shared parts of the compliance tests: a pair of connected peers, and operations on streams. */
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

/** A listener and a connection to it. */
export interface Peers {
  readonly transport: Transport;
  readonly listener: Listener;
  /** Address to dial the listener at. */
  readonly address: Address;
  /** Relay between the peers, if requested. */
  readonly relay: UdpRelay | undefined;
  /** Established connection to the listener. */
  readonly connection: Connection;
  /** Returns the next stream that the listener's side accepted, on any connection. */
  acceptStream(): Promise<[stream: ByteStream, connection: Connection]>;
  /**
   * Opens a stream, by default on {@link connection}. Returns both ends and the accepting
   * connection.
   */
  open(by?: Connection): Promise<[near: ByteStream, far: ByteStream, accepted: Connection]>;
}

/** Options of {@link Suite.withPeers}. */
export interface PeersOptions extends ListenOptions {
  /** Address to listen on. Default: the fixture's. */
  readonly local?: Address;
  readonly tuning?: TransportTuning;
  /** Inserts a UDP relay between the peers. Default false. */
  readonly relayed?: boolean;
}

/** Context that the tests of each topic receive. */
export interface Suite {
  /** Name of the transport. */
  readonly name: string;
  readonly fixture: TransportFixture;
  /** Registers a test, or a skip if the fixture lists it as a gap. */
  it(test: string, run: () => Promise<void>): void;
  /** Runs `use` with a pair of connected peers, see {@link runPeers}. */
  withPeers(use: (peers: Peers) => Promise<void>, options?: PeersOptions): Promise<void>;
}

/** Dials a listener of the fixture's transport, runs `use`, and closes both. */
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
    // The peer need not see a stream before its first byte.
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

/** Echoes every accepted stream until stopped. Errors of single streams are ignored. */
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

/**
 * Exchanges bytes with an echo server. Depending on `at`, one in seven streams is aborted, and one
 * in eleven is cancelled.
 */
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

/** Tests whether an echo server at `address` returns a byte. */
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

/** Echoes a stream up to its end. */
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

/** Aborts both directions of a stream. */
export function abortBoth({ reader, writer }: ByteStream): void {
  reader.cancel();
  writer.abort();
}

/** Writes all chunks and ends the stream. */
export async function writeAll(
  { writer }: ByteStream,
  chunks: readonly Uint8Array[],
): Promise<void> {
  for (const chunk of chunks) await writer.write(chunk);
  await writer.end();
}

/** Writes until a write is rejected, and returns the error. */
export async function writeToFailure(writer: ByteWriter): Promise<VortexError> {
  const chunk = new Uint8Array(16 * 1024);
  return rejectionOf(
    (async () => {
      for (let written = 0; written < 1024 * 1024 * 1024; written += chunk.length)
        await writer.write(chunk);
    })(),
  );
}

/** Reads `length` bytes, or fewer if the stream ends first. */
export async function readExactly(reader: ByteReader, length: number): Promise<Uint8Array> {
  let got: Uint8Array = new Uint8Array(0);
  while (got.length < length) {
    const chunk = await reader.read();
    if (chunk === undefined) return got;
    got = joined([got, chunk]);
  }
  return got;
}

/** Reads until a read is rejected; resolves at a clean end. */
export async function readToFailure(reader: ByteReader): Promise<void> {
  while ((await reader.read()) !== undefined);
}

/** Reads one chunk from each reader. */
export async function readOneEach(...readers: ByteReader[]): Promise<void> {
  for (const reader of readers) assert.ok((await reader.read()) !== undefined);
}

/** Asserts that `chunk` equals the repeated `block` at `offset`. */
export function assertRepeats(chunk: Uint8Array, block: Uint8Array, offset: number): void {
  for (let at = 0; at < chunk.length; ) {
    const from = (offset + at) % block.length;
    const length = Math.min(block.length - from, chunk.length - at);
    const [got, expected] = [chunk.subarray(at, at + length), block.subarray(from, from + length)];
    // deepEqual is slow on long arrays, so it only reports differences.
    if (Buffer.compare(got, expected) !== 0)
      assert.deepEqual(got, expected, `bytes from ${offset + at}`);
    at += length;
  }
}

/** Waits until a value has not changed for 150 ms. */
export async function waitUntilStable(value: () => number): Promise<void> {
  for (let still = 0, last = value(); still < 15; still++) {
    await silence(10);
    if (value() !== last) {
      last = value();
      still = 0;
    }
  }
}

/** Waits for `milliseconds`, during which nothing should happen. */
export function silence(milliseconds = 200): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
  });
}

/** Waits for 1 ms, so that pending I/O of this machine can proceed. */
export function tick(): Promise<void> {
  return silence(1);
}

/** Runs `use` for each item concurrently, and waits for all. */
export async function each<T>(
  items: AsyncIterable<T>,
  use: (item: T) => Promise<unknown>,
): Promise<void> {
  const running: Promise<unknown>[] = [];
  for await (const item of items) running.push(use(item));
  await Promise.all(running);
}

/** Counts the items, and runs `use` for each like {@link each}. */
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

/** Returns the first item. */
export async function next<T>(items: AsyncIterable<T>): Promise<T> {
  for await (const item of items) return item;
  assert.fail("the loop ended without an item");
}

/** Encodes a text as UTF-8. */
export function text(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}
