/**
 * Sends UDP datagrams with any source address and port, with the program `raw-udp.c`. Requires
 * Linux, root and gcc.
 */
import { Buffer } from "node:buffer";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import type { Address } from "../../src/transport/address.ts";
import { type Program, root, startProgram } from "./run.ts";

/** Reason why this process cannot use raw sockets; undefined if it can. */
export const noRawUdp: string | undefined = reason();

/** UDP datagram with a forged source address. */
export interface ForgedDatagram {
  readonly from: Address;
  /** Destination address. An IPv6 link-local address must have a zone. */
  readonly to: Address;
  readonly payload: Uint8Array;
}

/** Sends UDP datagrams with forged source addresses. */
export class RawUdp {
  readonly #directory: string;
  readonly #program: Program;

  private constructor(directory: string, program: Program) {
    this.#directory = directory;
    this.#program = program;
  }

  /**
   * Compiles and starts the program that sends the datagrams.
   * @param prefix start of the command line that runs the program, for example in a network
   * namespace
   */
  static start(prefix: readonly string[] = []): RawUdp {
    const directory = mkdtempSync(join(tmpdir(), "vortex-peer-raw-"));
    const program = join(directory, "raw-udp");
    execFileSync("gcc", ["-O2", "-o", program, join(root, "test/support/raw-udp.c")]);
    return new RawUdp(directory, startProgram([...prefix, program]));
  }

  /**
   * Sends a datagram. Resolves to undefined if the kernel accepts the datagram, otherwise to the
   * error text.
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
