/**
 * Sends UDP datagrams with any source address and port, by `raw-udp.c`. Linux only, as root, with
 * gcc.
 */
import { Buffer } from "node:buffer";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import type { Address } from "../../src/transport/address.ts";
import { type Program, root, startProgram } from "./run.ts";

/** Reason why raw sockets are unavailable; undefined if they are available. */
export const noRawUdp: string | undefined = reason();

/** A datagram with a forged source. */
export interface ForgedDatagram {
  readonly from: Address;
  /** Destination; an IPv6 link-local address has its zone. */
  readonly to: Address;
  readonly payload: Uint8Array;
}

/** Sends datagrams with any source address. */
export class RawUdp {
  readonly #directory: string;
  readonly #program: Program;

  private constructor(directory: string, program: Program) {
    this.#directory = directory;
    this.#program = program;
  }

  /**
   * Compiles and starts the program. `prefix` is a command that runs it, for example in a network
   * namespace.
   */
  static start(prefix: readonly string[] = []): RawUdp {
    const directory = mkdtempSync(join(tmpdir(), "vortex-peer-raw-"));
    const program = join(directory, "raw-udp");
    execFileSync("gcc", ["-O2", "-o", program, join(root, "test/support/raw-udp.c")]);
    return new RawUdp(directory, startProgram([...prefix, program]));
  }

  /**
   * Resolves when the kernel has accepted the datagram, to undefined, or to the error text if it
   * refused.
   */
  async send({ from, to, payload }: ForgedDatagram): Promise<string | undefined> {
    const hex = payload.length === 0 ? "-" : Buffer.from(payload).toString("hex");
    this.#program.send([from.host, from.port, to.host, to.port, hex].join(" "));
    const answer = await this.#program.line();
    return answer === "sent" ? undefined : answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#program.end();
    await this.#program.ended;
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

function reason(): string | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0)
    return "forging a source address requires Linux and root";
  if (spawnSync("gcc", ["--version"]).status !== 0) return "forging a source address requires gcc";
  return undefined;
}
