/** Attacks on a QUIC server by datagrams, and by connections of which there are too many. */
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
  persistently,
  pick,
  type Target,
} from "./attack.ts";

/** Addresses of this host that datagrams come from, each with a port of its own. */
const SOURCES = 200;
/** Datagrams between two pauses, in which the kernel's buffers are emptied. */
const BURST = 50;
/** Milliseconds that an answer to an unfinished handshake takes at most, on a machine that is busy. */
const ANSWERS = 300;
/** Bytes of a connection id. */
const ID_LENGTH = 16;

/** Name of the attack from sources that only a raw socket has. */
export const STRANGE_SOURCES: string = "datagrams of boundary lengths, from unanswerable sources";

/** The attacks. `transport` makes a new one each time. */
export function datagramAttacks(transport: () => Promise<Transport>): readonly Attack[] {
  return [
    {
      name: "half-open handshakes from many addresses",
      over: "quic",
      unit: "connection",
      tries: 18_000,
      run: (target, tries) =>
        fromManyAddresses(async (sockets, tally) => {
          const initials = await initialsFor(target);
          for (let index = 0; index < tries; index++) {
            sockets[index % SOURCES]?.send(initials(), target.port, target.host);
            if (index % BURST === 0) await pause(1);
          }
          tally.note("left half-open", tries);
        }),
    },
    {
      name: "garbage datagrams",
      over: "quic",
      unit: "datagram",
      tries: 6_000,
      run: (target, tries, random) =>
        fromManyAddresses(async (sockets, tally) => {
          for (let index = 0; index < tries; index++) {
            const bytes = garbage(1 + Math.floor(random() * 1400), random);
            // Half of them with the form of a long header, of any version.
            if (index % 2 === 0)
              bytes.set([0xc0 | (bytes[0] ?? 0), 0, 0, 0, index % 4, 16].slice(0, bytes.length));
            sockets[index % SOURCES]?.send(bytes, target.port, target.host);
            if (index % BURST === 0) await pause(1);
          }
          tally.note("dropped", tries);
        }),
    },
    {
      name: "mutated, truncated and replayed datagrams of a connection, from its address and others",
      over: "quic",
      unit: "datagram",
      tries: 12_000,
      run: (target, tries, random) =>
        fromManyAddresses(async (sockets, tally) => {
          const relay = await recordingRelay(target);
          const dialling = await transport();
          const connection = await persistently(() => dialling.dial(relay.address));
          try {
            await exchange(connection, target);
            for (let index = 0; index < tries; index++) {
              const bytes = mutated(pick(relay.recorded, random), random);
              // Behind the relay a datagram has the address of the connection itself.
              if (index % 2 === 0) relay.inject(bytes);
              else sockets[index % SOURCES]?.send(bytes, target.port, target.host);
              if (index % BURST === 0) await pause(1);
              if (index % 1_000 === 0) tally.note(await exchange(connection, target), 0);
            }
            tally.note(await exchange(connection, target), 0);
            tally.note("dropped", tries);
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
        fromManyAddresses(async (sockets, tally) => {
          const counted = new Counted(sockets);
          for (let index = 0; index < tries; index++) {
            // Each is long enough to be answered by the versions that there are (RFC 9000, section 6.1).
            const bytes = garbage(1200, random);
            bytes.set([0xc0, 0x1a, 0x2a, index % 256, 0x3a, ID_LENGTH]);
            bytes[6 + ID_LENGTH] = ID_LENGTH;
            // quiche takes what follows for a token in any version, and drops what is none.
            bytes[7 + 2 * ID_LENGTH] = 0;
            counted.send(index, bytes, target);
            if (index % BURST === 0) await pause(1);
          }
          await pause(ANSWERS);
          tally.note(counted.judged("Version Negotiation, or dropped"), tries);
        }),
    },
    {
      name: "Initial packets with forged tokens",
      over: "quic",
      unit: "datagram",
      tries: 1_200,
      run: (target, tries, random) =>
        fromManyAddresses(async (sockets, tally) => {
          const counted = new Counted(sockets);
          const initials = await initialsFor(target, () =>
            garbage(1 + Math.floor(random() * 200), random),
          );
          for (let index = 0; index < tries; index++) {
            counted.send(index, initials(), target);
            if (index % BURST === 0) await pause(1);
          }
          await pause(ANSWERS);
          tally.note(counted.judged("left half-open, or dropped"), tries);
        }),
    },
    {
      name: "first flight with early data, replayed from other addresses",
      over: "quic",
      unit: "datagram",
      tries: 2_400,
      run: (target, tries) =>
        fromManyAddresses(async (sockets, tally) => {
          const counted = new Counted(sockets);
          const flight = await earlyFlight(await transport(), target);
          for (let index = 0; index < tries; index++) {
            // All of a flight from one address, and then from the next.
            const bytes = flight[index % flight.length];
            if (bytes !== undefined) counted.send(Math.floor(index / flight.length), bytes, target);
            if (index % BURST === 0) await pause(1);
          }
          await pause(ANSWERS);
          tally.note(counted.judged("answered in part, or dropped"), tries);
        }),
    },
    {
      name: STRANGE_SOURCES,
      over: "quic",
      unit: "datagram",
      tries: 2_400,
      run: (target, tries, random) => fromStrangeSources(transport, target, tries, random),
    },
    {
      name: "connections that migrate every few datagrams",
      over: "quic",
      unit: "connection",
      tries: 150,
      async run(target, tries) {
        const dialling = await transport();
        // At a time fewer than a server takes that takes few, so that none makes room for another.
        return inParallel(tries, 4, () => wandering(dialling, target));
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
          // A client has its connection before the server says that it has no room.
          await Promise.race([dialled.closed, pause(ANSWERS)]);
          return "accepted, or rejected later";
        });
        for (const connection of held) connection.abort();
        await Promise.all(held.map(({ closed }) => closed));
        return outcomes;
      },
    },
  ];
}

/** The connection, or how it was refused. */
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
 * What a client of this library sends first, with other ids each time: quiche makes it, and it goes no further. With a token, it is what
 * a client sends that was asked to show its address, as if by this server.
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
    const id = randomFillSync(new Uint8Array(ID_LENGTH));
    const connection = quiche.Connection.connect("localhost", id, local, { host, port }, config);
    const first = (): Uint8Array => {
      const sent = connection.send(buffer);
      if (sent === null) throw new Error("quiche has nothing to send first");
      const [length] = sent;
      return buffer.slice(0, length);
    };
    const initial = first();
    if (token === undefined) return initial;
    const { scid, dcid, version } = quiche.Header.fromSlice(initial, ID_LENGTH);
    const retried = randomFillSync(new Uint8Array(ID_LENGTH));
    const length = quiche.retry(scid, dcid, retried, token(), version, buffer);
    connection.recv(buffer.slice(0, length), { to: local, from: { host, port } });
    return first();
  };
}

