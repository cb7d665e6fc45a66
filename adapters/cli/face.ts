import type { DownloaderFactory } from "../../src/client/factory.ts";
import type { PieceStore } from "../../src/server/store.ts";
import type { ServerOptions } from "../../src/server/upload.ts";
import type { Address } from "../../src/transport/address.ts";
import type { TlsServerOptions } from "../../src/transport/tls.ts";

/** What the command needs of a runtime; each runtime's face has it. */
export interface CliFace {
  readonly createDownloader: DownloaderFactory;
  startServer(options: CliServerOptions): Promise<CliServer>;
  /** What a peer knows of a task, over gRPC. */
  statTask(
    addr: string,
    taskId: string,
    options?: { readonly signal?: AbortSignal; readonly timeout?: number },
  ): Promise<{ readonly contentLength: number; readonly pieceLength: number }>;
}

/** Which protocols to serve, and what. */
export interface CliServerOptions extends ServerOptions {
  readonly store: PieceStore;
  readonly host?: string;
  readonly quic?: { readonly port: number };
  readonly tcp?: { readonly port: number };
  readonly grpc?: { readonly port: number };
  readonly tls?: TlsServerOptions;
}

/** A server that listens. */
export interface CliServer {
  readonly addresses: { readonly quic?: Address; readonly tcp?: Address; readonly grpc?: Address };
  /** Of the QUIC certificate. */
  readonly fingerprint?: string | undefined;
  close(): Promise<void>;
}
