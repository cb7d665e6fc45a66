/**
 * What a QUIC server sends to an address that has not shown to be the sender's: no more than three times what came from it
 * (RFC 9000, section 8.1), so that nobody can have a flood sent to others. Counted at plain UDP sockets.
 */
import assert from "node:assert/strict";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { describe } from "node:test";
import { itUnlessGap, type TransportFixture } from "../support/fixture.ts";
import { fixtures } from "../support/fixtures.ts";

/** Milliseconds in which answers are counted: time for the server to repeat itself several times. */
const COUNTED = 3000;
const LIMIT = 3;
const NAME = "is sent no more than three times what came from it";
/** Where the runtime's own QUIC does not hold to it. */
const gaps: Readonly<Record<string, string>> = {
  "deno-quic": "Deno's own QUIC was seen to send 3,738 bytes for 1,200",
};

for (const [name, fixture] of Object.entries(fixtures)) {
  if (fixture.overUdp !== true) continue;
  const gap = gaps[name];
  describe(`an address that is not validated, over ${name}`, () =>
    itUnlessGap({ gaps: gap === undefined ? {} : { [NAME]: gap } }, NAME, () =>
      amplification(fixture),
    ));
}

/** One first datagram from one address, whose owner never says another word: as if somebody else had sent it in his name. */
async function amplification(fixture: TransportFixture): Promise<void> {
  const sent = await firstDatagram(fixture);
  const listener = await (await fixture.transport()).listen(fixture.listenAddress);
  const victim = await boundSocket();
  let got = 0;
  victim.on("message", (datagram) => {
    got += datagram.length;
  });
  try {
    victim.send(sent, listener.address.port, "127.0.0.1");
    await once(victim, "message");
    await new Promise<void>((resolve) => {
      setTimeout(resolve, COUNTED);
    });
    assert.ok(got <= LIMIT * sent.length, `${got} bytes for ${sent.length}`);
  } finally {
    victim.close();
    await listener.close({ grace: 0 });
  }
}

/** What a client of this transport sends first. */
async function firstDatagram(fixture: TransportFixture): Promise<Uint8Array> {
  const socket = await boundSocket();
  const controller = new AbortController();
  const transport = await fixture.transport();
  const { port } = socket.address();
  const dialling = transport
    .dial({ host: "127.0.0.1", port }, { signal: controller.signal })
    .catch(() => {});
  const [datagram] = (await once(socket, "message")) as [Uint8Array];
  const copy = Uint8Array.from(datagram);
  controller.abort();
  await dialling;
  socket.close();
  return copy;
}

async function boundSocket(): Promise<Socket> {
  const socket = createSocket("udp4");
  socket.bind({ address: "127.0.0.1", port: 0 });
  await once(socket, "listening");
  return socket;
}
