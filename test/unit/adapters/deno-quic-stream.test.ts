/**
 * Streams of Deno's QUIC on a native stream that never settles: operations end when this side ends
 * them.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { DenoQuicStream, type StreamOwner } from "../../../adapters/deno-quic/stream.ts";
import { Guard } from "../../../adapters/shared/guard.ts";
import { VortexError } from "../../../src/errors.ts";
import { rejectionOf } from "../../support/failures.ts";

const limit = { timeout: 10_000 };
const never = (): Promise<void> => new Promise(() => {});
const gone = new VortexError("ConnectTimeout", "handshake timeout: no answer");

describe("a stream of Deno's QUIC whose native stream never settles", () => {
  it("rejects the pending read when its connection ends", limit, async () => {
    const { stream } = silent();
    const reading = rejectionOf(stream.reader.read(new Uint8Array(10)));
    stream.fail(gone);
    assert.equal(await reading, gone);
    assert.equal(await rejectionOf(stream.reader.read()), gone);
  });

  it("rejects the pending read on cancel", limit, async () => {
    const { stream } = silent();
    const reading = rejectionOf(stream.reader.read());
    stream.reader.cancel();
    assert.equal((await reading).code, "Closed");
  });

  it("cancels the native stream when its connection ends", limit, async () => {
    const { stream, cancelled } = silent();
    stream.fail(gone);
    await cancelled;
  });

  for (const [what, act] of [
    ["write", (stream: DenoQuicStream) => stream.writer.write(new Uint8Array(10))],
    ["end", (stream: DenoQuicStream) => stream.writer.end()],
    ["end with the last bytes", (stream: DenoQuicStream) => stream.writer.end(new Uint8Array(10))],
  ] as const) {
    it(`rejects a pending ${what} when its connection ends, or on abort`, limit, async () => {
      const { stream, forgotten } = silent();
      const acting = rejectionOf(act(stream));
      stream.fail(gone);
      assert.equal(await acting, gone);
      assert.equal(await rejectionOf(stream.writer.write(new Uint8Array(1))), gone);
      assert.equal(forgotten(), true);

      const { stream: aborted } = silent();
      const waiting = rejectionOf(act(aborted));
      aborted.writer.abort();
      assert.equal((await waiting).code, "Closed");
    });
  }
});

/** Creates a stream whose native stream delivers nothing and accepts nothing. */
function silent(): { stream: DenoQuicStream; cancelled: Promise<void>; forgotten: () => boolean } {
  let forgotten = false;
  const owner: StreamOwner = {
    guard: new Guard(),
    waitForCloseReason: async () => gone,
    onPeerEnded: () => {},
    onEnded: () => {},
    onEarlyDataRefused: async (refused) => refused,
    onceEarlyDataDecided: (act) => act(),
    forget: () => {
      forgotten = true;
    },
  };
  let onCancel = (): void => {};
  const cancelled = new Promise<void>((resolve) => {
    onCancel = resolve;
  });
  const bytes = new ReadableStream<Uint8Array<ArrayBuffer>>({
    type: "bytes",
    pull: never,
    cancel: () => onCancel(),
  });
  const readable = Object.assign(bytes, { id: 0n });
  const writable = new WritableStream<Uint8Array>({ write: never, close: never, abort: never });
  return {
    stream: new DenoQuicStream({ readable, writable }, owner),
    cancelled,
    forgotten: () => forgotten,
  };
}
