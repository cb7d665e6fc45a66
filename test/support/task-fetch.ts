/**
 * Test program: downloads a task to a file over TCP, for tests that kill and restart it. At the end
 * it prints `resumed` and the number of pieces that an earlier process had downloaded.
 */
import process from "node:process";
import { fileSink } from "../../adapters/files/sink.ts";
import { runtimeApi } from "../../entry/runtime-api.ts";
import type { TaskStreamOptions } from "../../src/task/task.ts";

/** Command-line argument of this test program, as JSON. */
export interface TaskFetchOptions {
  readonly request: TaskStreamOptions;
  readonly path: string;
}

const { request, path } = JSON.parse(process.argv[2] ?? "{}") as TaskFetchOptions;
const entry = runtimeApi(() => Promise.reject(new Error("no QUIC here")));
await using downloader = entry.createDownloader({
  protocol: "tcp",
  stallTimeout: 300_000,
  connectTimeout: 60_000,
});
const { resumedPieces } = await downloader.downloadTask({ ...request, to: fileSink(path) });
console.log(`resumed ${resumedPieces}`);
