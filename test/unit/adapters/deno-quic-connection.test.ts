/**
 * Detection of refused early data by a client connection of Deno's QUIC. After a refusal quinn
 * reuses stream ids, which shows before Deno reports the refusal.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { DenoQuicConnection } from "../../../adapters/deno-quic/connection.ts";
import type { NativeConn, NativeStream } from "../../../adapters/deno-quic/native.ts";
import { Guard } from "../../../adapters/shared/guard.ts";
import { rejectionOf } from "../../support/failures.ts";

const limit = { timeout: 10_000 };
const never = (): Promise<void> => new Promise(() => {});

describe("a connection of Deno's QUIC dialled with early data", () => {
  for (const when of ["before", "after"] as const) {
    it(
      `ends at a stream that reuses an early id ${when} its handshake, and does not read it`,
      limit,
      async () => {
        const { connection, reads, finishHandshake } = dialled([0n, 4n, 0n]);
        await connection.openStream();
        await connection.openStream();
        if (when === "after") {
          finishHandshake();
          await connection.ready;
        }
        assert.equal((await rejectionOf(connection.openStream())).code, "EarlyDataRefused");
        assert.equal((await connection.closed).error.code, "EarlyDataRefused");
        assert.equal(connection.earlyData, "refused");
        assert.deepEqual(reads, [0n, 4n]);
      },
    );
  }

  it("stays open while stream ids are new", limit, async () => {
    const { connection, reads, finishHandshake } = dialled([0n, 4n, 8n]);
    await connection.openStream();
    await connection.openStream();
    finishHandshake();
    await connection.ready;
    assert.equal(connection.earlyData, "accepted");
    await connection.openStream();
    assert.deepEqual(reads, [0n, 4n, 8n]);
    connection.abort();
  });

  it("reports the close reason for a stream that lost its id", limit, async () => {
    const { connection, reads, end } = dialled([0n, undefined]);
    await connection.openStream();
    const opening = rejectionOf(connection.openStream());
    end();
    assert.equal((await opening).code, (await connection.closed).error.code);
    assert.deepEqual(reads, [0n]);
  });
});

/**
 * Creates a connection before its handshake.
 *
 * @param numbers ids of the streams it opens, in order
 * @returns the connection with the ids of the streams that it reads
 */
function dialled(numbers: (bigint | undefined)[]): {
  connection: DenoQuicConnection;
  reads: bigint[];
  finishHandshake: () => void;
  end: () => void;
} {
  let finishHandshake = (): void => {};
  let end = (): void => {};
  const reads: bigint[] = [];
  const handshake = new Promise<void>((resolve) => {
    finishHandshake = resolve;
  });
  const closed = new Promise<{ closeCode: number; reason: string }>((resolve) => {
    end = () => resolve({ closeCode: 0, reason: "" });
  });
  const stream = (number: bigint | undefined): NativeStream => {
    const pull = (): Promise<void> => {
      if (number !== undefined) reads.push(number);
      return never();
    };
    const readable = Object.defineProperty(
      new ReadableStream<Uint8Array>({ type: "bytes", pull }),
      "id",
      {
        get: () => {
          if (number === undefined) throw new Error("Bad resource ID");
          return number;
        },
      },
    ) as NativeStream["readable"];
    return { readable, writable: new WritableStream() };
  };
  const native: NativeConn = {
    endpoint: {
      addr: { port: 9 },
      listen: () => {
        throw new Error("a client does not listen");
      },
      close: () => {},
    },
    remoteAddr: { hostname: "127.0.0.1", port: 9 },
    handshake,
    closed,
    incomingBidirectionalStreams: new ReadableStream(),
    createBidirectionalStream: async () => stream(numbers.shift()),
    close: end,
  };
  const connection = new DenoQuicConnection(
    native,
    { host: "127.0.0.1", port: 9 },
    { guard: new Guard(), server: false, established: false },
  );
  return { connection, reads, finishHandshake, end };
}
