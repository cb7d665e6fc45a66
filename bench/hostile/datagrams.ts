/** Attacks on a QUIC server by datagrams, and by too many connections. */
import { randomFillSync } from "node:crypto";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { loadQuiche } from "../../adapters/quiche/native.ts";
import { applySettings, quicheSettings, udpPayloadFor } from "../../adapters/quiche/options.ts";
import { clientConfig } from "../../adapters/quiche/tls.ts";
import { VortexError } from "../../src/errors.ts";
import { encodePacket } from "../../src/protocol/packet.ts";
import {
  type Connection,
  DEFAULT_MAX_STREAMS,
  type Transport,
} from "../../src/transport/transport.ts";
import { firstDatagram } from "../../test/support/first-datagram.ts";
import { noRawUdp, RawUdp } from "../../test/support/raw-udp.ts";
import {
  isOverIpv6,
  SOURCES as STRANGE,
  strangePayloads,
} from "../../test/support/strange-datagrams.ts";
import { udpRelay } from "../../test/support/udp-relay.ts";
import {
  type Attack,
  garbage,
  inParallel,
  OutcomeCounter,
  type Outcomes,
  pause,
  pick,
  type Target,
  withRetries,
} from "./attack.ts";

/** Number of source addresses on this host, each with a separate port. */
const SOURCE_COUNT = 200;
/** Datagrams between two pauses, in which the server empties the kernel's buffers. */
const BURST = 50;
/** Maximum time of an answer to an unfinished handshake on a busy machine, in ms. */
const ANSWER_WAIT_MS = 300;
/** Length of a connection id, in bytes. */
const ID_BYTES = 16;

/** Name of the attack from sources that only a raw socket can use. */
export const UNANSWERABLE_SOURCES: string =
  "datagrams of boundary lengths, from unanswerable sources";

/**
 * Returns the attacks.
 *
 * @param transport makes a new transport for each attack
 */
