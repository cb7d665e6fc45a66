/** Orders and contents shared by `restart-peer.ts`, `forgetful-peer.ts` and their tests. */
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { seededBytes } from "./random.ts";

/** Tells a server what to be. */
export interface RestartOrders {
  readonly identity: TlsIdentity;
  /** 0 for any free one. */
  readonly port: number;
  /** Number of a piece that the store takes `delay` milliseconds to find. Default: none. */
  readonly slowPiece?: number;
  readonly delay?: number;
}

export const restartTaskId: string = "5e".repeat(32);
/** Ten pieces of 1,000 bytes. */
export const restartContent: Uint8Array = seededBytes(18, 10_000);

export const longTaskId: string = "10".repeat(32);
/** One piece. */
export const longContent: Uint8Array = seededBytes(19, 4 * 1024 * 1024);

/** Tells `forgetful-peer.ts` what to fetch. */
export interface ForgetfulOrder {
  readonly addr: string;
  readonly ca: string;
  readonly taskId: string;
  /** Pieces, one after the other. */
  readonly numbers: readonly number[];
}
