/** Fetches all pieces of a task once, and tells how fast that went. */
import { createDownloader } from "../adapters/node.ts";
import type { ServeReport } from "../demo/reports.ts";

/** What is to be fetched, and how. */
export interface PieceRun extends ServeReport {
  readonly protocol: "quic" | "tcp" | "grpc";
  readonly concurrency: number;
}

/** How it went. */
export interface PieceRunResult {
  /** MB/s, 10^6 bytes. */
  readonly rate: number;
  readonly cpuPerGigabyte: number;
}

const run = JSON.parse(process.argv[2] ?? "") as PieceRun;
const { protocol, taskId, pieceCount } = run;
await using downloader = createDownloader({ protocol, tls: { fingerprints: [run.fingerprint] } });
const fetchPiece = async (number: number): Promise<number> => {
  const request = { addr: run.addresses[protocol], hostId: "bench", taskId, number };
  return (await (await downloader.downloadPiece(request)).bytes()).length;
};

// The connection is made and the code is warm before the clock starts.
await fetchPiece(0);
const started = performance.now();
const cpuBefore = process.cpuUsage();
let next = 0;
let bytes = 0;
await Promise.all(
  Array.from({ length: run.concurrency }, async () => {
    while (next < pieceCount) {
      const length = await fetchPiece(next++);
      bytes += length;
    }
  }),
);
const seconds = (performance.now() - started) / 1000;
const cpu = process.cpuUsage(cpuBefore);
const result: PieceRunResult = {
  rate: bytes / 1e6 / seconds,
  cpuPerGigabyte: (cpu.user + cpu.system) / 1e6 / (bytes / 1e9),
};
console.log(JSON.stringify(result));