export function datagramAttacks(transport: () => Promise<Transport>): readonly Attack[] {
  return [
    {
      name: "half-open handshakes from many addresses",
      over: "quic",
      unit: "connection",
      tries: 18_000,
      run: (target, tries) =>
        fromManyAddresses(async (sockets, counter) => {
          const initials = await initialsFor(target);
          for (let index = 0; index < tries; index++) {
            sockets[index % SOURCE_COUNT]?.send(initials(), target.port, target.host);
            if (index % BURST === 0) await pause(1);
          }
          counter.note("left half-open", tries);
        }),
    },
    {
      name: "garbage datagrams",
      over: "quic",
      unit: "datagram",
      tries: 6_000,
      run: (target, tries, random) =>
        fromManyAddresses(async (sockets, counter) => {
          for (let index = 0; index < tries; index++) {
            const bytes = garbage(1 + Math.floor(random() * 1400), random);
            // Half of them look like a long header, of any version.
            if (index % 2 === 0)
              bytes.set([0xc0 | (bytes[0] ?? 0), 0, 0, 0, index % 4, 16].slice(0, bytes.length));
            sockets[index % SOURCE_COUNT]?.send(bytes, target.port, target.host);
            if (index % BURST === 0) await pause(1);
          }
          counter.note("dropped", tries);
        }),
    },
    {
      name: "mutated, truncated and replayed datagrams of a connection, from its address and others",
      over: "quic",
      unit: "datagram",
      tries: 12_000,
      run: (target, tries, random) =>
        fromManyAddresses(async (sockets, counter) => {
          const relay = await recordingRelay(target);
          const dialling = await transport();
          const connection = await withRetries(() => dialling.dial(relay.address));
          try {
            await exchange(connection, target);
            for (let index = 0; index < tries; index++) {
              const bytes = mutated(pick(relay.recorded, random), random);
              // A datagram from the relay has the address of the connection itself.
              if (index % 2 === 0) relay.inject(bytes);
              else sockets[index % SOURCE_COUNT]?.send(bytes, target.port, target.host);
              if (index % BURST === 0) await pause(1);
              if (index % 1_000 === 0) counter.note(await exchange(connection, target), 0);
            }
            counter.note(await exchange(connection, target), 0);
            counter.note("dropped", tries);
          } finally {
            connection.abort();
            await connection.closed;
            await relay.close();
          }
        }),
    },
    {
      name: "datagrams of unknown QUIC versions",
      over: "quic",
      unit: "datagram",
      tries: 2_400,
      run: (target, tries, random) =>
        fromManyAddresses(async (sockets, counter) => {
          const meter = new AmplificationMeter(sockets);
          for (let index = 0; index < tries; index++) {
            // Each is long enough to be answered by Version Negotiation (RFC 9000, section 6.1).
            const bytes = garbage(1200, random);
            bytes.set([0xc0, 0x1a, 0x2a, index % 256, 0x3a, ID_BYTES]);
            bytes[6 + ID_BYTES] = ID_BYTES;
            // quiche parses a token here in any version, and drops a datagram with an invalid one.
            bytes[7 + 2 * ID_BYTES] = 0;
            meter.send(index, bytes, target);
            if (index % BURST === 0) await pause(1);
          }
          await pause(ANSWER_WAIT_MS);
          counter.note(meter.check("Version Negotiation, or dropped"), tries);
        }),
    },
    {
      name: "Initial packets with forged tokens",
      over: "quic",
      unit: "datagram",
      tries: 1_200,
      run: (target, tries, random) =>
        fromManyAddresses(async (sockets, counter) => {
          const meter = new AmplificationMeter(sockets);
          const initials = await initialsFor(target, () =>
            garbage(1 + Math.floor(random() * 200), random),
          );
          for (let index = 0; index < tries; index++) {
            meter.send(index, initials(), target);
            if (index % BURST === 0) await pause(1);
          }
          await pause(ANSWER_WAIT_MS);
          counter.note(meter.check("left half-open, or dropped"), tries);
        }),
    },
    {
      name: "first flight with early data, replayed from other addresses",
      over: "quic",
      unit: "datagram",
      tries: 2_400,
      run: (target, tries) =>
        fromManyAddresses(async (sockets, counter) => {
          const meter = new AmplificationMeter(sockets);
          const flight = await earlyFlight(await transport(), target);
          for (let index = 0; index < tries; index++) {
            // The whole flight comes from one address, and then from the next.
            const bytes = flight[index % flight.length];
            if (bytes !== undefined) meter.send(Math.floor(index / flight.length), bytes, target);
            if (index % BURST === 0) await pause(1);
          }
          await pause(ANSWER_WAIT_MS);
          counter.note(meter.check("answered in part, or dropped"), tries);
        }),
    },
    {
      name: UNANSWERABLE_SOURCES,
      over: "quic",
      unit: "datagram",
      tries: 2_400,
      run: (target, tries, random) => fromUnanswerableSources(transport, target, tries, random),
    },
    {
      name: "connections that migrate every few datagrams",
      over: "quic",
      unit: "connection",
      tries: 150,
      async run(target, tries) {
        const dialling = await transport();
        // Fewer than the smallest connection limit, so that no connection is evicted for another.
        return inParallel(tries, 4, () => migrating(dialling, target));
      },
    },
    {
      name: "connections closed immediately",
      over: "quic",
      unit: "connection",
      tries: 600,
      async run(target, tries) {
        const dialling = await transport();
        return inParallel(tries, 8, async (index) => {
          const dialled = await dial(dialling, target);
          if (typeof dialled === "string") return dialled;
          if (index % 2 === 0) dialled.abort();
          else void dialled.close({ grace: 0 });
          await dialled.closed;
          return "closed";
        });
      },
    },
    {
      name: "flood of silent connections",
      over: "quic",
      unit: "connection",
      tries: 600,
      async run(target, tries) {
        const dialling = await transport();
        const held: Connection[] = [];
        const outcomes = await inParallel(tries, 16, async () => {
          const dialled = await dial(dialling, target);
          if (typeof dialled === "string") return dialled;
          held.push(dialled);
          // A client is connected before the server reports that it is full.
          await Promise.race([dialled.closed, pause(ANSWER_WAIT_MS)]);
          return "accepted, or rejected later";
        });
        for (const connection of held) connection.abort();
        await Promise.all(held.map(({ closed }) => closed));
        return outcomes;
      },
    },
  ];
}

/** Resolves to the connection, or to the outcome of a rejected dial. */
async function dial(transport: Transport, { host, port }: Target): Promise<Connection | string> {
  const signal = AbortSignal.timeout(20_000);
  try {
    return await transport.dial({ host, port }, { signal });
  } catch (error) {
    if (error instanceof VortexError && error.kind === "transport") return "rejected";
    return `wrong: ${error instanceof Error ? error.message : error}`;
  }
}

/**
 * Returns a function that makes the first datagram of a new connection, each time with new ids.
 * The datagrams come from quiche; their handshakes go no further.
 *
 * @param token if given, makes the token of a Retry, and the datagram is the one that follows it
 */
