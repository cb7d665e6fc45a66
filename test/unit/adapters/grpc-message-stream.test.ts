import assert from "node:assert/strict";
import type { ClientHttp2Stream } from "node:http2";
import { PassThrough } from "node:stream";
import { describe, it } from "node:test";
import { byMessages } from "../../../adapters/grpc/message-stream.ts";
import { Guard } from "../../../adapters/shared/guard.ts";
import { chunked, joined, seededBytes, seededRandom } from "../../support/random.ts";

const MOST = 4 * 1024 * 1024;

/** A stream of HTTP/2 as far as it is read. */
function streamOf(rstCode = 0): {
  readonly source: PassThrough;
  readonly chunks: AsyncIterator<Uint8Array>;
} {
  const source = Object.assign(new PassThrough(), { rstCode });
  const stream = byMessages(source as unknown as ClientHttp2Stream, MOST, new Guard(), () => {});
  return { source, chunks: stream[Symbol.asyncIterator]() as AsyncIterator<Uint8Array> };
}

/** A message with its header, as gRPC writes it. */
function framed(message: Uint8Array): Uint8Array {
  const header = new Uint8Array(5);
  new DataView(header.buffer).setUint32(1, message.length);
  return joined([header, message]);
}

describe("what Connect is given of a stream", () => {
  it("is every message, whole, however its bytes come", async () => {
    for (const [greatest, lengths] of [
      [7, [0, 1, 300, 0]],
      [16_384, [100_000, 3, 1_000_000, 0, 262_139]],
      [2_000_000, [1_500_000, 1_500_000, 5]],
    ] as const) {
      const messages = lengths.map((length, at) => framed(seededBytes(at + 1, length)));
      const { source, chunks } = streamOf();
      for (const chunk of chunked(joined(messages), seededRandom(3), greatest)) source.write(chunk);
      source.end();
      for (const message of messages) {
        const parts: Uint8Array[] = [];
        for (let length = 0; length < message.length; ) {
          const { value } = await chunks.next();
          length += value.length;
          // What was handed over is freed when more is asked for after the message.
          parts.push(value.slice());
        }
        assert.deepEqual(joined(parts), message);
      }
      assert.deepEqual(await chunks.next(), { done: true, value: undefined });
    }
  });

  it("is nothing of a message that has not come: no memory is taken for what is announced", async () => {
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

  it("is the header at once where it announces too much, for Connect to refuse", async () => {
    const { source, chunks } = streamOf();
    source.write(Uint8Array.of(0, 0xff, 0xff, 0xff, 0xff, 1));
    assert.equal((await chunks.next()).value.length, 5);
  });

  it("is freed once Connect has copied it", async () => {
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

  it("is an error where the stream ends inside a message, or was reset", async () => {
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
