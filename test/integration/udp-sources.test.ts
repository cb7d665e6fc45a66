/** A QUIC server drops datagrams from sources that cannot be answered, and keeps serving. */
import assert from "node:assert/strict";
import { createSocket, type Socket } from "node:dgram";
import { describe, it } from "node:test";
import { SendRing } from "../../adapters/quiche/datagrams.ts";
import type { Listener, Transport } from "../../src/transport/transport.ts";
import { firstDatagram, unknownVersion } from "../support/first-datagram.ts";
import type { TransportFixture } from "../support/fixture.ts";
import { fixtures, quicheFixture } from "../support/fixtures.ts";
import { openQuicheListener } from "../support/quiche-listener.ts";
import { noRawUdp, RawUdp } from "../support/raw-udp.ts";
import { isOverIpv6, SOURCES, strangePayloads } from "../support/strange-datagrams.ts";

const loopback = { host: "127.0.0.1", port: 0 };
const notHere =
  quicheFixture === undefined ? "quiche is for Node and Bun; Deno has a built-in QUIC" : undefined;

/** Reason why a binding stops serving, by fixture name. */
const gaps: Readonly<Record<string, string>> = {
  "node-quic":
    "BUG: Bun 1.4's node:quic retries a datagram that the system refuses, and sends nothing else meanwhile; it is opt-in",
};

describe("a datagram from port 0", () => {
  test("is dropped and counted by quiche, regardless of its content", notHere, async () => {
    const transport = await transportOf(quicheFixture);
    const datagrams = await firstDatagrams(transport);
    const { listener, receive } = await openQuicheListener(loopback);
    try {
      for (const datagram of datagrams) receive(datagram, { host: "127.0.0.1", port: 0 });
      await assertServes(transport, listener);
      assert.deepEqual(listener.counters, { unanswerable: datagrams.length, unsent: 0, caught: 0 });
    } finally {
      await listener.close({ grace: 0 });
    }
  });

  for (const [name, fixture] of Object.entries(fixtures)) {
    if (fixture.overUdp !== true) continue;
    test(`does not stop a server, over ${name}`, noRawUdp ?? gaps[name], async () => {
      const transport = await fixture.transport();
      const datagrams = await firstDatagrams(transport);
      const listener = await transport.listen(loopback);
      try {
        await using raw = RawUdp.start();
        for (const payload of datagrams) {
          const refused = await raw.send({
            from: { host: "127.0.0.1", port: 0 },
            to: listener.address,
            payload,
          });
          assert.equal(refused, undefined);
        }
        await assertServes(transport, listener);
      } finally {
        await listener.close({ grace: 0 });
        await transport.close?.();
      }
    });
  }
});

describe("datagrams of boundary lengths, from sources that no honest client has", () => {
  for (const host of ["127.0.0.1", "::"]) {
    test(
      `cause no exception in quiche on ${host}, for any source reported by the socket`,
      notHere,
      async () => {
        const transport = await transportOf(quicheFixture);
        const initial = await firstDatagram(transport);
        const { listener, receive } = await openQuicheListener({ host, port: 0 });
        try {
          for (const from of Object.values(SOURCES)) {
            if (isOverIpv6(from) !== isOverIpv6({ host, port: 0 })) continue;
            for (const payload of strangePayloads(initial, false)) receive(payload, from);
          }
          await assertServes(transport, listener);
          assert.equal(listener.counters?.caught, 0);
        } finally {
          await listener.close({ grace: 0 });
        }
      },
    );
  }

  for (const [name, fixture] of Object.entries(fixtures)) {
    if (fixture.overUdp !== true) continue;
    test(`of every length, do not stop a server, over ${name}`, undefined, async () => {
      const transport = await fixture.transport();
      const initial = await firstDatagram(transport);
      const listener = await transport.listen(loopback);
      const socket = createSocket("udp4");
      try {
        for (const payload of strangePayloads(initial, false)) {
          await new Promise((resolve) =>
            socket.send(payload, listener.address.port, "127.0.0.1", resolve),
          );
        }
        await assertServes(transport, listener);
      } finally {
        socket.close();
        await listener.close({ grace: 0 });
        await transport.close?.();
      }
    });

    for (const [source, from] of Object.entries(SOURCES)) {
      if (from.host.includes("%")) continue;
      const gap = noRawUdp ?? (name in gaps && isSilencing(source) ? gaps[name] : undefined);
      test(`from ${source}, do not stop a server, over ${name}`, gap, async () => {
        const transport = await fixture.transport();
        const initial = await firstDatagram(transport);
        const overIpv6 = isOverIpv6(from);
        const listener = await transport.listen({ host: overIpv6 ? "::" : "127.0.0.1", port: 0 });
        const { port } = listener.address;
        try {
          await using raw = RawUdp.start();
          for (const payload of strangePayloads(initial, overIpv6)) {
            await raw.send({ from, to: { host: overIpv6 ? "::1" : "127.0.0.1", port }, payload });
          }
          await assertServes(transport, listener);
        } finally {
          await listener.close({ grace: 0 });
          await transport.close?.();
        }
      });
    }
  }
});

describe("a datagram that the socket refuses", () => {
  it("is dropped and counted, and later ones are sent", () => {
    const sent: number[] = [];
    // The socket methods used by the send ring.
    const socket = {
      getSendQueueCount: () => 0,
      send(_buffer: Uint8Array, _offset: number, length: number, port: number) {
        if (port === 0) throw new RangeError("Port should be > 0 and < 65536");
        sent.push(length);
      },
    };
    const ring = new SendRing(socket as unknown as Socket, 1200);
    ring.send(1, 9, "127.0.0.1");
    ring.send(2, 0, "127.0.0.1");
    ring.send(3, 9, "127.0.0.1");
    assert.deepEqual([sent, ring.unsent], [[1, 3], 1]);
  });
});

/** Returns true if Linux refuses to send an answer to a source of this kind. */
function isSilencing(source: string): boolean {
  return /^port 0|broadcast|without a (?:route|zone)/.test(source);
}

/** Creates first datagrams that a server answers, and one that it ignores. */
async function firstDatagrams(transport: Transport): Promise<readonly Uint8Array[]> {
  const initial = await firstDatagram(transport);
  return [initial, unknownVersion(initial), Uint8Array.from(initial, () => 0x40)];
}

/** Asserts that a client can dial the listener and exchange a byte. */
async function assertServes(transport: Transport, listener: Listener): Promise<void> {
  const serving = (async () => {
    for await (const connection of listener.accept()) {
      for await (const { reader, writer } of connection.accept()) {
        const chunk = await reader.read();
        await writer.end(chunk);
        return;
      }
    }
  })();
  const { port } = listener.address;
  const connection = await transport.dial(
    { host: "127.0.0.1", port },
    { signal: AbortSignal.timeout(8_000) },
  );
  const { reader, writer } = await connection.openStream();
  await writer.end(Uint8Array.of(7));
  assert.deepEqual(await reader.read(), Uint8Array.of(7));
  await serving;
  await connection.close({ grace: 0 });
}

function transportOf(fixture: TransportFixture | undefined): Promise<Transport> {
  if (fixture === undefined) throw new TypeError("this runtime has no such transport");
  return fixture.transport();
}

/** Defines a test, or a skipped test with the reason in its name. */
function test(name: string, gap: string | undefined, run: () => Promise<void>): void {
  if (gap === undefined) it(name, { timeout: 60_000 }, run);
  else it(`${name} [gap: ${gap}]`, { skip: gap }, run);
}
