/**
 * A download to a file in a process of its own, for tests that kill it. Fetches over TCP, and prints `resumed` and the number of
 * pieces that an earlier process had left, at the end.
 */
import process from "node:process";
import { fileSink } from "../../adapters/files/sink.ts";
import { faceOf } from "../../entry/face.ts";
import type { TaskRequest } from "../../src/task/task.ts";

/** What the program is told, as JSON. */
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
