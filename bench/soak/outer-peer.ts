/** A peer in a process of its own, which is killed and comes back on its ports. */
import { Worker } from "../processes.ts";
import type { Addresses } from "./load.ts";

/** Seconds for an answer of a process, on a machine that is busy. */
export const PATIENCE = 300;

/** Seen from the measuring process. */
export class OuterPeer {
  readonly #command: readonly string[];
  readonly #role: object;
  #worker: Worker<"listen">;
  #addresses: Addresses = {};

  private constructor(command: readonly string[], role: object) {
    this.#command = command;
    this.#role = role;
    this.#worker = this.#spawn();
  }

  /** @param role what the process is told, besides `addresses` */
  static async start(command: readonly string[], role: object): Promise<OuterPeer> {
    const peer = new OuterPeer(command, role);
    peer.#addresses = await peer.#worker.ask<Addresses>("listen", PATIENCE);
    return peer;
  }

  /** Where it serves. */
  get addresses(): Addresses {
    return this.#addresses;
  }

  /** Kills the process (SIGKILL), and starts another one in its place. */
  async restart(): Promise<void> {
    await this.#worker.kill();
    this.#worker = this.#spawn();
    this.#addresses = await this.#worker.ask<Addresses>("listen", PATIENCE);
  }

  /** Ends the process. */
  end(): Promise<void> {
    return this.#worker.end();
  }

  #spawn(): Worker<"listen"> {
    return new Worker(this.#command, { ...this.#role, addresses: this.#addresses });
  }
}
