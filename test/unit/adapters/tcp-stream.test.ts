import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { it } from "node:test";
import { setImmediate } from "node:timers";
import { Guard } from "../../../adapters/shared/guard.ts";
import { READ_AHEAD, SocketStream } from "../../../adapters/tcp/stream.ts";
import { assertRejects } from "../../support/failures.ts";

/** Little, so that several fit into the least buffer that a runtime gives a socket. */
const CHUNK = 4 * 1024;

it("an end that the kernel has not taken is waited for, and an abort gives it up", {
  timeout: 60_000,
}, async () => {
  await withSockets(async (near) => {
    const stream = new SocketStream(near, new Guard());
    // More than one chunk has found no room, and a writer is not told of it yet.
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

it("an end that the kernel has taken is not", { timeout: 60_000 }, async () => {
  await withSockets(async (near, far) => {
    const stream = new SocketStream(near, new Guard());
    await stream.writer.end(new Uint8Array(CHUNK));
    // Nor does an abort take it back.
    stream.writer.abort();
    let length = 0;
    for await (const chunk of far) length += (chunk as Uint8Array).length;
    assert.equal(length, CHUNK);
  });
});

/** Waits until all that was written has gone, or for so long that it has not. */
async function taken(socket: Socket): Promise<void> {
  for (let turn = 0; turn < 30 && socket.writableLength > 0; turn++) {
    await new Promise<void>((resolve) => {
      if (turn < 20) setImmediate(resolve);
      else setTimeout(resolve, 10);
    });
  }
}

/** Two ends of a connection, of which the far one is not read. */
async function withSockets(use: (near: Socket, far: Socket) => Promise<void>): Promise<void> {
  const server = createServer({ allowHalfOpen: true, highWaterMark: READ_AHEAD });
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