async function initialsFor(
  { host, port }: Target,
  token?: () => Uint8Array,
): Promise<() => Uint8Array> {
  const quiche = await loadQuiche();
  const settings = quicheSettings();
  const config = clientConfig(quiche, { verify: false });
  applySettings(config, settings, DEFAULT_MAX_STREAMS, udpPayloadFor(settings, false));
  const local = { host: "127.0.0.1", port: 4433 };
  const buffer = new Uint8Array(65_536);
  return () => {
    const id = randomFillSync(new Uint8Array(ID_BYTES));
    const connection = quiche.Connection.connect("localhost", id, local, { host, port }, config);
    const first = (): Uint8Array => {
      const sent = connection.send(buffer);
      if (sent === null) throw new Error("quiche has nothing to send first");
      const [length] = sent;
      return buffer.slice(0, length);
    };
    const initial = first();
    if (token === undefined) return initial;
    const { scid, dcid, version } = quiche.Header.fromSlice(initial, ID_BYTES);
    const retried = randomFillSync(new Uint8Array(ID_BYTES));
    const length = quiche.retry(scid, dcid, retried, token(), version, buffer);
    connection.recv(buffer.slice(0, length), { to: local, from: { host, port } });
    return first();
  };
}

async function fromManyAddresses(
  use: (sockets: readonly Socket[], counter: OutcomeCounter) => Promise<void>,
): Promise<OutcomeCounter["outcomes"]> {
  const sockets = await Promise.all(
    Array.from({ length: SOURCE_COUNT }, async (_, index) => {
      const socket = createSocket("udp4");
      socket.on("error", () => {});
      // Answers to these sockets are not read.
      socket.bind({ address: `127.0.${1 + (index >> 7)}.${1 + (index & 127)}`, port: 0 });
      await once(socket, "listening");
      return socket;
    }),
  );
  const counter = new OutcomeCounter();
  try {
    await use(sockets, counter);
    await pause(ANSWER_WAIT_MS);
  } finally {
    await Promise.all(
      sockets.map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))),
    );
  }
  return counter.outcomes;
}

/** Limit of bytes sent per received byte before address validation (RFC 9000, section 8.1). */
const MAX_AMPLIFICATION = 3;

/**
 * Sends from many addresses, and measures the amplification: bytes sent and received over all of
 * them.
 */
class AmplificationMeter {
  readonly #sockets: readonly Socket[];
  #sent = 0;
  #received = 0;

  constructor(sockets: readonly Socket[]) {
    this.#sockets = sockets;
    for (const socket of sockets) {
      socket.on("message", ({ length }) => {
        this.#received += length;
      });
    }
  }

  send(index: number, bytes: Uint8Array, { host, port }: Target): void {
    this.#sent += bytes.length;
    this.#sockets[index % this.#sockets.length]?.send(bytes, port, host);
  }

