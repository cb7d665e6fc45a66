import assert from "node:assert/strict";
import type { ClientHttp2Stream } from "node:http2";
import { PassThrough } from "node:stream";
import { describe, it } from "node:test";
import { byWholeMessages } from "../../../adapters/grpc/message-stream.ts";
import { Guard } from "../../../adapters/shared/guard.ts";
import { chunked, joined, seededBytes, seededRandom } from "../../support/random.ts";

const MAX_MESSAGE_LENGTH = 4 * 1024 * 1024;

/** Creates a fake HTTP/2 stream, as far as it is read, and its chunks for Connect. */
function streamOf(rstCode = 0): {
  readonly source: PassThrough;
  readonly chunks: AsyncIterator<Uint8Array>;
} {
  const source = Object.assign(new PassThrough(), { rstCode });
  const stream = byWholeMessages(
    source as unknown as ClientHttp2Stream,
    MAX_MESSAGE_LENGTH,
    new Guard(),
    () => {},
  );
  return { source, chunks: stream[Symbol.asyncIterator]() as AsyncIterator<Uint8Array> };
}

/** Adds the gRPC header to a message. */
function framed(message: Uint8Array): Uint8Array {
  const header = new Uint8Array(5);
  new DataView(header.buffer).setUint32(1, message.length);
  return joined([header, message]);
}

describe("Connect, reading a stream", () => {
  it("gets every message completely, however its bytes are split", async () => {
    for (const [maxChunk, lengths] of [
      [7, [0, 1, 300, 0]],
      [16_384, [100_000, 3, 1_000_000, 0, 262_139]],
      [2_000_000, [1_500_000, 1_500_000, 5]],
    ] as const) {
      const messages = lengths.map((length, at) => framed(seededBytes(at + 1, length)));
      const { source, chunks } = streamOf();
      for (const chunk of chunked(joined(messages), seededRandom(3), maxChunk)) source.write(chunk);
      source.end();
      for (const message of messages) {
        const parts: Uint8Array[] = [];
        for (let length = 0; length < message.length; ) {
          const { value } = await chunks.next();
          length += value.length;
          // Delivered chunks are freed by the first read after the message.
          parts.push(value.slice());
        }
        assert.deepEqual(joined(parts), message);
      }
      assert.deepEqual(await chunks.next(), { done: true, value: undefined });
    }
  });

  it("gets no chunk of an incomplete message, so it allocates no memory for an announced length", async () => {
    const { source, chunks } = streamOf();
    const message = framed(seededBytes(1, 1_000_000));
    let given = 0;
    const reading = (async () => {
      while (given < message.length) given += (await chunks.next()).value.length;
    })();
    for (let at = 0; at < message.length - 1; at += 100_000) {
      source.write(message.subarray(at, Math.min(at + 100_000, message.length - 1)));
      await new Promise((resolve) => setImmediate(resolve));
      assert.equal(given, 0);
    }
    source.write(message.subarray(-1));
    await reading;
    assert.equal(given, message.length);
  });

  it("gets the header at once if it announces too much, and rejects it", async () => {
    const { source, chunks } = streamOf();
    source.write(Uint8Array.of(0, 0xff, 0xff, 0xff, 0xff, 1));
    assert.equal((await chunks.next()).value.length, 5);
  });

  it("copies a message, whose chunks are freed then", async () => {
    const { source, chunks } = streamOf();
    const message = framed(seededBytes(1, 600_000));
    source.end(message);
    const parts: Uint8Array[] = [];
    for (let at = 0; at < message.length; at += parts.at(-1)?.length ?? 0)
      parts.push((await chunks.next()).value);
    assert.ok(parts.every(({ length }) => length > 0));
    await chunks.next();
    assert.ok(parts.every(({ length }) => length === 0));
  });

  it("gets an error if the stream ends inside a message or is reset", async () => {
    for (const cut of [1, 4, 5, 6, 99]) {
      const { source, chunks } = streamOf();
      source.end(framed(seededBytes(1, 100)).subarray(0, cut));
      await assert.rejects(chunks.next(), /incomplete envelope/, `${cut} bytes`);
    }
    const { source, chunks } = streamOf(7);
    source.end(framed(seededBytes(1, 100)).subarray(0, 50));
    await assert.rejects(chunks.next(), /closed before its end, with error code REFUSED_STREAM/);
  });
});
