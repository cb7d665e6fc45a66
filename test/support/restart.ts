/** Orders and contents shared by `restart-peer.ts`, `forgetful-peer.ts` and their tests. */
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { seededBytes } from "./random.ts";

/** Configuration of a `restart-peer.ts` server. */
export interface RestartOrders {
  readonly identity: TlsIdentity;
  /** Port to listen on; 0 selects a free one. */
  readonly port: number;
  /** Number of a piece that the store delays. Default: none. */
  readonly slowPiece?: number;
  /** Delay of `slowPiece` in ms. */
  readonly delay?: number;
}

export const restartTaskId: string = "5e".repeat(32);
/** Content of ten pieces of 1,000 bytes. */
export const restartContent: Uint8Array = seededBytes(18, 10_000);

export const longTaskId: string = "10".repeat(32);
/** Content of a single piece of 4 MiB. */
export const longContent: Uint8Array = seededBytes(19, 4 * 1024 * 1024);

/** Pieces that `forgetful-peer.ts` fetches. */
export interface ForgetfulOrder {
  readonly addr: string;
  readonly ca: string;
  readonly taskId: string;
  /** Piece numbers, fetched in order. */
  readonly numbers: readonly number[];
}
