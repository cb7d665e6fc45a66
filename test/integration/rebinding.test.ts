/** Connections survive repeated rebinding by a NAT between client and server. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { selfSigned } from "../../adapters/shared/tls.ts";
import type { PieceDownloader } from "../../src/client/downloader.ts";
import { formatAddress, parseAddress } from "../../src/transport/address.ts";
import { runtimeName } from "../support/fixtures.ts";
import { joined } from "../support/random.ts";
import {
  longContent,
  longTaskId,
  type RestartOrders,
  restartContent,
  restartTaskId,
} from "../support/restart.ts";
import { type RuntimeName, runners, startProgram } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";
import { type UdpRelay, udpRelay } from "../support/udp-relay.ts";

/** Number of rebindings, more than the paths that quiche 0.18 keeps by default. */
const REBINDING_COUNT = 20;
const CHUNK = 512 * 1024;

const { createDownloader } = await runtimeEntry();
const identity = await selfSigned();

const oldPath =
  "BUG: a server on quiche 0.18 retransmits in-flight data of the old address two packets at a time, and doubles the wait each time";
/**
 * Reason why a server of a runtime cannot continue an answer across rebindings; undefined if it
 * can.
 */
const gaps: Readonly<Record<RuntimeName, string | undefined>> = {
  node: oldPath,
  bun: oldPath,
  deno: undefined,
};

for (const runtime of ["node", "bun", "deno"] as const) {
  const command = runners[runtime];
  const missing = typeof command === "string" ? command : undefined;
  // In the name, because some runners do not print skip reasons.
  const named = (title: string, gap: string | undefined): string =>
    gap === undefined ? title : `${title} [gap: ${gap}]`;
  describe(`a NAT that rebinds between a ${runtimeName} client and a ${runtime} server, over QUIC`, () => {
    it(
      named(`${REBINDING_COUNT} times: requests need no new connection each time`, missing),
      { timeout: 120_000, skip: missing !== undefined },
      () =>
        withServer(runtime, async ({ downloader, relay, addr, initials }) => {
          const get = async (number: number): Promise<void> => {
            const piece = await downloader.downloadPiece({
              addr,
              hostId: "host",
              taskId: restartTaskId,
              number,
            });
            assert.deepEqual(
              await piece.bytes(),
              restartContent.subarray(number * 1000, (number + 1) * 1000),
            );
          };
          await get(0);
          const handshake = initials();
          for (let binding = 0; binding < REBINDING_COUNT; binding++) {
            relay.rebind();
            await get(binding % 10);
          }
          // On a slow machine the pool may probe, and dial a second connection.
          const dialled = initials() - handshake;
          assert.ok(dialled < REBINDING_COUNT, `${dialled} Initial packets after the first dial`);
        }),
    );

    const gap = missing ?? gaps[runtime];
    it(
      named("repeatedly in the middle of an answer: the answer completes", gap),
      { timeout: 120_000, skip: gap !== undefined },
      () =>
        withServer(runtime, async ({ downloader, relay, addr }) => {
          const piece = await downloader.downloadPiece({
            addr,
            hostId: "host",
            taskId: longTaskId,
            number: 0,
          });
          const chunks: Uint8Array[] = [];
          let received = 0;
          for (let chunk = await piece.read(); chunk !== undefined; chunk = await piece.read()) {
            const before = Math.floor(received / CHUNK);
            received += chunk.length;
            if (Math.floor(received / CHUNK) > before) relay.rebind();
            chunks.push(chunk);
          }
          assert.deepEqual(joined(chunks), longContent);
        }),
    );
  });
}

interface TestContext {
  readonly downloader: PieceDownloader;
  readonly relay: UdpRelay;
  /** Address of the relay in front of the server. */
  readonly addr: string;
  /** Returns the number of Initial packets sent by the client (RFC 9000, section 17.2.2). */
  initials(): number;
}

async function withServer(
  runtime: RuntimeName,
  use: (scene: TestContext) => Promise<void>,
): Promise<void> {
  const command = runners[runtime];
  if (typeof command === "string") throw new Error(command);
  const orders: RestartOrders = { identity, port: 0 };
  const server = startProgram([
    ...command,
    "test/support/restart-peer.ts",
    runtime,
    JSON.stringify(orders),
  ]);
  let initials = 0;
  const relay = await udpRelay(parseAddress(await server.line()), {
    drop(datagram, fromClient) {
      if (fromClient && ((datagram[0] ?? 0) & 0xf0) === 0xc0) initials++;
      return false;
    },
  });
  const downloader = createDownloader({
    protocol: "quic",
    tls: { ca: identity.cert },
    connectTimeout: 20_000,
  });
  try {
    await use({ downloader, relay, addr: formatAddress(relay.address), initials: () => initials });
  } finally {
    await downloader.close();
    await relay.close();
    server.kill();
    await server.ended;
  }
}