async function fromManyAddresses(
  use: (sockets: readonly Socket[], tally: OutcomeCounter) => Promise<void>,
): Promise<OutcomeCounter["outcomes"]> {
  const sockets = await Promise.all(
    Array.from({ length: SOURCES }, async (_, index) => {
      const socket = createSocket("udp4");
      socket.on("error", () => {});
      // Nobody reads what comes back.
      socket.bind({ address: `127.0.${1 + (index >> 7)}.${1 + (index & 127)}`, port: 0 });
      await once(socket, "listening");
      return socket;
    }),
  );
  const tally = new OutcomeCounter();
  try {
    await use(sockets, tally);
    await pause(ANSWERS);
  } finally {
    await Promise.all(
      sockets.map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))),
    );
  }
  return tally.outcomes;
}

/** Most that a server may send to addresses that were not shown, for what came from them (RFC 9000, section 8.1). */
const AMPLIFICATION = 3;

/** Sends from many addresses, and counts what goes and what comes back, over all of them. */
class Counted {
  readonly #sockets: readonly Socket[];
  #sent = 0;
  #got = 0;

  constructor(sockets: readonly Socket[]) {
    this.#sockets = sockets;
    for (const socket of sockets) {
      socket.on("message", ({ length }) => {
        this.#got += length;
      });
    }
  }

  send(index: number, bytes: Uint8Array, { host, port }: Target): void {
    this.#sent += bytes.length;
    this.#sockets[index % this.#sockets.length]?.send(bytes, port, host);
  }

