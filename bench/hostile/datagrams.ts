/** Attacks on a QUIC server by datagrams, and by connections of which there are too many. */
import { randomFillSync } from "node:crypto";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { loadQuiche } from "../../adapters/quiche/native.ts";
import { applySettings, payloadSizeFor, quicheSettings } from "../../adapters/quiche/options.ts";
import { clientConfig } from "../../adapters/quiche/tls.ts";
import { VortexError } from "../../src/errors.ts";
import { encodePacket } from "../../src/protocol/packet.ts";
import { type Connection, DEFAULT_MAX_STREAMS, type Transport } from "../../src/transport/transport.ts";
import { udpRelay } from "../../test/support/udp-relay.ts";
import { type Attack, garbage, inParallel, pause, persistently, pick, Tally, type Target } from "./attack.ts";

/** Addresses of this host that datagrams come from, each with a port of its own. */
const SOURCES = 200;
/** Datagrams between two pauses, in which the kernel's buffers are emptied. */
const BURST = 50;
/** Milliseconds that an answer to an unfinished handshake takes at most, on a machine that is busy. */
const ANSWERS = 300;
/** Bytes of a connection id. */
const ID_LENGTH = 16;

/** The attacks. `transport` makes a new one each time. */
export function datagramAttacks(transport: () => Promise<Transport>): readonly Attack[] {
  return [
    {
      name: "half-open handshakes from many addresses",
      over: "quic",
      unit: "connection",
      tries: 15_000,
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
            if (index % 2 === 0) bytes.set([0xc0 | (bytes[0] ?? 0), 0, 0, 0, index % 4, 16].slice(0, bytes.length));
            sockets[index % SOURCES]?.send(bytes, target.port, target.host);
            if (index % BURST === 0) await pause(1);
          }
          tally.note("dropped", tries);
        }),
    },
    {
      name: "datagrams of a connection, mutated, cut or sent again, from its own and other addresses",
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
      name: "connections closed at once",
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
      name: "a flood of connections that say nothing",
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
          return "taken, or turned away later";
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
    if (error instanceof VortexError && error.kind === "transport") return "turned away";
    return `wrong: ${error instanceof Error ? error.message : error}`;
  }
}

/** What a client of this library sends first, with other ids each time: quiche makes it, and it goes no further. */
async function initialsFor({ host, port }: Target): Promise<() => Uint8Array> {
  const quiche = await loadQuiche();
  const settings = quicheSettings();
  const config = clientConfig(quiche, { verify: false });
  applySettings(config, settings, DEFAULT_MAX_STREAMS, payloadSizeFor(settings, false));
  const local = { host: "127.0.0.1", port: 4433 };
  const buffer = new Uint8Array(65_536);
  return () => {
    const id = randomFillSync(new Uint8Array(ID_LENGTH));
    const connection = quiche.Connection.connect("localhost", id, local, { host, port }, config);
    const sent = connection.send(buffer);
    if (sent === null) throw new Error("quiche has nothing to send first");
    const [length] = sent;
    return buffer.slice(0, length);
  };
}

async function fromManyAddresses(
  use: (sockets: readonly Socket[], tally: Tally) => Promise<void>,
): Promise<Tally["outcomes"]> {
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
  const tally = new Tally();
  try {
    await use(sockets, tally);
    await pause(ANSWERS);
  } finally {
    await Promise.all(sockets.map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))));
  }
  return tally.outcomes;
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
async function exchange(connection: Connection, { taskId }: Target): Promise<string> {
  try {
    const stream = await connection.openStream();
    await stream.writer.end(encodePacket({ type: "download-piece", id: 1, kind: "standard", taskId, number: 0 }));
    let got = 0;
    for (let chunk = await stream.reader.read(); chunk !== undefined; chunk = await stream.reader.read()) {
      got += chunk.length;
    }
    return got > 0 ? "the connection goes on" : "wrong: no answer";
  } catch (error) {
    return `wrong: ${error instanceof Error ? error.message : error}`;
  }
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
