/** Peer in a separate process, which is killed and restarted on the same ports. */
import { Worker } from "../processes.ts";
import type { Addresses } from "./load.ts";

/** Timeout for an answer of a worker process on a busy machine, in seconds. */
export const ANSWER_TIMEOUT_S = 300;

/** Handle of the peer in the measuring process. */
export class RemotePeer {
  readonly #command: readonly string[];
  readonly #role: object;
  #worker: Worker<"listen">;
  #addresses: Addresses = {};

  private constructor(command: readonly string[], role: object) {
    this.#command = command;
    this.#role = role;
    this.#worker = this.#spawn();
  }

  /**
   * Starts the peer.
   *
   * @param role argument of the process, to which `addresses` is added
   */
  static async start(command: readonly string[], role: object): Promise<RemotePeer> {
    const peer = new RemotePeer(command, role);
    peer.#addresses = await peer.#worker.ask<Addresses>("listen", ANSWER_TIMEOUT_S);
    return peer;
  }

  /** Addresses on which the peer serves. */
  get addresses(): Addresses {
    return this.#addresses;
  }

  /** Kills the process (SIGKILL), and starts another in its place. */
  async restart(): Promise<void> {
    await this.#worker.kill();
    this.#worker = this.#spawn();
    this.#addresses = await this.#worker.ask<Addresses>("listen", ANSWER_TIMEOUT_S);
  }

  /** Ends the process. */
  end(): Promise<void> {
    return this.#worker.end();
  }

  #spawn(): Worker<"listen"> {
    return new Worker(this.#command, { ...this.#role, addresses: this.#addresses });
  }
}
