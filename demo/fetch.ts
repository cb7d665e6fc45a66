/**
 * Fetches a task piece by piece over one protocol, writes it to a file, and hashes it meanwhile.
 */
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { type Piece, pieceExtent, planTask } from "../entry/core.ts";
import { runtimeEntry } from "./load-runtime.ts";
import type { FetchOrder, FetchReport } from "./reports.ts";

const { createDownloader } = await runtimeEntry();
const order = JSON.parse(process.argv[2] ?? "") as FetchOrder;
const { protocol, taskId } = order;
const plan = planTask(order.contentLength, order.pieceLength);
const concurrency = Number(order.concurrency);

await using downloader = createDownloader({
  protocol,
  ...(protocol === "quic" && { tls: { fingerprints: [order.fingerprint] } }),
});
const file = await open(order.output, "w");
const hash = createHash("sha256");
const started = performance.now();
const cpuBefore = process.cpuUsage();

// Up to `concurrency` pieces are in flight. They are consumed in order, so that one pass hashes the
// whole content.
const underWay: Promise<Uint8Array>[] = [];
let done = 0;
for (let number = 0; number < plan.pieceCount; number++) {
  while (underWay.length < concurrency && number + underWay.length < plan.pieceCount) {
    const content = fetchPiece(number + underWay.length);
    content.catch(() => {});
    underWay.push(content);
  }
  const content = await underWay.shift();
  if (content === undefined) break;
  hash.update(content);
  await file.write(content, 0, content.length, pieceExtent(plan, number).offset);
  done += content.length;
  if (process.stderr.isTTY) {
    const rate = done / 1e6 / ((performance.now() - started) / 1000);
    process.stderr.write(
      `\r${protocol}: ${Math.floor((100 * done) / plan.contentLength)} %, ${rate.toFixed(0)} MB/s `,
    );
  }
}
if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");
const seconds = (performance.now() - started) / 1000;
const cpu = process.cpuUsage(cpuBefore);
await file.close();

const report: FetchReport = {
  protocol,
  bytes: done,
  seconds,
  cpuSeconds: (cpu.user + cpu.system) / 1e6,
  peakMemory: process.resourceUsage().maxRSS * 1024,
  sha256: hash.digest("hex"),
};
console.log(JSON.stringify(report));

async function fetchPiece(number: number): Promise<Uint8Array> {
  const piece: Piece = await downloader.downloadPiece({
    addr: order.addresses[protocol],
    hostId: "demo",
    taskId,
    number,
  });
  const { offset, length } = pieceExtent(plan, number);
  if (piece.offset !== offset || piece.length !== length) {
    throw new Error(
      `piece ${number} is ${piece.length} bytes at ${piece.offset}, expected ${length} at ${offset}`,
    );
  }
  return piece.bytes();
}
