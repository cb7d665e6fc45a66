/**
 * Test program: uses the API of the current runtime step by step. Prints after each step whether
 * the Protobuf library was loaded.
 */
import process from "node:process";
import type { RuntimeApi } from "../../entry/runtime-api.ts";
import { VortexError } from "../../src/errors.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { memorySink } from "../../src/task/memory-sink.ts";

const api = await runtimeApi();
const taskId = "ab".repeat(32);
const content = new Uint8Array(1000);
report("imported");

const store = new MemoryPieceStore();
store.putTask(taskId, content);
await using server = await api.startServer({ store, host: "127.0.0.1", tcp: { port: 0 } });
const addr = `127.0.0.1:${server.addresses.tcp?.port}`;
await using downloader = api.createDownloader({ protocol: "tcp" });
const piece = await downloader.downloadPiece({ addr, hostId: "h", taskId, number: 0 });
await piece.bytes();
report("a piece over TCP");

const lengths = { contentLength: content.length, pieceLength: content.length };
const request = { taskId, hostId: "h", parents: [addr], ...lengths };
await downloader.downloadTask({ ...request, to: memorySink() });
report("a task of known layout over TCP");

// Nothing listens at the discard port.
const failure = await api.statTask("127.0.0.1:9", taskId).catch((error: unknown) => error);
report(`statTask, ${failure instanceof VortexError ? failure.code : failure}`);

/** Prints whether Protobuf is loaded. It sets this global when it decodes its first schema. */
function report(step: string): void {
  console.log(`${step}: ${Symbol.for("@bufbuild/protobuf/text-encoding") in globalThis}`);
}

async function runtimeApi(): Promise<RuntimeApi> {
  if (process.versions.bun !== undefined) return (await import("../../entry/bun-api.ts")).bunApi();
  if (process.versions.deno !== undefined)
    return (await import("../../entry/deno-api.ts")).denoApi();
  return (await import("../../entry/node-api.ts")).nodeApi();
}
