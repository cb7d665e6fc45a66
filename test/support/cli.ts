/** Runs the `vortex-peer` command inside the test process, over an in-memory network. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import { runCli } from "../../cli/program.ts";
import type { CliDirectory, DirectoryFlags, Sdk } from "../../cli/sdk.ts";
import type { CallOptions, PieceDownloader } from "../../src/client/downloader.ts";
import { type DownloaderOptions, downloaderFactory } from "../../src/client/factory.ts";
import { QuicDownloader } from "../../src/client/vortex/downloader.ts";
import { type ErrorCode, VortexError } from "../../src/errors.ts";
import { planTask } from "../../src/piece.ts";
import { type Clock, portableRuntime } from "../../src/runtime.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { checkedTask } from "../../src/store/checked-store.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { PieceStore, StoredTask } from "../../src/store/store.ts";
import type {
  PieceLocation,
  SyncOptions,
  TaskDirectory,
  TaskOutline,
} from "../../src/task/discovery.ts";
import { MemoryTransport } from "../../src/transport/memory.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { joined, seededBytes } from "./random.ts";

/** Id of the task that the tests' peers serve, in ten pieces of 1,000 bytes. */
export const taskId: string = "ab".repeat(32);
export const content: Uint8Array = seededBytes(7, 10_000);
/** Command-line options for the content length and piece length of the task {@link taskId}. */
export const lengths: readonly string[] = ["--content-length", "10000", "--piece-length", "1kB"];
/** Address for each protocol at which {@link withPeer} serves the task. */
export const peers = {
  quic: "10.0.0.7:4006",
  tcp: "10.0.0.7:4005",
  grpc: "10.0.0.7:4000",
} as const;

/** Environment variables that set a state directory. {@link MemorySdk} writes nothing to it. */
export const env: Readonly<Record<string, string>> = { XDG_STATE_HOME: "/state" };

/** Writable stream that stores all chunks written to it. */
export class Sink extends Writable {
  readonly isTTY: boolean;
  readonly columns: number;
  readonly chunks: Uint8Array[] = [];

  constructor(isTTY = false, columns = 100) {
    super();
    this.isTTY = isTTY;
    this.columns = columns;
  }

  override _write(
    chunk: Uint8Array,
    _encoding: string,
    done: (error?: Error | null) => void,
  ): void {
    this.chunks.push(Uint8Array.from(chunk));
    done();
  }

  get bytes(): Uint8Array {
    return joined(this.chunks);
  }

  get text(): string {
    return new TextDecoder().decode(this.bytes);
  }
}

/** Creates a writable stream on which every write fails with EPIPE. */
export function brokenPipe(): Writable {
  return new Writable({
    write: (_chunk, _encoding, done) =>
      done(Object.assign(new Error("write EPIPE"), { code: "EPIPE" })),
  });
}

/** Streams, environment variables and clock of a command under test. All are optional. */
export interface RunOptions {
  readonly stdin?: string;
  readonly stdout?: Writable;
  readonly stderr?: Sink;
  readonly isTTY?: boolean;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
}

/** Exit code and output of a command. */
export interface RunResult {
  readonly code: number;
  readonly out: Sink;
  readonly err: string;
}

/** Runs the `vortex-peer` command in this process, with `sdk` as the package entry point. */
export async function run(
  sdk: Sdk,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const { isTTY, stdin, clock } = options;
  const out = new Sink(isTTY);
  const err = options.stderr ?? new Sink(isTTY);
  const code = await runCli(args, {
    stdout: options.stdout ?? out,
    stderr: err,
    env: options.env ?? env,
    signal: options.signal ?? new AbortController().signal,
    loadSdk: async () => sdk,
    ...(clock && { clock }),
    ...(stdin !== undefined && { openStdin: () => Readable.from([Buffer.from(stdin)]) }),
  });
  return { code, out, err: err.text };
}

/**
 * Package entry point for command tests, over an in-memory network for each protocol. Records the
 * options of created downloaders and directories.
 */
