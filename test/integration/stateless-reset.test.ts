/** Stateless resets (RFC 9000, section 10.3) sent by servers on quiche: effect and limits. */
import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { describe, it } from "node:test";
import {
  type QuicheTransportOptions,
  quicheTransport,
} from "../../adapters/quiche/lazy-transport.ts";
import { StatelessResets } from "../../adapters/quiche/stateless-reset.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import type { Listener, Transport } from "../../src/transport/transport.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { nodeQuicFixture, quicheFixture } from "../support/fixtures.ts";
import { udpRelay } from "../support/udp-relay.ts";

const reason = "Deno has its own QUIC";
const skip = quicheFixture === undefined ? { skip: reason } : { timeout: 60_000 };
const name = (test: string): string =>
  quicheFixture === undefined ? `${test} [gap: ${reason}]` : test;
const local = { host: "127.0.0.1", port: 0 };
const id = new Uint8Array(16).fill(3);

describe("the stateless resets of a server", () => {
  it("are recognised by clients of an earlier process with the same key, and by no others", async () => {
    const [one, other] = [await selfSigned(), await selfSigned()];
    const token = (key: string): string =>
      String(new StatelessResets(key, new FakeClock()).tokenNumberOf(id));
    assert.equal(token(one.key), token(one.key));
    assert.notEqual(token(one.key), token(other.key));
    const resets = new StatelessResets(one.key, new FakeClock());
    assert.notEqual(resets.tokenNumberOf(id), resets.tokenNumberOf(new Uint8Array(16).fill(4)));
  });

  it("are shorter than the packet they answer, and look like a regular packet", async () => {
    const resets = new StatelessResets((await selfSigned()).key, new FakeClock());
    const into = new Uint8Array(1200);
    for (const received of [0, 1, 17, 20, 21])
      assert.equal(resets.writeReset(received, id, into), 0, `${received}`);
    for (const received of [22, 23, 40, 43, 44, 100, 1200, 65_507]) {
      const length = resets.writeReset(received, id, into);
      assert.equal(length, Math.min(received - 1, 42));
      assert.equal((into[0] ?? 0) & 0xc0, 0x40);
      assert.deepEqual(into.slice(length - 16, length), Uint8Array.from(resets.tokenOf(id)));
    }
  });

  it("are limited to 1,000 a second", async () => {
    const clock = new FakeClock();
    const resets = new StatelessResets((await selfSigned()).key, clock);
    const into = new Uint8Array(64);
    const sent = (): number =>
      Array.from({ length: 3000 }, () => resets.writeReset(50, id, into)).filter(Boolean).length;
    assert.equal(sent(), 1000);
    await clock.advance(500);
    assert.equal(sent(), 500);
    await clock.advance(60_000);
    assert.equal(sent(), 1000);
  });
});

describe("a server on quiche that does not know a connection", () => {
  const clients: Readonly<Record<string, (() => Promise<Transport>) | undefined>> = {
    quiche: quicheFixture && (() => quicheTransport({ tls: { verify: false } })),
    "node-quic": nodeQuicFixture?.transport,
  };
  for (const [client, transport] of Object.entries(clients)) {
    if (transport === undefined) continue;
    it(name(`ends it at its client's next packet: ${client}`), skip, async () => {
      const identity = await selfSigned();
      const [before, after] = [
        await served({ serverTls: identity }),
        await served({ serverTls: identity }),
      ];
      const relay = await udpRelay(before.address);
      try {
        const connection = await (await transport()).dial(relay.address);
        const stream = await connection.openStream();
        await stream.writer.write(Uint8Array.of(1));
        // The idle timeout is 60 seconds.
        relay.retarget(after.address);
        relay.rebind();
        await stream.writer.write(Uint8Array.of(2));
        const { error, remote } = await connection.closed;
        assert.deepEqual([error.code, remote], ["ConnectionLost", false]);
      } finally {
        await relay.close();
        await Promise.all([before.close({ grace: 0 }), after.close({ grace: 0 })]);
      }
    });
  }

  it(name("does not answer long headers, or packets too short for a reset"), skip, async () => {
    const listener = await served({});
    const socket = createSocket("udp4");
    socket.bind(0, "127.0.0.1");
    await once(socket, "listening");
    try {
      const lengths: number[] = [];
      socket.on("message", ({ length }) => lengths.push(length));
      // A long header of a supported version, and short headers.
      send(socket, listener, packet(0xc0, 300));
      for (const length of [1, 17, 21]) send(socket, listener, packet(0x40, length));
      // On loopback, datagrams between two sockets keep their order.
      send(socket, listener, packet(0x40, 30));
      await once(socket, "message");
      assert.deepEqual(lengths, [29]);
    } finally {
      socket.close();
      await listener.close({ grace: 0 });
    }
  });
});

async function served(options: QuicheTransportOptions): Promise<Listener> {
  const listener = await (await quicheTransport(options)).listen(local);
  void (async () => {
    for await (const connection of listener.accept()) void connection.closed;
  })();
  return listener;
}

function packet(first: number, length: number): Uint8Array {
  const datagram = randomFillSync(new Uint8Array(length));
  datagram.set([first, 0, 0, 0, 1, 8].slice(0, length));
  return datagram;
}

function send(socket: Socket, listener: Listener, datagram: Uint8Array): void {
  socket.send(datagram, listener.address.port, listener.address.host);
}
