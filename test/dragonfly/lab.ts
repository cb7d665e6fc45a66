/**
 * Runs a real Dragonfly on this machine: a scheduler, an origin, and any number of dfdaemons. Each
 * program uses a separate loopback address, so several labs can run at once. It needs no manager,
 * database or Redis.
 */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { taskIdOfUrl } from "../../src/ids.ts";
import { pieceLengthFor } from "../../src/piece.ts";
import { type Outcome, type Program, runToEnd, startProgram } from "../support/run.ts";
import { freePort, freePorts, LabNetwork, reachable, reachableSocket } from "./addresses.ts";
import { type Content, sha256OfFile, writeContent } from "./content.ts";
import { type Manager, startManager } from "./manager.ts";
import { Origin } from "./origin.ts";
import { type DfdaemonVersion, dfgetProgram, programPath, schedulerProgram } from "./programs.ts";
import {
  type DaemonProtocol,
  daemonConfig,
  daemonPortNames,
  daemonSocket,
  dynconfig,
  schedulerConfig,
} from "./templates.ts";

/** Options of {@link Lab.startDaemon}. */
export interface DaemonOptions {
  /** Name in logs and in the host id. */
  readonly name: string;
  /** True for a seed peer, which fetches from the origin for others. Default false. */
  readonly seed?: boolean;
  /** Protocol over which the daemon fetches from other daemons. Default `tcp`. */
  readonly protocol?: DaemonProtocol;
}

/** Task that the origin has. */
export interface LabTask {
  readonly taskId: string;
  readonly url: string;
  readonly content: Content;
  /** Length of a piece in bytes, as dfdaemon computes it. */
  readonly pieceLength: number;
  readonly pieces: number;
}

/** Running scheduler and origin, and the daemons started so far. */
export class Lab {
  readonly version: DfdaemonVersion;
  readonly origin: Origin;
  /** Address of the scheduler. */
  readonly scheduler: string;
  readonly #directory: string;
  readonly #network: LabNetwork;
  readonly #programs: GuardedProgram[];
  readonly #manager: { readonly server: Manager; readonly address: string } | undefined;
  readonly #closers: (() => Promise<void>)[] = [];
  #files = 0;

  private constructor(
    version: DfdaemonVersion,
    directory: string,
    network: LabNetwork,
    scheduler: { readonly program: GuardedProgram; readonly address: string },
    origin: Origin,
    manager: { readonly server: Manager; readonly address: string } | undefined,
  ) {
    this.version = version;
    this.origin = origin;
    this.scheduler = scheduler.address;
    this.#directory = directory;
    this.#network = network;
    this.#programs = [scheduler.program];
    this.#manager = manager;
  }

  /** Starts a scheduler and an origin for daemons of `version`. */
  static async start(version: DfdaemonVersion): Promise<Lab> {
    const directory = await mkdtemp(join(tmpdir(), "vortex-peer-lab-"));
    const network = new LabNetwork();
    const ip = network.next();
    const port = await freePort(ip);
    const own = join(directory, "scheduler");
    await mkdir(own);
    const config = await writeConfig(own, "scheduler.yaml", schedulerConfig(own, ip, port));
    const program = new GuardedProgram([programPath(schedulerProgram), "--config", config]);
    let origin: Origin | undefined;
    try {
      await program.whenReachable([{ ip, port }]);
      origin = await Origin.listen(network.next());
      const manager =
        version === "1.2.1" ? await managerAt(network.next(), { ip, port }) : undefined;
      const scheduler = { program, address: `${ip}:${port}` };
      return new Lab(version, directory, network, scheduler, origin, manager);
    } catch (error) {
      origin?.close();
      await program.stop();
      await rm(directory, { recursive: true, force: true });
      throw error;
    }
  }

  /** Returns an unused loopback address of this lab. */
  address(): string {
    return this.#network.next();
  }

