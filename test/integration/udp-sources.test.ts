/** Datagrams from sources that cannot be answered: a QUIC server drops them, and serves on. */
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
  quicheFixture === undefined
    ? "quiche is for Node and Bun, Deno has a QUIC of its own"
    : undefined;

/** Why a binding fails, by its name among the fixtures. */
const silenced: Readonly<Record<string, string>> = {
  "node-quic":
    "BUG: Bun 1.4's node:quic sends a datagram that the system refuses again and again, and nothing else meanwhile; it is no default",
};

describe("a datagram from port 0", () => {
  test("is dropped and counted by quiche, whatever it holds", notHere, async () => {
    const transport = await transportOf(quicheFixture);
    const datagrams = await strangeFirsts(transport);
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
    test(`leaves a server serving, over ${name}`, noRawUdp ?? silenced[name], async () => {
      const transport = await fixture.transport();
      const datagrams = await strangeFirsts(transport);
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

describe("datagrams of lengths at the bounds, from sources that no honest client has", () => {
  for (const host of ["127.0.0.1", "::"]) {
    test(
      `end no callback of quiche on ${host}, whatever the socket tells of their source`,
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
    test(`of every length, leave a server serving, over ${name}`, undefined, async () => {
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
      const gap =
        noRawUdp ?? (name in silenced && isSilencing(source) ? silenced[name] : undefined);
      test(`from ${source}, leave a server serving, over ${name}`, gap, async () => {
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
  it("is lost and counted, and those after it go out", () => {
    const sent: number[] = [];
    // As much of a socket as a ring needs.
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

/** Whether Linux refuses to send an answer to such a source. */
function isSilencing(source: string): boolean {
  return /^port 0|broadcast|without a (?:route|zone)/.test(source);
}

/** First datagrams that a server has an answer for, and one that it has none for. */
async function strangeFirsts(transport: Transport): Promise<readonly Uint8Array[]> {
  const initial = await firstDatagram(transport);
  return [initial, unknownVersion(initial), Uint8Array.from(initial, () => 0x40)];
}

/** A client dials, and has a byte echoed. */
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
  if (fixture === undefined) throw new TypeError("there is no such transport here");
  return fixture.transport();
}

/** `it`, or a skip with its reason in the name. */
function test(name: string, gap: string | undefined, run: () => Promise<void>): void {
  if (gap === undefined) it(name, { timeout: 60_000 }, run);
  else it(`${name} [gap: ${gap}]`, { skip: gap }, run);
}
