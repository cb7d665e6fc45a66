/**
 * Test program: downloads a task to a file over TCP, for tests that kill and restart it. At the end
 * it prints `resumed` and the number of pieces that an earlier process had downloaded.
 */
import process from "node:process";
import { fileSink } from "../../adapters/files/sink.ts";
import { faceOf } from "../../entry/face.ts";
import type { TaskRequest } from "../../src/task/task.ts";

/** Command-line argument of this test program, as JSON. */
export interface TaskFetchOptions {
  readonly request: TaskRequest;
  readonly path: string;
}

const { request, path } = JSON.parse(process.argv[2] ?? "{}") as TaskFetchOptions;
const face = faceOf(() => Promise.reject(new Error("no QUIC here")));
await using downloader = face.createDownloader({
  protocol: "tcp",
  stallTimeout: 300_000,
  connectTimeout: 60_000,
});
const { resumedPieces } = await downloader.downloadTask(request, { to: fileSink(path) }).done;
console.log(`resumed ${resumedPieces}`);