  /** Starts a dfdaemon. If it does not start, rejects with the end of its output. */
  async startDaemon({ name, seed = false, protocol = "tcp" }: DaemonOptions): Promise<Daemon> {
    const directory = join(this.#directory, name);
    await mkdir(directory);
    const ip = this.#network.next();
    const ports = await freePorts(ip, daemonPortNames);
    const manager = this.#manager?.address;
    const settings = { directory, name, ip, ports, protocol, seed, manager };
    const config = await writeConfig(directory, "dfdaemon.yaml", daemonConfig(settings));
    const command = [programPath(`dfdaemon-${this.version}`), "--config", config];
    if (manager === undefined)
      command.push(
        "--dynconfig",
        await writeConfig(directory, "dynconfig.yaml", dynconfig(this.scheduler)),
      );
    command.push("--log-dir", join(directory, "log"), "--log-level", "info", "--console");
    const program = new GuardedProgram(command);
    this.#programs.push(program);
    await program.whenReachable([
      { ip, port: ports.api },
      { ip, port: ports.tcp },
    ]);
    // dfget needs it. dfdaemon may open it after its ports.
    await reachableSocket(daemonSocket(directory));
    const addresses = {
      quic: `${ip}:${ports.quic}`,
      tcp: `${ip}:${ports.tcp}`,
      grpc: `${ip}:${ports.api}`,
    };
    return new Daemon(addresses, program, directory);
  }

  /**
   * Publishes pseudo-random content of `length` bytes at the origin.
   *
   * @param rest rest of the URL after a random first segment. Default: empty
   */
  async publish(
    length: number,
    { seed = 18, rest = "" }: { readonly seed?: number; readonly rest?: string } = {},
  ): Promise<LabTask> {
    this.#files++;
    const path = join(this.#directory, `content-${this.#files}`);
    const content = await writeContent(path, length, seed);
    const url = this.origin.add(content) + rest;
    const pieceLength = pieceLengthFor(length);
    return {
      taskId: taskIdOfUrl({ url }),
      url,
      content,
      pieceLength,
      pieces: Math.ceil(length / pieceLength),
    };
  }

  /** Returns the path of a new file. */
  file(): string {
    this.#files++;
    return join(this.#directory, `file-${this.#files}`);
  }

  /** Calls `closer` before the programs of the lab end. */
  onClose(closer: () => Promise<void>): void {
    this.#closers.push(closer);
  }

  /** Ends all programs and removes their files. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#closers.map((closer) => closer()));
    this.origin.close();
    await Promise.all(this.#programs.map((program) => program.stop()));
    await this.#manager?.server.close();
    await rm(this.#directory, { recursive: true, force: true });
  }
}

/** Addresses of a dfdaemon's upload servers; `grpc` is the Dragonfly API. */
export interface DaemonAddresses {
  readonly quic: string;
  readonly tcp: string;
  readonly grpc: string;
}

/** Running dfdaemon. */
export class Daemon {
  readonly addresses: DaemonAddresses;
  readonly #program: GuardedProgram;
  readonly #directory: string;

  constructor(addresses: DaemonAddresses, program: GuardedProgram, directory: string) {
    this.addresses = addresses;
    this.#program = program;
    this.#directory = directory;
  }

  /** Returns true while the process runs. */
  isAlive(): boolean {
    return this.#program.alive;
  }

  /** Resolves when the process has ended. */
  get ended(): Promise<Outcome> {
    return this.#program.ended;
  }

  /** Kills the process (SIGKILL), and waits for its end. */
  async kill(): Promise<void> {
    await this.#program.stop();
  }

  /**
   * Makes the daemon fetch a task by dfget, and checks the content. Resolves with the duration in
   * ms. Rejects if dfget fails, or stores other content.
   */
  async fetch({ url, content }: LabTask, output: string): Promise<number> {
    const started = performance.now();
    const { code, out, err } = await runToEnd([
      programPath(dfgetProgram),
      url,
      ...["-O", output, "--endpoint", daemonSocket(this.#directory), "--no-progress"],
    ]);
    const duration = performance.now() - started;
    if (code !== 0) throw new Error(`dfget ended with ${code}: ${out}${err}`);
    const sha256 = await sha256OfFile(output);
    await rm(output);
    if (sha256 !== content.sha256) throw new Error("dfget fetched the wrong content");
    return duration;
  }
}

/**
 * Program that ends with this process: a shell waits for the end of its standard input, and kills
 * the program by its process id. So no program survives a test run that was killed.
 */
class GuardedProgram {
  readonly ended: Promise<Outcome>;
  readonly #program: Program;
  #alive = true;

  constructor(command: readonly string[]) {
    this.#program = startProgram(["sh", "-c", GUARD, "guard", ...command]);
    this.ended = this.#program.ended.finally(() => {
      this.#alive = false;
      this.#program.end();
    });
    this.ended.catch(() => {});
  }

  get alive(): boolean {
    return this.#alive;
  }

  /** Kills the program (SIGKILL), and resolves with its output when it has ended. */
  stop(): Promise<Outcome> {
    this.#program.end();
    return this.ended;
  }

  /** Waits until the program listens. If it does not, ends it and rejects with its output. */
  async whenReachable(
    places: readonly { readonly ip: string; readonly port: number }[],
  ): Promise<void> {
    const exited = this.ended.then(() => {
      throw new Error("the program has ended");
    });
    try {
      for (const { ip, port } of places) await Promise.race([reachable(ip, port), exited]);
    } catch (error) {
      const { out, err } = await this.stop();
      throw new Error(`a program of the lab did not start: ${(out + err).slice(-2000)}`, {
        cause: error,
      });
    }
    exited.catch(() => {});
  }
}

const GUARD = `
exec 3<&0
"$@" </dev/null 3<&- & program=$!
(cat <&3; kill -9 $program) >/dev/null 2>&1 & guard=$!
exec 3<&-
wait $program; code=$?
kill $guard 2>/dev/null
exit $code
`;

async function managerAt(
  ip: string,
  scheduler: { readonly ip: string; readonly port: number },
): Promise<{ server: Manager; address: string }> {
  const port = await freePort(ip);
  const server = await startManager({ ip, port }, scheduler);
  return { server, address: `${ip}:${port}` };
}

async function writeConfig(directory: string, name: string, config: object): Promise<string> {
  const path = join(directory, name);
  await writeFile(path, JSON.stringify(config));
  return path;
}