export class MemorySdk implements Sdk {
  readonly made: DownloaderOptions[] = [];
  readonly directories: DirectoryFlags[] = [];
  /** Address of the peer in each stat request, in request order. */
  readonly stats: string[] = [];
  readonly #networks = {
    quic: new MemoryTransport("quic"),
    tcp: new MemoryTransport("tcp"),
    grpc: new MemoryTransport("quic"),
  };
  #store: PieceStore | undefined;

  createDownloader(options: DownloaderOptions): ReturnType<Sdk["createDownloader"]> {
    const { onProtocol: _, ...recorded } = options;
    this.made.push(recorded);
    const { quic, tcp, grpc } = this.#networks;
    return downloaderFactory({
      runtime: portableRuntime,
      quic: async () => quic,
      tcp: async () => tcp,
      // Vortex over a separate network: the command cannot tell it from gRPC. `made` shows TLS.
      grpc: (settings) => new QuicDownloader(async () => grpc, settings),
      directory: () => Object.assign(this.#directory(), { close: async () => {} }),
    })(options);
  }

  createDirectory(options: DirectoryFlags): CliDirectory {
    this.directories.push(options);
    return Object.assign(this.#directory(), { [Symbol.asyncDispose]: async () => {} });
  }

  async startServer(options: Parameters<Sdk["startServer"]>[0]): ReturnType<Sdk["startServer"]> {
    const { store, host = "0.0.0.0" } = options;
    this.#store = store;
    const servers = new Map<"quic" | "tcp" | "grpc", VortexServer>();
    for (const name of ["quic", "tcp", "grpc"] as const) {
      const port = options[name]?.port;
      // A server on 0.0.0.0 is reached at the loopback address, as in the command that `serve`
      // prints.
      const local = { host: host === "0.0.0.0" ? "127.0.0.1" : host, port: port ?? 0 };
      if (port === undefined) continue;
      servers.set(
        name,
        await VortexServer.listen(this.#networks[name], local, store, portableRuntime),
      );
    }
    const addresses = Object.fromEntries(
      [...servers].map(([name, { address }]) => [name, { ...address, host }]),
    );
    const close = async (): Promise<void> => {
      for (const server of servers.values()) await server.close();
    };
    const secure = servers.has("quic") || options.grpc?.tls === true;
    let fingerprint = secure ? "AB:".repeat(31).concat("AB") : undefined;
    return {
      addresses,
      get fingerprint() {
        return fingerprint;
      },
      /** Installs a fake certificate. The first byte of its fingerprint counts the rotations. */
      async rotateCertificate(identity?: TlsIdentity) {
        if (identity?.cert === "none") throw new VortexError("InvalidArgument", "no certificate");
        const count = Number.parseInt(fingerprint?.slice(0, 2) ?? "", 16) + 1;
        fingerprint = `${count.toString(16).toUpperCase()}${":AB".repeat(31)}`;
        return fingerprint;
      },
      close,
    };
  }

  /** Creates a task directory that answers from the store, whatever the peer address is. */
  #directory(): TaskDirectory {
    const taskOf = async (asked: string): Promise<StoredTask> => {
      const task = await this.#store?.getTask(asked);
      if (task === undefined) throw new VortexError("NotFound", "no such task");
      return checkedTask(task);
    };
    return {
      stat: async (addr: string, asked: string): Promise<TaskOutline> => {
        this.stats.push(addr);
        const { contentLength, pieceLength, digest } = await taskOf(asked);
        const { pieceCount } = planTask(contentLength, pieceLength);
        return { contentLength, pieceLength, pieceCount, ...(digest !== undefined && { digest }) };
      },
      async *sync(
        _addr: string,
        asked: string,
        { signal }: SyncOptions,
      ): AsyncGenerator<PieceLocation, void, void> {
        const task = await taskOf(asked);
        for await (const { number, offset, length } of task.watch?.({ signal }) ?? task.pieces()) {
          yield {
            number,
            offset: Number(offset),
            length: Number(length),
            tcpAddr: peers.tcp,
            quicAddr: peers.quic,
          };
        }
      },
    };
  }
}

/**
 * Calls `use` with an entry point whose network has one peer, which serves `store` at {@link
 * peers}.
 */
export async function withPeer(
  use: (sdk: MemorySdk) => Promise<void>,
  store: PieceStore = taskStore(),
): Promise<void> {
  const sdk = new MemorySdk();
  const server = await sdk.startServer({
    store,
    host: "10.0.0.7",
    quic: { port: 4006 },
    tcp: { port: 4005 },
    grpc: { port: 4000 },
  });
  try {
    await use(sdk);
  } finally {
    await server.close();
  }
}

export function taskStore(): MemoryPieceStore {
  const store = new MemoryPieceStore();
  store.putTask(taskId, content, { pieceLength: 1000 });
  return store;
}

/**
 * Creates an entry point whose downloader calls `downloadPiece` for every protocol. The downloader
 * sends no stat requests.
 */
export function faceWith(downloadPiece: PieceDownloader["downloadPiece"]): Sdk {
  const close = async (): Promise<void> => {};
  const none = (): never => assert.fail("no transport is used");
  return {
    createDownloader: (options) =>
      downloaderFactory({
        runtime: portableRuntime,
        quic: none,
        tcp: none,
        grpc: () => ({ downloadPiece, close, [Symbol.asyncDispose]: close }),
      })({ ...options, protocol: "grpc" }),
    startServer: () => assert.fail("nothing is served"),
    createDirectory: () => assert.fail("no peer is asked about a task"),
  };
}

export const failing = (code: ErrorCode, message = "as the test wants it"): Sdk =>
  faceWith(() => Promise.reject(new VortexError(code, message)));

/** Returns a promise for a piece request that stays pending until `signal` aborts. */
export function neverAnswered({ signal }: CallOptions = {}): Promise<never> {
  return new Promise((_resolve, reject) => {
    const onAbort = (): void => reject(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) onAbort();
  });
}

/**
 * Creates a downloader, and a server that serves the task {@link taskId}. Disposing the result
 * closes both.
 */
export async function downloaderWithServer(): Promise<
  Pick<PieceDownloader, "downloadPiece"> & AsyncDisposable
> {
  const sdk = new MemorySdk();
  const server = await sdk.startServer({
    store: taskStore(),
    host: "10.0.0.7",
    tcp: { port: 4005 },
  });
  const downloader = sdk.createDownloader({ protocol: "tcp" });
  return {
    downloadPiece: downloader.downloadPiece.bind(downloader),
    async [Symbol.asyncDispose]() {
      await downloader[Symbol.asyncDispose]();
      await server.close();
    },
  };
}

export async function inTempDir(use: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), "vortex-peer-cli-"));
  try {
    await use(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}
