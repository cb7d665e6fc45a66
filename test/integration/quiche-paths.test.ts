import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { quicheTransport } from "../../adapters/quiche/lazy-transport.ts";
import type { QuicheOptions } from "../../adapters/quiche/options.ts";
import type { ByteStream } from "../../src/transport/transport.ts";
import { quicheFixture } from "../support/fixtures.ts";
import { readAll } from "../support/hostile.ts";
import { seededBytes } from "../support/random.ts";
import { type UdpRelayOptions, udpRelay } from "../support/udp-relay.ts";

const reason = "Deno has its own QUIC";
const skip = quicheFixture === undefined ? { skip: reason } : { timeout: 60_000 };
const name = (test: string): string =>
  quicheFixture === undefined ? `${test} [gap: ${reason}]` : test;

const CONTENT = seededBytes(1, 3_000_000);

describe("quiche's datagram size on a path", () => {
  it(name("is large within one host, and safe for any path when configured so"), skip, async () => {
    assert.ok((await longestDatagram({})) > 15_000);
    assert.ok((await longestDatagram({ udpPayloadSize: 1350 })) <= 1350);
  });

  it(
    name("falls back to the safe size when the path drops large datagrams, and all bytes arrive"),
    skip,
    async () => {
      const sizes: number[] = [];
      const passed = await longestDatagram(
        {},
        { drop: ({ length }) => length > 1400 && sizes.push(length) > 0 },
      );
      assert.ok(sizes.length > 0, "no datagram was large");
      assert.ok(passed <= 1350, `${passed}`);
    },
  );

  it(name("falls back while small datagrams are acknowledged all the time"), skip, async () => {
    const sizes: number[] = [];
    const passed = await longestDatagram(
      {},
      { drop: ({ length }) => length > 1400 && sizes.push(length) > 0 },
      true,
    );
    assert.ok(sizes.length > 0, "no datagram was large");
    assert.ok(passed <= 1350, `${passed}`);
  });
});

/**
 * Sends content through a relay. Returns the length of the longest datagram passed to the client.
 *
 * @param talking runs streams of one byte meanwhile
 */
async function longestDatagram(
  options: QuicheOptions,
  relaying: UdpRelayOptions = {},
  talking = false,
): Promise<number> {
  let longest = 0;
  const server = await quicheTransport(options);
  const listener = await server.listen({ host: "127.0.0.1", port: 0 });
  const relay = await udpRelay(listener.address, {
    drop(datagram, fromClient) {
      if (relaying.drop?.(datagram, fromClient)) return true;
      if (!fromClient) longest = Math.max(longest, datagram.length);
      return false;
    },
  });
  const client = await quicheTransport({ ...options, tls: { verify: false } });
  const connection = await client.dial(relay.address, { signal: AbortSignal.timeout(20_000) });
  try {
    const serve = async (stream: ByteStream): Promise<void> => {
      const small = (await readAll(stream)).length > 0;
      await stream.writer.end(small ? Uint8Array.of(1) : CONTENT);
    };
    const serving = (async () => {
      for await (const accepted of listener.accept()) {
        for await (const stream of accepted.accept()) void serve(stream).catch(() => {});
      }
    })();
    let over = false;
    const talk = async (): Promise<void> => {
      while (!over) {
        const stream = await connection.openStream();
        await stream.writer.end(Uint8Array.of(1));
        assert.equal((await readAll(stream)).length, 1);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    };
    const talks = talking ? talk() : undefined;
    const stream = await connection.openStream();
    await stream.writer.end();
    assert.deepEqual(await readAll(stream), CONTENT);
    over = true;
    await talks;
    await listener.close({ grace: 0 });
    await serving;
    return longest;
  } finally {
    await connection.close({ grace: 0 });
    await listener.close({ grace: 0 });
    await relay.close();
  }
}
