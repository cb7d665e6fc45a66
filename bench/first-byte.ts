/**
 * Milliseconds from the call to the first byte of a piece's content over a round trip of `--rtt` milliseconds, put between by a
 * relay of datagrams: at a peer that was never met (cold), at one met before (resumed), and with early data (0-RTT). For the
 * QUIC of the runtime that runs this, through the public API.
 *
 *     node --import tsx bench/first-byte.ts [--rtt 50] [--rounds 11]
 *     bun bench/first-byte.ts
 *     deno run --allow-all --unstable-net bench/first-byte.ts
 */
import { parseArgs } from "node:util";
import { MemoryPieceStore } from "../src/server/memory-store.ts";
import { formatAddress } from "../src/transport/address.ts";
import { runtimeName } from "../test/support/fixtures.ts";
import { seededBytes } from "../test/support/random.ts";
import { udpRelay } from "../test/support/udp-relay.ts";

const { values } = parseArgs({
  options: { rtt: { type: "string", default: "50" }, rounds: { type: "string", default: "11" } },
});
const TASK = "ab".repeat(32);
const faces = {
  node: () => import("../adapters/node.ts"),
  bun: () => import("../adapters/bun.ts"),
  deno: () => import("../adapters/deno.ts"),
};
const { createDownloader, startServer } = await faces[runtimeName]();

const store = new MemoryPieceStore();
store.putTask(TASK, seededBytes(1, 16 * 1024));
const server = await startServer({ store, host: "127.0.0.1", quic: { port: 0 } });
const relay = await udpRelay(server.addresses.quic ?? { host: "", port: 0 }, { delay: Number(values.rtt) / 2 });
const request = { addr: formatAddress(relay.address), hostId: "bench", taskId: TASK, number: 0 };
const figures: Record<"cold" | "resumed" | "0-RTT", number[]> = { cold: [], resumed: [], "0-RTT": [] };

for (let round = 0; round < Number(values.rounds); round++) {
  for (const earlyData of [false, true]) {
    const downloader = createDownloader({
      protocol: "quic",
      earlyData,
      tls: { fingerprints: [server.fingerprint ?? ""] },
      // Each connection is given up after its request, so that the next one makes another.
      pool: { idleTimeout: 1, cleanupInterval: 1 },
    });
    figures.cold.push(await firstByte(downloader));
    await new Promise((resolve) => setTimeout(resolve, 4 * Number(values.rtt) + 50));
    figures[earlyData ? "0-RTT" : "resumed"].push(await firstByte(downloader));
    await downloader.close();
  }
}
await relay.close();
await server.close({ grace: 0 });

console.log(`| ${runtimeName}, round trip ${values.rtt} ms | median ms | least to most |`);
console.log("| --- | --- | --- |");
for (const [name, times] of Object.entries(figures)) {
  const sorted = times.toSorted((a, b) => a - b);
  const spread = `${sorted[0]?.toFixed(1)} to ${sorted.at(-1)?.toFixed(1)}`;
  console.log(`| ${name} | ${sorted[Math.floor(sorted.length / 2)]?.toFixed(1)} | ${spread} |`);
}

async function firstByte(downloader: ReturnType<typeof createDownloader>): Promise<number> {
  const started = performance.now();
  const piece = await downloader.downloadPiece(request);
  const reader = piece.content.getReader();
  await reader.read();
  const elapsed = performance.now() - started;
  while (!(await reader.read()).done);
  return elapsed;
}
