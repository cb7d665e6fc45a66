// Compiled, and never run, in a project with the installed package: by the least and the newest
// TypeScript. Imports every subpath, and uses content where a runtime accepts only bytes that are
// in an ArrayBuffer.
import { writeFile } from "node:fs/promises";
import type { MemorySink, Piece, TaskStream } from "vortex-peer";
import * as root from "vortex-peer";
import * as bun from "vortex-peer/bun";
import * as config from "vortex-peer/config";
import * as core from "vortex-peer/core";
import * as deno from "vortex-peer/deno";
import * as denoQuic from "vortex-peer/deno-quic";
import * as files from "vortex-peer/files";
import * as grpc from "vortex-peer/grpc";
import * as ids from "vortex-peer/ids";
import * as node from "vortex-peer/node";
import * as nodeQuic from "vortex-peer/node-quic";
import * as opentelemetry from "vortex-peer/opentelemetry";
import * as quiche from "vortex-peer/quiche";
import * as tasks from "vortex-peer/tasks";
import * as tcp from "vortex-peer/tcp";
import * as workers from "vortex-peer/workers";

export const subpaths: Readonly<Record<string, object>> = {
  ".": root,
  "./bun": bun,
  "./config": config,
  "./core": core,
  "./deno": deno,
  "./deno-quic": denoQuic,
  "./files": files,
  "./grpc": grpc,
  "./ids": ids,
  "./node": node,
  "./node-quic": nodeQuic,
  "./opentelemetry": opentelemetry,
  "./quiche": quiche,
  "./tasks": tasks,
  "./tcp": tcp,
  "./workers": workers,
};

export async function usePiece(piece: Piece): Promise<void> {
  await use(await piece.bytes());
  await use(await piece.bytes(new Uint8Array(1024)));
  const chunk = await piece.read();
  if (chunk !== undefined) await use(chunk);
  await useStream(piece.content);
}

export async function useTask(stream: TaskStream, sink: MemorySink): Promise<void> {
  await use(await stream.bytes());
  await useStream(stream.content);
  await use(sink.bytes());
}

export async function useBelow(reader: core.ByteReader, pieces: grpc.TaskPieces): Promise<void> {
  const chunk = await reader.read();
  if (chunk !== undefined) await use(chunk);
  for await (const { content } of pieces) await use(content);
  const decoder = new core.PacketDecoder();
  decoder.push(new Uint8Array(new SharedArrayBuffer(1)));
  await use(decoder.takeRest());
  await use(core.encodePacket({ type: "close", id: 0 }));
}

export function giveShared(store: root.MemoryPieceStore): void {
  store.putTask("ab".repeat(32), new Uint8Array(new SharedArrayBuffer(1024)));
}

export function giveStreams(downloader: root.Downloader): void {
  const streams = [
    new WritableStream<Uint8Array>(),
    new WritableStream<Uint8Array<ArrayBuffer>>(),
    new TransformStream<Uint8Array, Uint8Array>().writable,
    new CompressionStream("gzip").writable,
  ];
  for (const to of streams)
    void downloader.downloadTask({ taskId: "ab".repeat(32), parents: ["10.0.0.7:4005"], to });
  const to = new CompressionStream("gzip").writable;
  void downloader.downloadTask({ taskId: "ab".repeat(32), parents: ["10.0.0.7:4005"], to });
}

async function useStream(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
  const [first, second] = stream.tee();
  await new Response(first).arrayBuffer();
  const reader = second.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read())
    await use(next.value);
}

async function use(bytes: Uint8Array<ArrayBuffer>): Promise<unknown> {
  await writeFile("content", bytes);
  await crypto.subtle.digest("SHA-256", bytes);
  new WebSocket("wss://localhost").send(bytes);
  return [new Response(bytes), new Blob([bytes])];
}
