import type { DownloaderFactory } from "../../src/client/factory.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import type { Face } from "../face.ts";

/** What the command needs of a runtime: its face, but for the class of the server, so that tests can give another. */
export interface CliFace extends Pick<Face, "statTask"> {
  readonly createDownloader: DownloaderFactory;
  startServer(...args: Parameters<Face["startServer"]>): Promise<CliServer>;
}

/** A server that listens. */
export type CliServer = Pick<StorageServer, "addresses" | "fingerprint" | "rotateCertificate" | "close">;
