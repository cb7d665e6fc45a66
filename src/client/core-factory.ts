/** Runtime-independent version of `createDownloader`: the caller passes the transport. */
import { type Checks, implementing, invalid, required, requireOptions } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import { portableRuntime } from "../runtime.ts";
import { requireProtocolChoice } from "../transport/protocol.ts";
import type { Transport } from "../transport/transport.ts";
import { downloaderSettings } from "./call/settings.ts";
import type { PieceDownloader, TransferOptions } from "./downloader.ts";
import { transferChecks } from "./downloader.ts";
import { QuicDownloader, TcpDownloader } from "./vortex/downloader.ts";

/** Options of {@link createDownloader} of `vortex-peer/core`: the protocol and its transport. */
export interface CoreDownloaderOptions extends TransferOptions {
  /** Protocol that transfers pieces. Required. */
  readonly protocol: "quic" | "tcp";
  /**
   * Transport for `protocol`. Calls fail with `InvalidArgument` if it is for another protocol. The
   * caller must close the transport; the downloader does not.
   *
   * The entry points of Node, Bun, Deno and edge workers do not need this option: they load a
   * transport themselves.
   */
  readonly transport: Transport;
}

/**
 * Creates a downloader that fetches single pieces over a transport of the caller, on any JavaScript
 * runtime.
 *
 * `vortex-peer/core` exports this function. `vortex-peer` also exports it if no export condition
 * matches the runtime.
 *
 * The entry points of Node, Bun, Deno and edge workers export another `createDownloader`. It loads
 * the transports of the runtime, and its downloaders also fetch whole tasks. To fetch whole tasks
 * over a custom transport, use `downloaderFactory` of `vortex-peer/tasks`.
 *
 * @throws `Unavailable` if `transport` is missing, or if `protocol` is `grpc`, `auto` or `hybrid`
 * @throws `InvalidArgument` if `protocol` is unknown, or another option is out of its range
 *
 * @example
 * ```ts
 * import { createDownloader, MemoryTransport } from "vortex-peer/core";
 *
 * const transport = new MemoryTransport("quic");
 * const downloader = createDownloader({ protocol: "quic", transport });
 * // … downloadPiece …
 * await downloader.close();
 * ```
 *
 *
 *
 */
export function createDownloader(options: CoreDownloaderOptions): PieceDownloader {
  // Options of a runtime's `createDownloader` can arrive here: from JavaScript, or from TypeScript
  // that resolved another export condition than the bundler.
  if (typeof options !== "object" || options === null)
    throw invalid("options of createDownloader", "an object", options);
  const { protocol, transport }: { protocol: string; transport?: Transport } = options;
  const choice = requireProtocolChoice(protocol);
  if (transport === undefined || (choice !== "quic" && choice !== "tcp")) {
    throw new VortexError("Unavailable", `protocol "${choice}": ${TRANSPORT_HINT}`);
  }
  requireOptions("createDownloader", options, coreDownloaderChecks);
  const settings = downloaderSettings(options, portableRuntime);
  const Implementation = choice === "quic" ? QuicDownloader : TcpDownloader;
  return new Implementation(async () => transport, settings);
}

const TRANSPORT_HINT =
  "the core of vortex-peer has no transports; import vortex-peer/node, /bun, /deno or /workers, " +
  "whichever fits this runtime (or let the bundler resolve its export condition); " +
  'or pass protocol "quic" or "tcp" and your own transport';

export const coreDownloaderChecks: Checks<CoreDownloaderOptions> = {
  ...transferChecks,
  protocol: required((_name, value) => void requireProtocolChoice(value)),
  transport: required(implementing("a transport", "dial")),
};
