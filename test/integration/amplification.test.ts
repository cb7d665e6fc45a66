/**
 * Anti-amplification limit of QUIC servers: an unvalidated address gets at most three times the
 * bytes received from it (RFC 9000, section 8.1). Counted at plain UDP sockets.
 */
import assert from "node:assert/strict";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { describe } from "node:test";
import { itUnlessGap, type TransportFixture } from "../support/fixture.ts";
import { fixtures } from "../support/fixtures.ts";

/**
 * Time in ms in which answers are counted; long enough for several retransmissions by the server.
 */
const COUNT_DURATION_MS = 3000;
const MAX_AMPLIFICATION = 3;
const TITLE = "receives at most three times the bytes it sent";
/** Fixtures whose QUIC exceeds the limit, with the observation. */
const gaps: Readonly<Record<string, string>> = {
  "deno-quic": "Deno's own QUIC was seen to send 3,738 bytes for 1,200",
};

for (const [name, fixture] of Object.entries(fixtures)) {
  if (fixture.overUdp !== true) continue;
  const gap = gaps[name];
  describe(`an address that is not validated, over ${name}`, () =>
    itUnlessGap({ gaps: gap === undefined ? {} : { [TITLE]: gap } }, TITLE, () =>
      amplification(fixture),
    ));
}

/** Sends one first datagram and nothing more, like an attacker with a spoofed source address. */
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
      setTimeout(resolve, COUNT_DURATION_MS);
    });
    assert.ok(got <= MAX_AMPLIFICATION * sent.length, `${got} bytes for ${sent.length}`);
  } finally {
    victim.close();
    await listener.close({ grace: 0 });
  }
}

/** Captures the first datagram of a client of this transport. */
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