  /** Returns `outcome`, or a wrong one when more came back than RFC 9000 allows. */
  check(outcome: string): string {
    if (this.#received <= MAX_AMPLIFICATION * this.#sent) return outcome;
    return `wrong: ${this.#received} bytes came back for ${this.#sent}`;
  }
}

/**
 * Records the first flight of a client with a request in early data, before any answer. The
 * connection itself ends well.
 */
async function earlyFlight(dialling: Transport, target: Target): Promise<readonly Uint8Array[]> {
  const flight: Uint8Array[] = [];
  let recording = false;
  const relay = await udpRelay(
    { host: target.host, port: target.port },
    {
      drop(datagram, fromClient) {
        // From the first long header on. Earlier datagrams belong to the first connection.
        const isFlight = flight.length > 0 || ((datagram[0] ?? 0) & 0x80) !== 0;
        if (recording && fromClient && isFlight) flight.push(Uint8Array.from(datagram));
        return false;
      },
    },
  );
  const used = async (dialled: Promise<Connection>): Promise<void> => {
    const connection = await dialled;
    const outcome = await exchange(connection, target);
    await connection.close();
    if (outcome.startsWith("wrong")) throw new Error(outcome);
  };
  try {
    // The first connection provides the session of the second.
    await used(withRetries(() => dialling.dial(relay.address, { earlyData: true })));
    recording = true;
    relay.hold();
    const second = used(dialling.dial(relay.address, { earlyData: true }));
    await pause(ANSWER_WAIT_MS);
    recording = false;
    relay.release();
    await second;
    return flight;
  } finally {
    await relay.close();
  }
}

/**
 * Sends datagrams with forged sources, if this process may forge them. Otherwise sends the same
 * lengths from a socket.
 */
async function fromUnanswerableSources(
  transport: () => Promise<Transport>,
  target: Target,
  tries: number,
  random: () => number,
): Promise<Outcomes> {
  const counter = new OutcomeCounter();
  const { wildcardPort } = target;
  const dialling = await transport();
  const initial = await firstDatagram(dialling);
  const sources = Object.values(STRANGE).filter(
    (from) => !from.host.includes("%") && (wildcardPort !== undefined || !isOverIpv6(from)),
  );
  if (noRawUdp !== undefined) {
    const socket = createSocket("udp4");
    for (let index = 0; index < tries; index++) {
      const payload = pick(strangePayloads(initial, false), random);
      await new Promise((resolve) => socket.send(payload, target.port, target.host, resolve));
    }
    socket.close();
    counter.note(`dropped; from honest sources only: ${noRawUdp}`, tries);
    return counter.outcomes;
  }
  await using raw = RawUdp.start();
  for (let index = 0; index < tries; index++) {
    const from = pick(sources, random);
    const overIpv6 = isOverIpv6(from);
    const to = overIpv6 ? { host: "::1", port: wildcardPort ?? 0 } : target;
    const refused = await raw.send({
      from,
      to,
      payload: pick(strangePayloads(initial, overIpv6), random),
    });
    counter.note(refused === undefined ? "dropped, or left half-open" : `not sent: ${refused}`);
  }
  // The honest client uses the other server, so this one is checked here.
  if (wildcardPort !== undefined) {
    const connection = await withRetries(() => dialling.dial({ host: "::1", port: wildcardPort }));
    counter.note(await exchange(connection, target), 0);
    await connection.close({ grace: 0 });
  }
  await dialling.close?.();
  return counter.outcomes;
}

/**
 * Datagrams per client address, requests per connection, and the time limit of a connection in ms.
 */
const DATAGRAMS_PER_ADDRESS = 4;
const REQUESTS_PER_CONNECTION = 3;
const CONNECTION_TIMEOUT_MS = 5_000;

/**
 * Makes requests on a connection whose address changes every few datagrams: a bad NAT, or a client
 * that makes the server validate paths.
 */
async function migrating(dialling: Transport, target: Target): Promise<string> {
  let passed = 0;
  let wanders = false;
  const relay = await udpRelay(
    { host: target.host, port: target.port },
    {
      drop(_datagram, fromClient) {
        if (wanders && fromClient && ++passed % DATAGRAMS_PER_ADDRESS === 0) relay.rebind();
        return false;
      },
    },
  );
  const connection = await withRetries(() => dialling.dial(relay.address));
  const timer = setTimeout(() => connection.abort(), CONNECTION_TIMEOUT_MS);
  try {
    await ask(connection, target);
    wanders = true;
    for (let request = 0; request < REQUESTS_PER_CONNECTION; request++)
      await ask(connection, target);
    return "served";
  } catch (error) {
    return error instanceof VortexError ? error.code : `wrong: ${error}`;
  } finally {
    clearTimeout(timer);
    connection.abort();
    await connection.closed;
    await relay.close();
  }
}

interface Recording {
  readonly address: { readonly host: string; readonly port: number };
  /** Datagrams of the client, including the first ones of each connection. */
  readonly recorded: readonly Uint8Array[];
  /** Sends a datagram to the server with the client's address. */
  inject(datagram: Uint8Array): void;
  close(): Promise<void>;
}

/** Relays between a client and the server, and records datagrams of the client. */
async function recordingRelay(target: Target): Promise<Recording> {
  const recorded: Uint8Array[] = [];
  const relay = await udpRelay(
    { host: target.host, port: target.port },
    {
      drop(datagram, fromClient) {
        if (fromClient && recorded.length < 200) recorded.push(Uint8Array.from(datagram));
        return false;
      },
    },
  );
  return {
    address: relay.address,
    recorded,
    inject: (datagram) => relay.inject(datagram),
    close: () => relay.close(),
  };
}

/** Makes a request on a connection that is expected to be intact. */
async function exchange(connection: Connection, target: Target): Promise<string> {
  try {
    await ask(connection, target);
    return "the connection goes on";
  } catch (error) {
    return `wrong: ${error instanceof Error ? error.message : error}`;
  }
}

/** Makes a request and reads its answer to the end. */
async function ask(connection: Connection, { taskId }: Target): Promise<void> {
  const stream = await connection.openStream();
  await stream.writer.end(
    encodePacket({ type: "download-piece", id: 1, kind: "standard", taskId, number: 0 }),
  );
  let got = 0;
  for (
    let chunk = await stream.reader.read();
    chunk !== undefined;
    chunk = await stream.reader.read()
  ) {
    got += chunk.length;
  }
  if (got === 0) throw new Error("no answer");
}

/** Returns the datagram with a few bits flipped, truncated, or unchanged (a replay). */
function mutated(datagram: Uint8Array, random: () => number): Uint8Array {
  const copy = Uint8Array.from(datagram);
  const choice = random();
  if (choice < 0.2) return copy;
  if (choice < 0.4) return copy.subarray(0, 1 + Math.floor(random() * copy.length));
  for (let changes = 1 + Math.floor(random() * 4); changes > 0; changes--) {
    const at = Math.floor(random() * (random() < 0.5 ? Math.min(copy.length, 40) : copy.length));
    copy[at] = (copy[at] ?? 0) ^ (1 << Math.floor(random() * 8));
  }
  return copy;
}
