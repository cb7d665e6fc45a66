/** Options and contents for `restart-peer.ts`, `forgetful-peer.ts` and their tests. */
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { seededBytes } from "./random.ts";

/** Options of a server that runs in the program `restart-peer.ts`. */
export interface RestartOrders {
  readonly identity: TlsIdentity;
  /** Port to listen on; 0 selects a free port. */
  readonly port: number;
  /** Number of the piece that the store returns only after `delay` ms. Default: none. */
  readonly slowPiece?: number;
  /** Time in ms after which the store returns the piece `slowPiece`. */
  readonly delay?: number;
}

export const restartTaskId: string = "5e".repeat(32);
/** Content of the task {@link restartTaskId}: ten pieces of 1,000 bytes. */
export const restartContent: Uint8Array = seededBytes(18, 10_000);

export const longTaskId: string = "10".repeat(32);
/** Content of the task {@link longTaskId}: one piece of 4 MiB. */
export const longContent: Uint8Array = seededBytes(19, 4 * 1024 * 1024);

/** Options of the program `forgetful-peer.ts`, with the pieces that it fetches. */
export interface ForgetfulOrder {
  readonly addr: string;
  readonly ca: string;
  readonly taskId: string;
  /** Numbers of the pieces, in the order in which they are fetched. */
  readonly numbers: readonly number[];
}
