/** The `createDownloader` of the core, which knows no runtime: it takes the transport that a face would have supplied. */
import { VortexError } from "../errors.ts";
import { portableRuntime } from "../runtime.ts";
import { requireProtocolChoice } from "../transport/protocol.ts";
import type { Transport } from "../transport/transport.ts";
import { downloaderSettings } from "./call/settings.ts";
import type { Downloader, DownloaderOptions } from "./downloader.ts";
import { QuicDownloader, TcpDownloader } from "./vortex/downloader.ts";

/** Which protocol, and what carries it. */
export interface CoreDownloaderOptions extends DownloaderOptions {
  /** What pieces travel over. No default. */
  readonly protocol: "quic" | "tcp";
  /**
   * Reaches peers over `protocol`; a `VortexError` `InvalidArgument` fails each call where it is one of another protocol. It stays the
   * caller's to end. The faces of Node, Bun, Deno and edge workers bring their own.
   */
  readonly transport: Transport;
}

/**
 * Makes a downloader of single pieces on a transport of the caller's, on any JavaScript runtime.
 *
 * This is `createDownloader` of `vortex-peer/core`, and of `vortex-peer` itself where no export condition names the runtime. Node,
 * Bun, Deno and edge workers have one that brings the transports, and fetches whole tasks. For whole tasks on a transport of one's own,
 * there is `downloaderFactory` of `vortex-peer/tasks`.
 *
 * @throws `Unavailable` without a transport, or for a protocol that only a face has; the message says where there is one.
 * `InvalidArgument` for an option out of its range.
 *
 * @example
 * ```ts
 * import { createDownloader, MemoryTransport } from "vortex-peer/core";
 *
 * const downloader = createDownloader({ protocol: "quic", transport: new MemoryTransport("quic") });
 * // … downloadPiece …
 * await downloader.close();
 * ```
 */
export function createDownloader(options: CoreDownloaderOptions): Downloader {
  // JavaScript, and TypeScript that was told no runtime, get here with the options of a face.
  const { protocol, transport }: { protocol: string; transport?: Transport } = options;
  const choice = requireProtocolChoice(protocol);
  if (transport === undefined || (choice !== "quic" && choice !== "tcp")) {
    throw new VortexError("Unavailable", `protocol "${choice}": ${wayOut}`);
  }
  const settings = downloaderSettings(options, portableRuntime);
  const Made = choice === "quic" ? QuicDownloader : TcpDownloader;
  return new Made(async () => transport, settings);
}

const wayOut =
  "the core of vortex-peer brings no transports. Import vortex-peer/node, /bun, /deno or /workers, whichever this runtime is like " +
  '(or let the bundler resolve its export condition); or give protocol "quic" or "tcp" and a transport of your own.';
