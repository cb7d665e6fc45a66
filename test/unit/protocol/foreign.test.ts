import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { TcpDownloader } from "../../../src/client/vortex/downloader.ts";
import { foreignProtocol } from "../../../src/protocol/foreign.ts";
import { encodePacket } from "../../../src/protocol/packet.ts";
import { formatAddress } from "../../../src/transport/address.ts";
import { MemoryTransport } from "../../../src/transport/memory.ts";
import { rejectionOf } from "../../support/failures.ts";
import { fakeRuntime } from "../../support/fake-clock.ts";
import { ScriptedServer } from "../../support/hostile.ts";

const utf8 = (text: string): number[] => [...new TextEncoder().encode(text)];
const taskId = "a1".repeat(32);

/** First bytes of real services. */
const heads: readonly (readonly [
  service: string,
  head: readonly number[],
  protocol: string,
  hint: RegExp,
])[] = [
  ["SETTINGS of node:http2", [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0], "HTTP/2", /gRPC port/],
  ["SETTINGS of hyper", [0, 0, 24, 4, 0, 0, 0, 0, 0, 0, 4, 0, 32, 0, 0], "HTTP/2", /gRPC port/],
  ["SETTINGS without a setting", [0, 0, 0, 4, 0, 0, 0, 0, 0], "HTTP/2", /gRPC port/],
  ["GOAWAY", [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "HTTP/2", /gRPC port/],
  ["a status line", utf8("HTTP/1.1 400 Bad Request\r\n\r\n"), "HTTP/1", /Vortex port/],
  ["a TLS alert", [21, 3, 3, 0, 2, 2, 70], "TLS", /gRPC port/],
];

describe("an answer of another protocol", () => {
  for (const [service, head, protocol, hint] of heads) {
    it(`${service} is ${protocol}`, () => {
      assert.equal(foreignProtocol(Uint8Array.from(head)), protocol);
    });

    it(`${service}, in one chunk or byte by byte, is ProtocolNotSupported with an alternative`, async () => {
      for (const size of [head.length, 1]) {
        const transport = new MemoryTransport("tcp");
        const server = await ScriptedServer.listen(
          transport,
          { host: "peer", port: 4000 },
          async (exchange) => {
            for (let at = 0; at < head.length; at += size) {
              if (!(await exchange.send(Uint8Array.from(head.slice(at, at + size))))) return;
            }
            await exchange.finish();
          },
        );
        const downloader = new TcpDownloader(
          async () => transport,
          downloaderSettings({}, fakeRuntime()),
        );
        const addr = formatAddress(server.address);
        const { code, message } = await rejectionOf(
          downloader.downloadPiece({ addr, hostId: "me", taskId, number: 0 }),
        );
        assert.equal(code, "ProtocolNotSupported");
        assert.ok(message.startsWith(`wrong protocol at ${addr}: expected Vortex`), message);
        assert.ok(message.includes(`, got ${protocol};`), message);
        assert.match(message, hint);
        await downloader.close();
        await server.close();
      }
    });
  }

  it("is not detected in packets, or in too few bytes", () => {
    const packets = [
      encodePacket({ type: "download-piece", id: 0, kind: "standard", taskId, number: 0 }),
      encodePacket({ type: "close", id: 0 }),
      encodePacket({ type: "error", id: 0, code: 2, message: "HTTP/1.1" }),
    ];
    for (const packet of packets) assert.equal(foreignProtocol(packet), undefined);
    for (const head of [
      [],
      utf8("HTTP/"),
      // SETTINGS on stream 1, of an invalid length, with a flag; GOAWAY too short; another frame;
      // no stream ID yet.
      [0, 0, 6, 4, 0, 0, 0, 0, 1],
      [0, 0, 7, 4, 0, 0, 0, 0, 0],
      [0, 0, 0, 4, 1, 0, 0, 0, 0],
      [0, 0, 7, 7, 0, 0, 0, 0, 0],
      [0, 0, 6, 6, 0, 0, 0, 0, 0],
      [0, 1, 6, 4, 0, 0, 0, 0, 0],
      [1, 0, 6, 4, 0, 0, 0, 0, 0],
      [0, 0, 6, 4, 0],
      // More than an alert, and other records.
      [21, 3, 3, 0, 2, 2, 70, 0],
      [22, 3, 3, 0, 2, 2, 70],
      [21, 2, 3, 0, 2, 2, 70],
      [21, 3, 3, 1, 2, 2, 70],
      [21, 3, 3, 0, 3, 2, 70],
    ]) {
      assert.equal(foreignProtocol(Uint8Array.from(head)), undefined, head.join(" "));
    }
  });
});
