import type { Config } from "../config/config.ts";
import { VortexError } from "../errors.ts";
import { type ByteRange, type Piece, type PieceKind, requireInteger } from "../piece.ts";
import { formatAddress } from "../transport/address.ts";
import type { ProtocolChoice } from "../transport/protocol.ts";
import { downloaderOptions as configuredOptions } from "./configured.ts";
import type { CallOptions, Downloader } from "./downloader.ts";
import type { CreateDownloaderOptions, DownloaderFactory } from "./factory.ts";

/** How a {@link StorageClient} is set up. What is given here beside the configuration wins over it. */
export interface StorageClientOptions extends Omit<CreateDownloaderOptions, "protocol"> {
  /** What `parseConfig` made: how to fetch, and the default peer's address and ports. Files that it names are not read. */
  readonly config: Config;
  /** The runtime's own `createDownloader`. */
  readonly createDownloader: DownloaderFactory;
  /** The asking host's id, as the Dragonfly API wants it over gRPC. Default `vortex-peer`. */
  readonly hostId?: string;
  /**
   * The `host:port` at which a peer serves `protocol`. Default: `storage.server.ip` for every peer, with the port that the
   * configuration gives for the protocol.
   */
  readonly addressOf?: (peerId: string, protocol: ProtocolChoice) => string;
}

/** What one call may be told. */
export interface StorageCallOptions extends CallOptions {
  /** Default `standard`. */
  readonly kind?: PieceKind;
}

/**
 * Fetches pieces by peer, over the protocol that the configuration names: a change of protocol is a change of
 * configuration, and of nothing else.
 *
 * @example
 * ```ts
 * import { createDownloader, parseConfig, StorageClient } from "vortex-peer";
 *
 * const config = parseConfig({ download: { protocol: "tcp" } });
 * const addressOf = (peerId: string) => `${peerId}:4005`;
 * const client = new StorageClient({ config, createDownloader, addressOf });
 * const taskId = "7b1a7a2c4ff3a6f9c2f1c5c07bd0ff1aee0c8f8ea8ac2f7c5b1d1f0f5ae1b6cd";
 * const piece = await client.downloadPiece("10.0.0.7", taskId, 0);
 * console.log(await piece.bytes());
 * await client.close();
 * ```
 */
export class StorageClient {
  /** The protocol in use. */
  readonly protocol: ProtocolChoice;
  readonly #downloader: Downloader;
  readonly #hostId: string;
  readonly #addressOf: (peerId: string, protocol: ProtocolChoice) => string;

  /** @throws `InvalidArgument` for an option out of its range */
  constructor(options: StorageClientOptions) {
    const { config, createDownloader, hostId, addressOf, ...downloaderOptions } = options;
    this.protocol = config.download.protocol;
    this.#hostId = hostId ?? "vortex-peer";
    this.#addressOf = addressOf ?? ((_peerId, protocol) => configuredAddress(config, protocol));
    this.#downloader = createDownloader({
      ...configuredOptions(config),
      ...downloaderOptions,
      protocol: this.protocol,
    });
  }

  /**
   * Asks a peer for a piece, or for a range of its bytes: `range.end` is exclusive and defaults to the piece's end.
   *
   * `pieceId` is the piece's number, or its id as stock Dragonfly writes it, `<task id>-<number>` (dragonfly-client-storage,
   * `metadata.rs`).
   *
   * Rejects as {@link Downloader.downloadPiece} does; with `InvalidArgument` also for a piece id of another task, and when
   * neither `addressOf` nor `storage.server.ip` tells where the peer is.
   */
  async downloadPiece(
    peerId: string,
    taskId: string,
    pieceId: string | number,
    range?: ByteRange,
    options: StorageCallOptions = {},
  ): Promise<Piece> {
    const { kind, ...callOptions } = options;
    const number = pieceNumber(taskId, pieceId);
    const addr = this.#addressOf(peerId, this.protocol);
    return this.#downloader.downloadPiece(
      {
        addr,
        hostId: this.#hostId,
        taskId,
        number,
        ...(kind && { kind }),
        ...(range && { range }),
      },
      callOptions,
    );
  }

  /** Ends all connections; requests under way fail with `Closed`. Idempotent. */
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
      `piece id "${pieceId}": expected <task id>-<number>, or a number`,
    );
  }
  if (task !== taskId) {
    throw new VortexError("InvalidArgument", `piece id "${pieceId}" is not of task "${taskId}"`);
  }
  return number;
}

function configuredAddress(config: Config, protocol: ProtocolChoice): string {
  const { ip, tcpPort, quicPort } = config.storage.server;
  if (ip === undefined) {
    throw new VortexError(
      "InvalidArgument",
      "where the peer is, is not known: set storage.server.ip in the configuration, or give addressOf",
    );
  }
  // Any of its ports tells a downloader that chooses by itself which peer is meant.
  const ports = {
    tcp: tcpPort,
    quic: quicPort,
    grpc: config.upload.server.port,
    auto: quicPort,
    hybrid: quicPort,
  };
  return formatAddress({ host: ip, port: ports[protocol] });
}
