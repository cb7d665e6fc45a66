/** Attacks by Vortex streams, over QUIC and over TCP, where each stream is a connection. */
import { VortexError } from "../../src/errors.ts";
import { PacketDecoder } from "../../src/protocol/decoder.ts";
import { encodePacket, RemoteErrorCode } from "../../src/protocol/packet.ts";
import type { ByteStream, Connection, Transport } from "../../src/transport/transport.ts";
import { trickyIds } from "../../test/support/hostile.ts";
import {
  type Attack,
  garbage,
  inParallel,
  type Outcomes,
  pause,
  pick,
  type Target,
  withRetries,
} from "./attack.ts";

/** Concurrent streams of a connection: below the limit of every server. */
const CONCURRENCY = 64;
/** Interval between two bytes of a slow drip, in ms. */
const DRIP_INTERVAL_MS = 100;
/** Time without reading, in ms: longer than the stall timeout of the server under attack. */
const UNREAD_MS = 4_000;

/**
 * Returns the attacks over one protocol.
 *
 * @param transport makes a new transport for each attack
 * @param smallWindow makes a transport that receives little ahead of its reader
 */
export function streamAttacks(
  over: "quic" | "tcp",
  transport: () => Promise<Transport>,
  smallWindow: () => Promise<Transport> = transport,
): readonly Attack[] {
  const tries = (quic: number, tcp: number): number => (over === "quic" ? quic : tcp);
  const attack = (
    name: string,
    tries: number,
    make: (
      stream: ByteStream,
      target: Target,
      random: () => number,
      index: number,
    ) => Promise<string>,
    by = transport,
  ): Attack => ({
    name,
    over,
    unit: "request",
    tries,
    run: async (target, count, random) =>
      withConnection(await by(), target, (connection) =>
        inParallel(count, CONCURRENCY, async (index) => {
          try {
            const stream = await connection.openStream();
            return await make(stream, target, random, index);
          } catch (error) {
            return refusal(error);
          }
        }),
      ),
  });
  return [
    attack("requests for missing pieces", tries(4_000, 2_000), (stream, target, random) => {
      const number = pick([0, 1_000, 0xffffffff], random);
      const taskId = number === 0 ? "0".repeat(64) : target.taskId;
      return outcomeOfMissing(
        stream,
        encodePacket({ type: "download-piece", id: 1, kind: "standard", taskId, number }),
      );
    }),
    attack("path traversal in ids", tries(3_000, 2_000), (stream, _target, _random, index) => {
      const taskId = trickyIds[index % trickyIds.length]?.[1] ?? "";
      return outcomeOfMissing(
        stream,
        encodePacket({ type: "download-piece", id: 1, kind: "standard", taskId, number: 0 }),
      );
    }),
    attack("garbage on streams", tries(4_000, 2_000), async (stream, target, random) => {
      const bytes = garbage(1 + Math.floor(random() * 300), random);
      // Half of them begin like a request, so that the server parses further.
      if (random() < 0.5)
        bytes.set(requestFor(target.taskId).subarray(0, Math.min(bytes.length, 6 + random() * 20)));
      return outcomeOf(stream, bytes);
    }),
    attack("requests cancelled immediately", tries(4_000, 2_000), async (stream, target) => {
      await stream.writer.write(requestFor(target.taskId));
      stream.writer.abort();
      stream.reader.cancel();
      return "cancelled";
    }),
    attack("abandoned streams", tries(1_500, 500), async (stream, target, random) => {
      await stream.writer.write(
        requestFor(target.taskId).subarray(0, 1 + Math.floor(random() * 70)),
      );
      return outcomeOfEnd(stream);
    }),
    attack("slow-drip requests", tries(600, 300), async (stream, target) => {
      const ending = outcomeOfEnd(stream);
      let over = false;
      void ending.then(() => {
        over = true;
      });
      for (const byte of requestFor(target.taskId)) {
        if (over) break;
        await stream.writer.write(Uint8Array.of(byte)).catch(() => {});
        await pause(DRIP_INTERVAL_MS);
      }
      return ending;
    }),
    attack(
      "readers that never read",
      tries(200, 100),
      async (stream, target) => {
        await stream.writer.write(requestFor(target.longTaskId));
        await stream.writer.end();
        await pause(UNREAD_MS);
        return outcomeOfEnd(stream);
      },
      smallWindow,
    ),
  ];
}

function requestFor(taskId: string): Uint8Array {
  return encodePacket({ type: "download-piece", id: 1, kind: "standard", taskId, number: 0 });
}

/** Requests a piece that is not served. Any answer except NotFound or InvalidArgument is wrong. */
async function outcomeOfMissing(stream: ByteStream, request: Uint8Array): Promise<string> {
  const outcome = await outcomeOf(stream, request);
  return outcome === "NotFound" || outcome === "InvalidArgument" ? outcome : `wrong: ${outcome}`;
}

/** Sends bytes, and resolves to the outcome of the answer. */
async function outcomeOf(stream: ByteStream, bytes: Uint8Array): Promise<string> {
  try {
    await stream.writer.end(bytes);
    const decoder = new PacketDecoder();
    for (
      let chunk = await stream.reader.read();
      chunk !== undefined;
      chunk = await stream.reader.read()
    ) {
      decoder.push(chunk);
      const packet = decoder.next();
      if (packet === undefined) continue;
      if (packet.type !== "error") return `wrong: answered with ${packet.type}`;
      if (packet.code === RemoteErrorCode.NotFound) return "NotFound";
      return packet.code === RemoteErrorCode.InvalidArgument
        ? "InvalidArgument"
        : `wrong: error ${packet.code}`;
    }
    return "ended";
  } catch (error) {
    return refusal(error);
  }
}

/** Reads to the end. A complete answer is `wrong`, since the server must cut it off. */
async function outcomeOfEnd({ reader, writer }: ByteStream): Promise<string> {
  let received = 0;
  try {
    for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read())
      received += chunk.length;
    // A transport that reports a reset as an end still ends early.
    return received > MIN_COMPLETE_BYTES ? "wrong: all of it came" : "cut off";
  } catch (error) {
    return refusal(error);
  } finally {
    writer.abort();
  }
}

/** Bytes that a complete answer with the long piece exceeds. */
const MIN_COMPLETE_BYTES = 16 * 1024 * 1024;

function refusal(error: unknown): string {
  if (error instanceof VortexError && (error.kind === "transport" || error.code === "Closed"))
    return "cut off";
  return `wrong: ${error instanceof Error ? error.message : error}`;
}

async function withConnection(
  transport: Transport,
  { host, port }: Target,
  use: (connection: Connection) => Promise<Outcomes>,
): Promise<Outcomes> {
  const connection = await withRetries(() => transport.dial({ host, port }));
  try {
    return await use(connection);
  } finally {
    connection.abort();
    await connection.closed;
  }
}