  /** `outcome`, unless more has come back than may. */
  judged(outcome: string): string {
    if (this.#got <= AMPLIFICATION * this.#sent) return outcome;
    return `wrong: ${this.#got} bytes came back for ${this.#sent}`;
  }
}

/** What a client sends before anything has come back, with a request ahead of the handshake; the connection itself ends well. */
async function earlyFlight(dialling: Transport, target: Target): Promise<readonly Uint8Array[]> {
  const flight: Uint8Array[] = [];
  let recording = false;
  const relay = await udpRelay(
    { host: target.host, port: target.port },
    {
      drop(datagram, fromClient) {
        // From the first long header on: what comes before it is the last of the first connection.
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
    // The first connection brings the session of the second.
    await used(persistently(() => dialling.dial(relay.address, { earlyData: true })));
    recording = true;
    relay.hold();
    const second = used(dialling.dial(relay.address, { earlyData: true }));
    await pause(ANSWERS);
    recording = false;
    relay.release();
    await second;
    return flight;
  } finally {
    await relay.close();
  }
}

/** Datagrams with forged sources, where this process may forge them; else from a socket, of the same lengths. */
async function fromStrangeSources(
  transport: () => Promise<Transport>,
  target: Target,
  tries: number,
  random: () => number,
): Promise<Outcomes> {
  const tally = new OutcomeCounter();
  const { everywhere } = target;
  const dialling = await transport();
  const initial = await firstDatagram(dialling);
  const sources = Object.values(STRANGE).filter(
    (from) => !from.host.includes("%") && (everywhere !== undefined || !isOverIpv6(from)),
  );
  if (noRawUdp !== undefined) {
    const socket = createSocket("udp4");
    for (let index = 0; index < tries; index++) {
      const payload = pick(strangePayloads(initial, false), random);
      await new Promise((resolve) => socket.send(payload, target.port, target.host, resolve));
    }
    socket.close();
    tally.note(`dropped; from honest sources only: ${noRawUdp}`, tries);
    return tally.outcomes;
  }
  await using raw = RawUdp.start();
  for (let index = 0; index < tries; index++) {
    const from = pick(sources, random);
    const overIpv6 = isOverIpv6(from);
    const to = overIpv6 ? { host: "::1", port: everywhere ?? 0 } : target;
    const refused = await raw.send({
      from,
      to,
      payload: pick(strangePayloads(initial, overIpv6), random),
    });
    tally.note(refused === undefined ? "dropped, or left half-open" : `not sent: ${refused}`);
  }
  // The honest client knows the other server only.
  if (everywhere !== undefined) {
    const connection = await persistently(() => dialling.dial({ host: "::1", port: everywhere }));
    tally.note(await exchange(connection, target), 0);
    await connection.close({ grace: 0 });
  }
  await dialling.close?.();
  return tally.outcomes;
}

/** Datagrams after which a client has another address, requests of it, and milliseconds that they may take. */
const WANDERS = 4;
const REQUESTS = 3;
const PATIENCE = 5_000;

/** Requests on a connection with another address every few datagrams: as a bad NAT has it, or who has the server validate paths. */
async function wandering(dialling: Transport, target: Target): Promise<string> {
  let passed = 0;
  let wanders = false;
  const relay = await udpRelay(
    { host: target.host, port: target.port },
    {
      drop(_datagram, fromClient) {
        if (wanders && fromClient && ++passed % WANDERS === 0) relay.rebind();
        return false;
      },
    },
  );
  const connection = await persistently(() => dialling.dial(relay.address));
  const timer = setTimeout(() => connection.abort(), PATIENCE);
  try {
    await ask(connection, target);
    wanders = true;
    for (let request = 0; request < REQUESTS; request++) await ask(connection, target);
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
  /** What the client has sent, the first datagrams of each connection among it. */
  readonly recorded: readonly Uint8Array[];
  /** Sends a datagram to the server, as if the client had. */
  inject(datagram: Uint8Array): void;
  close(): Promise<void>;
}

/** Stands between a client and the server, and keeps some of what passes. */
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

/** A request on a connection, which is to go on as if nothing were. */
async function exchange(connection: Connection, target: Target): Promise<string> {
  try {
    await ask(connection, target);
    return "the connection goes on";
  } catch (error) {
    return `wrong: ${error instanceof Error ? error.message : error}`;
  }
}

/** A request, to the end of its answer. */
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

/** The datagram with a few bits changed, cut, or as it is: a replay. */
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
