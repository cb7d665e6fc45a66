import { requireInteger } from "../arguments.ts";
import type { Config } from "../config/config.ts";
import { VortexError } from "../errors.ts";
import type { Piece, PieceKind, RequestedRange } from "../piece.ts";
import { formatAddress } from "../transport/address.ts";
import type { ProtocolChoice } from "../transport/protocol.ts";
import { downloaderOptions as configuredOptions } from "./configured.ts";
import type { CallOptions, PieceDownloader } from "./downloader.ts";
import type { DownloaderOptions } from "./factory.ts";

/**
 * Options of {@link StorageClient}. An option given here takes precedence over the same setting in
 * `config`.
 */
export interface StorageClientOptions extends Omit<DownloaderOptions, "protocol"> {
  /**
   * Configuration from `parseConfig`: the download settings, and the address and ports of the
   * default peer. The certificate files that it names are not read.
   */
  readonly config: Config;
  /** Function `createDownloader` of the entry point for this runtime. */
  readonly createDownloader: (options: DownloaderOptions) => PieceDownloader;
  /**
   * Returns the `host:port` where the peer with this id serves `protocol`. Default: for every peer,
   * the address `storage.server.ip` with the configured port of the protocol.
   */
  readonly addressOf?: ((peerId: string, protocol: ProtocolChoice) => string) | undefined;
}

/** Options of one call of {@link StorageClient.downloadPiece}. */
export interface StorageCallOptions extends CallOptions {
  /** Kind of the task that the piece belongs to. Default `standard`. */
  readonly kind?: PieceKind | undefined;
}

/**
 * Fetches pieces from peers that are identified by id, over the protocol in the configuration. To
 * switch the protocol, only the configuration has to change.
 *
 * @example
 * ```ts
 * import { createDownloader } from "vortex-peer";
 * import { parseConfig, StorageClient } from "vortex-peer/config";
 *
 * const config = parseConfig({ download: { protocol: "tcp" } });
 * const addressOf = (peerId: string) => `${peerId}:4005`;
 * const client = new StorageClient({ config, createDownloader, addressOf });
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * const piece = await client.downloadPiece("10.0.0.7", taskId, 0);
 * console.log(await piece.bytes());
 * await client.close();
 * ```
 *
 */
export class StorageClient {
  /** Protocol over which pieces are fetched, from the configuration. */
  readonly protocol: ProtocolChoice;
  readonly #downloader: PieceDownloader;
  readonly #addressOf: (peerId: string, protocol: ProtocolChoice) => string;

  /** @throws `InvalidArgument` if an option is out of its range */
  constructor(options: StorageClientOptions) {
    const { config, createDownloader, addressOf, ...downloaderOptions } = options;
    this.protocol = config.download.protocol;
    this.#addressOf = addressOf ?? ((_peerId, protocol) => configuredAddress(config, protocol));
    const given = Object.entries(downloaderOptions).filter(([, value]) => value !== undefined);
    this.#downloader = createDownloader({
      ...configuredOptions(config),
      ...Object.fromEntries(given),
      protocol: this.protocol,
    });
  }

  /**
   * Requests a piece, or a range of its bytes, from a peer. `range.end` is exclusive. Its default
   * is the end of the piece.
   *
   * Rejects like {@link PieceDownloader.downloadPiece}. Also rejects with `InvalidArgument` in
   * these cases:
   *
   * - `pieceId` is the id of a piece of another task.
   * - The address of the peer is unknown: neither `addressOf` nor `storage.server.ip` is given.
   *
   * @param pieceId number of the piece, or its id in the form of stock Dragonfly, `<task
   * id>-<number>` (dragonfly-client-storage, `metadata.rs`)
   */
  async downloadPiece(
    peerId: string,
    taskId: string,
    pieceId: string | number,
    range?: RequestedRange,
    options: StorageCallOptions = {},
  ): Promise<Piece> {
    const { kind, ...callOptions } = options;
    const number = pieceNumber(taskId, pieceId);
    const addr = this.#addressOf(peerId, this.protocol);
    return this.#downloader.downloadPiece({
      ...callOptions,
      addr,
      taskId,
      number,
      ...(kind && { kind }),
      ...(range && { range }),
    });
  }

  /** Closes all connections. Pending requests fail with `Closed`. Idempotent. */
  close(): Promise<void> {
    return this.#downloader.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function pieceNumber(taskId: string, pieceId: string | number): number {
  if (typeof pieceId === "number") {
    requireInteger("piece number", pieceId, 0, 0xffffffff);
    return pieceId;
  }
  const [, task, digits] = /^(.*)-(0|[1-9][0-9]{0,9})$/s.exec(pieceId) ?? [];
  const number = Number(digits);
  if (task === undefined || number > 0xffffffff) {
    throw new VortexError(
      "InvalidArgument",
      `piece id: expected <task id>-<number> or a number, got "${pieceId}"`,
    );
  }
  if (task !== taskId) {
    throw new VortexError(
      "InvalidArgument",
      `piece id: expected one of task "${taskId}", got "${pieceId}"`,
    );
  }
  return number;
}

function configuredAddress(config: Config, protocol: ProtocolChoice): string {
  const { ip, tcpPort, quicPort } = config.storage.server;
  if (ip === undefined) {
    throw new VortexError(
      "InvalidArgument",
      "address of the peer: expected storage.server.ip in the configuration or option addressOf, " +
        "got neither",
    );
  }
  // `auto` and `hybrid` find the peer's other ports from any one of them.
  const ports = {
    tcp: tcpPort,
    quic: quicPort,
    grpc: config.upload.server.port,
    auto: quicPort,
    hybrid: quicPort,
  };
  return formatAddress({ host: ip, port: ports[protocol] });
}
