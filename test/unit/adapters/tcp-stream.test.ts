import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { it } from "node:test";
import { setImmediate } from "node:timers";
import { Guard } from "../../../adapters/shared/guard.ts";
import { READ_AHEAD_BYTES, SocketStream } from "../../../adapters/tcp/stream.ts";
import { assertRejects } from "../../support/failures.ts";

/** Chunk length in bytes. Several fit into the smallest socket buffer of the runtimes. */
const CHUNK = 4 * 1024;

it("end() waits until the kernel has accepted all bytes, and an abort ends the wait", {
  timeout: 60_000,
}, async () => {
  await withSockets(async (near) => {
    const stream = new SocketStream(near, new Guard());
    // More than one chunk is queued, and writes do not wait yet.
    while (near.writableLength < 3 * CHUNK) {
      await stream.writer.write(new Uint8Array(CHUNK));
      await taken(near);
    }
    let over = false;
    const ending = stream.writer.end().finally(() => {
      over = true;
    });
    ending.catch(() => {});
    await taken(near);
    assert.equal(over, false);
    stream.writer.abort();
    await assertRejects(ending, "Closed");
    await stream.finished;
  });
});

it("end() resolves at once when the kernel has accepted all bytes", {
  timeout: 60_000,
}, async () => {
  await withSockets(async (near, far) => {
    const stream = new SocketStream(near, new Guard());
    await stream.writer.end(new Uint8Array(CHUNK));
    // An abort has no effect afterwards.
    stream.writer.abort();
    let length = 0;
    for await (const chunk of far) length += (chunk as Uint8Array).length;
    assert.equal(length, CHUNK);
  });
});

/**
 * Waits until all written bytes are accepted by the kernel, or for so long that they will not be.
 */
async function taken(socket: Socket): Promise<void> {
  for (let turn = 0; turn < 30 && socket.writableLength > 0; turn++) {
    await new Promise<void>((resolve) => {
      if (turn < 20) setImmediate(resolve);
      else setTimeout(resolve, 10);
    });
  }
}

/** Runs `use` with the two sockets of a connection. The far one is paused. */
async function withSockets(use: (near: Socket, far: Socket) => Promise<void>): Promise<void> {
  const server = createServer({ allowHalfOpen: true, highWaterMark: READ_AHEAD_BYTES });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const accepting = once(server, "connection");
  const far = connect({
    port: (server.address() as AddressInfo).port,
    host: "127.0.0.1",
    allowHalfOpen: true,
  });
  far.pause();
  far.on("error", () => {});
  const [near] = (await accepting) as [Socket];
  try {
    await use(near, far);
  } finally {
    far.destroy();
    near.destroy();
    server.close();
  }
}
