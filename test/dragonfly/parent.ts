/** Parent of dfdaemons: a server of this library, announced to the scheduler of a lab. */
import { denoQuicTransport } from "../../adapters/deno-quic/lazy-transport.ts";
import { FilePieceStore } from "../../adapters/files/store.ts";
import { grpcServer } from "../../adapters/grpc/server.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { type ServerSettings, serverSettings } from "../../src/server/admission/upload.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import type { PieceStore } from "../../src/store/store.ts";
import type { Telemetry } from "../../src/telemetry.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { runtimeName } from "../support/fixtures.ts";
import { Announcer } from "./announcer.ts";
import type { LabTask } from "./lab.ts";
import type { DaemonProtocol } from "./templates.ts";

/** Options of {@link Parent.start}. */
export interface ParentOptions {
  /** Loopback address to listen on. */
  readonly ip: string;
  /** Address of the scheduler. */
  readonly scheduler: string;
  /** Store to serve. Default: a store of files. */
  readonly store?: PieceStore;
  /** Upload limit in bytes/s. Default: no limit. */
  readonly uploadRateLimit?: number;
  /** Called for each requested piece. */
  readonly onPiece?: (number: number) => void;
}

/** Reason why dfdaemon cannot fetch over QUIC from this runtime; undefined on Deno. */
export const noStockQuic: string | undefined =
  runtimeName === "deno"
    ? undefined
    : "dfdaemon offers no ALPN over QUIC, and the QUIC server of this runtime requires one";

/** Numbers of requested pieces by task and protocol. */
type Requested = Map<string, Set<number>>;

/** Running server, announced to a scheduler. */
export class Parent {
  readonly #announcer: Announcer;
  readonly #servers: readonly { close(options: { grace: number }): Promise<void> }[];
  readonly #store: FilePieceStore;
  readonly #requested: Requested;

  private constructor(
    announcer: Announcer,
    servers: readonly { close(options: { grace: number }): Promise<void> }[],
    store: FilePieceStore,
    requested: Requested,
  ) {
    this.#announcer = announcer;
    this.#servers = servers;
    this.#store = store;
    this.#requested = requested;
  }

  /** Starts to serve over TCP, gRPC, and on Deno over QUIC for clients like dfdaemon. */
  static async start(options: ParentOptions): Promise<Parent> {
    const { ip, scheduler, uploadRateLimit, onPiece = () => {} } = options;
    const files = new FilePieceStore();
    const store = options.store ?? files;
    const requested: Requested = new Map();
    // Separate settings, so that requests are counted by protocol.
    const settingsOf = (protocol: DaemonProtocol): ServerSettings => {
      const telemetry: Telemetry = {
        begin({ name, taskId, number = 0 }) {
          if (name === "download_piece") {
            const key = `${taskId} over ${protocol}`;
            const numbers = requested.get(key) ?? new Set();
            requested.set(key, numbers.add(number));
            onPiece(number);
          }
          return { end() {}, run: (work) => work() };
        },
      };
      const limit = uploadRateLimit === undefined ? {} : { uploadRateLimit };
      return serverSettings({ telemetry, ...limit }, portableRuntime);
    };
    const listen = (transport: Transport, protocol: DaemonProtocol): Promise<VortexServer> =>
      VortexServer.listen(
        transport,
        { host: ip, port: 0 },
        store,
        portableRuntime,
        settingsOf(protocol),
      );
    const tcp = await listen(tcpTransport, "tcp");
    const quic =
      noStockQuic === undefined
        ? await listen(await denoQuicTransport({ clients: "stock" }), "quic")
        : undefined;
    const api = await grpcServer({ host: ip, port: 0 }, store, settingsOf("grpc"), {
      serving: {
        tcpPort: tcp.address.port,
        ...(quic !== undefined && { quicPort: quic.address.port }),
      },
    });
    const host = { ip, hostname: "vortex-peer", port: api.address.port };
    const announcer = await Announcer.connect(scheduler, host);
    const servers = [tcp, api, ...(quic === undefined ? [] : [quic])];
    return new Parent(announcer, servers, files, requested);
  }

  /** Serves the task's file, and announces the task. */
  async add(task: LabTask): Promise<void> {
    const { taskId, content, pieceLength } = task;
    await this.#store.addFile(content.path, { taskId, pieceLength });
    await this.announce(task);
  }

  /** Announces a task without serving its file. */
  async announce({ taskId, url, content, pieceLength }: LabTask): Promise<void> {
    await this.#announcer.announceTask({ taskId, url, contentLength: content.length, pieceLength });
  }

  /** Returns the number of different pieces of a task that were requested over a protocol. */
  requestedPieces({ taskId }: Pick<LabTask, "taskId">, protocol: DaemonProtocol): number {
    return this.#requested.get(`${taskId} over ${protocol}`)?.size ?? 0;
  }

  async close(): Promise<void> {
    await this.#announcer.close();
    await Promise.all(this.#servers.map((server) => server.close({ grace: 0 })));
    await this.#store.close();
  }
}
