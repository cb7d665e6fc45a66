/** This library through its public API. */
import process from "node:process";
import type { QuicBinding } from "../../adapters/shared/fallback.ts";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { type RuntimeApi, runtimeApi } from "../../entry/runtime-api.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import type { PieceDownloader } from "../../src/client/downloader.ts";
import type { DownloaderOptions } from "../../src/client/factory.ts";
import { QuicDownloader } from "../../src/client/vortex/downloader.ts";
import type { HasherFactory } from "../../src/digest/hasher.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { Client, Content, DialOptions, Peer, Serving, Subject } from "../subject.ts";

/** Size of the buffer for the chunks of a request, in bytes. */
const BUFFER_BYTES = 256 * 1024;

type Protocol = "quic" | "tcp" | "grpc";

const bindings: Record<"quiche" | "node" | "deno", QuicBinding> = {
  quiche: async (options) =>
    (await import("../../adapters/quiche/lazy-transport.ts")).quicheTransport(options),
  node: async (options) =>
    (await import("../../adapters/node-quic/lazy-transport.ts")).nodeQuicTransport(options),
  deno: async (options) =>
    (await import("../../adapters/deno-quic/lazy-transport.ts")).denoQuicTransport(options),
};

/**
 * QUIC by one binding, with the other adapters of the runtime's entry. The entry itself chooses a
 * binding and falls back to another; a row must say what it measured.
 */
export function quic(binding: keyof typeof bindings): Subject {
  const entry = runtimeApi(bindings[binding]);
  return subject("quic", async () => entry);
}

/**
 * The same with a hash that does nothing on both sides, which leaves everything except the
 * verification.
 */
export function quicUnverified(binding: keyof typeof bindings): Subject {
  const entry = runtimeApi(bindings[binding]);
  const runtime = { ...portableRuntime, hashers: noHashers };
  return {
    serve: (content, host) => serve("quic", entry, content, host, noHashers),
    async dial(peer) {
      const transport = bindings[binding]({ tls: tlsOf(peer) });
      return clientOf(new QuicDownloader(() => transport, downloaderSettings({}, runtime)), peer);
    },
  };
}

/** TCP. */
export const tcp: Subject = subject("tcp", runtimeEntry);
/**
 * gRPC as tuned by this library: no compression, windows of 16 MiB, answers streamed by the server.
 */
export const grpc: Subject = subject("grpc", runtimeEntry);

function subject(protocol: Protocol, faceOfRuntime: () => Promise<RuntimeApi>): Subject {
  return {
    serve: async (content, host) =>
      serve(protocol, await faceOfRuntime(), content, host, nativeHashers),
    async dial(peer, options) {
      const entry = await faceOfRuntime();
      return clientOf(entry.createDownloader(optionsOf(protocol, peer, options)), peer);
    },
  };
}

function runtimeEntry(): Promise<RuntimeApi> {
  if ("bun" in process.versions) return import("../../entry/bun.ts");
  if ("deno" in process.versions) return import("../../entry/deno.ts");
  return import("../../entry/node.ts");
}

async function serve(
  protocol: Protocol,
  entry: RuntimeApi,
  { bytes, pieceLengths }: Content,
  host: string,
  hashers: HasherFactory,
): Promise<Serving> {
  const store = memoryPieceStoreWith(hashers);
  for (const pieceLength of pieceLengths)
    store.putTask(taskIdOf(pieceLength), bytes, { pieceLength });
  const server = await entry.startServer({
    store,
    host,
    [protocol]: { port: 0 },
    onError: (error) => console.error(error.message),
  });
  const address = server.addresses[protocol];
  if (address === undefined) throw new Error(`${protocol} did not start`);
  const { fingerprint } = server;
  return {
    peer: { ...address, ...(fingerprint !== undefined && { fingerprint }) },
    close: () => server.close({ grace: 0 }),
  };
}

function optionsOf(
  protocol: Protocol,
  peer: Peer,
  { earlyData, forgetful }: DialOptions,
): DownloaderOptions {
  return {
    protocol,
    earlyData,
    ...(protocol === "quic" && { tls: tlsOf(peer) }),
    ...(forgetful && { pool: { idleTimeout: 1, cleanupInterval: 1 } }),
  };
}

function tlsOf({ fingerprint = "" }: Peer): { readonly fingerprints: readonly string[] } {
  return { fingerprints: [fingerprint] };
}

function clientOf(downloader: PieceDownloader, peer: Peer): Client {
  const addr = formatAddress(peer);
  /** Buffers of finished requests, for reuse. */
  const buffers: Uint8Array<ArrayBuffer>[] = [];
  return {
    async fetch({ pieceLength, number }, onFirstByte) {
      const piece = await downloader.downloadPiece({
        addr,
        hostId: "bench",
        taskId: taskIdOf(pieceLength),
        number,
      });
      const buffer = buffers.pop() ?? new Uint8Array(BUFFER_BYTES);
      let length = 0;
      for (
        let chunk = await piece.read(buffer);
        chunk !== undefined;
        chunk = await piece.read(buffer)
      ) {
        if (length === 0) onFirstByte?.();
        length += chunk.length;
      }
      buffers.push(buffer);
      return length;
    },
    close: () => downloader.close(),
  };
}

/** Returns the task id for a piece length: each one is a separate task. */
function taskIdOf(pieceLength: number): string {
  return pieceLength.toString(16).padStart(64, "0");
}

const noHashers: HasherFactory = () => ({ update: () => {}, encode: () => "0" });
