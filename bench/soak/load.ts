/**
 * Load of one process: servers that restart, clients that join and leave, and requests of every
 * kind and outcome.
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileSink } from "../../adapters/files/sink.ts";
import { FilePieceStore } from "../../adapters/files/store.ts";
import type { RuntimeApi } from "../../entry/runtime-api.ts";
import type { DownloaderOptions } from "../../src/client/factory.ts";
import type { Downloader } from "../../src/client/task-downloader.ts";
import { VortexError } from "../../src/errors.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { PieceStore } from "../../src/store/store.ts";
import { memorySink } from "../../src/task/memory-sink.ts";
import type { TaskStreamOptions } from "../../src/task/task.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { Protocol } from "../../src/transport/protocol.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { CONTENT, DIGEST, PIECE_COUNT, PIECE_LENGTH, pieceBytes, TASK_ID } from "./content.ts";
import type { Counters } from "./gauges.ts";
import { disturb, faulty, GarbagePeer, pick } from "./hostile.ts";

/** Addresses of a peer by protocol. */
export type Addresses = Readonly<Partial<Record<Protocol, string>>>;

/** Options of a load. */
export interface LoadOptions {
  readonly entry: RuntimeApi;
  readonly counters: Counters;
  readonly protocols: readonly Protocol[];
  /** Certificate of every server. */
  readonly identity: TlsIdentity;
  readonly fingerprint: string;
  /** Maximum number of concurrent requests. */
  readonly concurrency: number;
  /** Peers in other processes, which may be killed at any time. */
  readonly peers: readonly Addresses[];
  readonly random: () => number;
}

/** Number of operations by outcome: `ok`, or the code of their error. */
export type Outcomes = Readonly<Record<string, number>>;

/**
 * Time after which a request counts as hanging, in ms: well beyond the sum of all timeouts that
 * apply to it.
 */
const REQUEST_TIMEOUT_MS = 240_000;
/** Maximum number of failures that are kept. */
const MAX_FAILURES = 20;

/** Server of this process, which is restarted during the load. */
interface OwnServer {
  readonly store: PieceStore;
  server: StorageServer | undefined;
  ports: Partial<Record<Protocol, number>>;
}

/** Running load. */
export class Load {
  readonly #options: LoadOptions;
  readonly #outcomes = new Map<string, number>();
  readonly #failures: string[] = [];
  readonly #own: readonly OwnServer[];
  readonly #hostile: OwnServer;
  readonly #files: FilePieceStore;
  readonly #folder: string;
  readonly #garbage: GarbagePeer;
  /** Clients that stay for the whole run, one for each protocol. */
  readonly #resident: ReadonlyMap<Protocol, Downloader>;
  #peers: readonly Addresses[];
  #stopping = false;
  #running: Promise<void> = Promise.resolve();
  #fileNumber = 0;

  private constructor(
    options: LoadOptions,
    folder: string,
    files: FilePieceStore,
    garbage: GarbagePeer,
  ) {
    const memory = new MemoryPieceStore();
    memory.putTask(TASK_ID, CONTENT, { pieceLength: PIECE_LENGTH, digest: DIGEST });
    const own = (store: PieceStore): OwnServer => ({ store, server: undefined, ports: {} });
    this.#options = options;
    this.#folder = folder;
    this.#files = files;
    this.#garbage = garbage;
    this.#own = [own(memory), own(files)];
    this.#hostile = own(faulty(memory, options.random));
    this.#peers = options.peers;
    this.#resident = new Map(
      options.protocols.map((protocol) => [protocol, this.#makeClient(protocol)]),
    );
  }

  /** Starts the servers of this process. Requests begin with {@link start}. */
  static async prepare(options: LoadOptions): Promise<Load> {
    const folder = await mkdtemp(join(tmpdir(), "vortex-peer-soak-"));
    const path = join(folder, "content");
    await writeFile(path, CONTENT);
    const files = new FilePieceStore();
    await files.addFile(path, { taskId: TASK_ID, pieceLength: PIECE_LENGTH });
    const load = new Load(options, folder, files, await GarbagePeer.start(options.random));
    for (const own of [...load.#own, load.#hostile]) await load.#startServer(own);
    return load;
  }

  /** Makes requests until {@link stop}. */
  start(): void {
    const workers = Array.from({ length: this.#options.concurrency }, () => this.#work());
    this.#running = Promise.all([...workers, this.#restartServers()]).then(() => {});
  }

  /** Sets the addresses of the peers in other processes, after a restart. */
  set peers(peers: readonly Addresses[]) {
    this.#peers = peers;
  }

  /** Number of operations by outcome so far. */
  get outcomes(): Outcomes {
    return Object.fromEntries([...this.#outcomes].sort());
  }

  /**
   * Failures that must not happen: wrong bytes, errors other than `VortexError`, requests that
   * hang.
   */
  get failures(): readonly string[] {
    return this.#failures;
  }

  /** Records a failure that must not happen. */
  fail(what: string): void {
    if (this.#failures.length < MAX_FAILURES) this.#failures.push(what);
  }

  /** Waits for the requests in flight, then closes everything. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#inTime("the last operations", this.#running);
    for (const [protocol, downloader] of this.#resident) {
      await this.#inTime(`closing the client over ${protocol}`, downloader.close());
    }
    for (const { server } of [...this.#own, this.#hostile]) {
      await this.#inTime("closing a server", server?.close({ grace: 0 }));
    }
    await this.#inTime("closing the garbage peer", this.#garbage.close());
    await this.#inTime("closing the files", this.#files.close());
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #work(): Promise<void> {
    const { protocols, random } = this.#options;
    while (!this.#stopping) {
      const protocol = pick(protocols, random);
      const downloader = this.#resident.get(protocol);
      if (random() < 0.05) await this.#visit(protocol);
      else if (downloader !== undefined) await this.#operate(downloader, protocol);
    }
  }

  /**
   * Runs a client that joins, makes some requests, and leaves; now and then in the middle of them.
   */
  async #visit(protocol: Protocol): Promise<void> {
    const { random } = this.#options;
    const downloader = this.#makeClient(protocol);
    const all = Array.from({ length: 1 + Math.floor(random() * 4) }, () =>
      this.#operate(downloader, protocol),
    );
    await (random() < 0.5 ? Promise.all(all) : Promise.race(all));
    await this.#inTime(`a client over ${protocol} that leaves`, downloader.close());
    await Promise.all(all);
  }

  /** Waits for work that never fails, up to a timeout. A hang is recorded as a failure. */
  async #inTime(what: string, work: Promise<void> | undefined): Promise<void> {
    try {
      await orHangs(work);
    } catch (error) {
      this.fail(`${what}: ${detailsOf(error)}`);
    }
  }

  async #operate(downloader: Downloader, protocol: Protocol): Promise<void> {
    const { random } = this.#options;
    const operation = pick(operations, random);
    let outcome = "ok";
    try {
      await orHangs(this[operation](downloader, protocol));
    } catch (error) {
      outcome = error instanceof VortexError ? error.code : "failed";
      if (outcome === "failed" || outcome === "Internal")
        this.fail(`${operation} over ${protocol}: ${detailsOf(error)}`);
    }
    this.#outcomes.set(outcome, (this.#outcomes.get(outcome) ?? 0) + 1);
  }

  async piece(downloader: Downloader, protocol: Protocol): Promise<void> {
    const number = this.#number();
    const piece = await downloader.downloadPiece({
      ...named,
      addr: this.#honest(protocol),
      number,
    });
    requireRight(await piece.bytes(), pieceBytes(number));
  }

  async range(downloader: Downloader, protocol: Protocol): Promise<void> {
    const { random } = this.#options;
    const number = this.#number();
    const start = Math.floor(random() * 30_000);
    const end = start + Math.floor(random() * 30_000);
    const piece = await downloader.downloadPiece({
      ...named,
      addr: this.#honest(protocol),
      number,
      range: { start, end },
    });
    requireRight(await piece.bytes(), pieceBytes(number, start, end));
  }

  /** Fetches a piece and cancels it after one chunk. */
  async leftPiece(downloader: Downloader, protocol: Protocol): Promise<void> {
    const number = this.#number();
    const piece = await downloader.downloadPiece({
      ...named,
      addr: this.#honest(protocol),
      number,
    });
    const chunk = await piece.read();
    requireRight(chunk ?? new Uint8Array(0), pieceBytes(number, 0, chunk?.length ?? 0));
    piece.cancel();
  }

  async abortedPiece(downloader: Downloader, protocol: Protocol): Promise<void> {
    const { random } = this.#options;
    const number = this.#number();
    const aborting = new AbortController();
    const timer = setTimeout(() => aborting.abort(), random() * 30);
    try {
      const { signal } = aborting;
      const piece = await downloader.downloadPiece({
        ...named,
        addr: this.#honest(protocol),
        number,
        signal,
      });
      requireRight(await piece.bytes(), pieceBytes(number));
    } finally {
      clearTimeout(timer);
    }
  }

  async missingPiece(downloader: Downloader, protocol: Protocol): Promise<void> {
    await downloader.downloadPiece({
      ...named,
      addr: this.#honest(protocol),
      number: PIECE_COUNT + this.#number(),
    });
    throw new Error("a missing piece was announced");
  }

  /** Fetches a piece from a hostile peer. It must be correct or fail. */
  async hostilePiece(downloader: Downloader, protocol: Protocol): Promise<void> {
    const number = this.#number();
    const addr = addressOf(this.#hostile, protocol) ?? "127.0.0.1:1";
    const piece = await downloader.downloadPiece({ ...named, addr, number });
    requireRight(await piece.bytes(), pieceBytes(number));
  }

  async garbagePiece(downloader: Downloader, protocol: Protocol): Promise<void> {
    const addr = protocol === "quic" ? this.#garbage.quic : this.#garbage.tcp;
    const piece = await downloader.downloadPiece({ ...named, addr, number: 0 });
    requireRight(await piece.bytes(), pieceBytes(0));
  }

  async task(downloader: Downloader, protocol: Protocol): Promise<void> {
    const to = memorySink();
    await downloader.downloadTask({ ...this.#request(protocol), to });
    requireRight(to.bytes(), CONTENT);
  }

  async fileTask(downloader: Downloader, protocol: Protocol): Promise<void> {
    const path = join(this.#folder, `fetched-${this.#fileNumber++}`);
    try {
      await downloader.downloadTask({ ...this.#request(protocol), to: fileSink(path) });
      requireRight(await readFile(path), CONTENT);
    } finally {
      for (const left of [path, `${path}.part`, `${path}.part.journal`])
        await rm(left, { force: true });
    }
  }

  async cancelledTask(downloader: Downloader, protocol: Protocol): Promise<void> {
    const until = this.#number();
    let seen = 0;
    const ending = new AbortController();
    const download = downloader.downloadTask({
      ...this.#request(protocol),
      to: memorySink(),
      signal: ending.signal,
      onEvent: ({ type }) => {
        if (type === "piece" && ++seen > until) ending.abort();
      },
    });
    await download;
  }

  /** Reads a task in order, to its end or not. */
  async streamedTask(downloader: Downloader, protocol: Protocol): Promise<void> {
    const until = this.#number() * PIECE_LENGTH;
    const { content } = downloader.streamTask(this.#request(protocol));
    let at = 0;
    for await (const chunk of content) {
      requireRight(chunk, CONTENT.subarray(at, at + chunk.length));
      at += chunk.length;
      if (at > until) break;
    }
  }

  async disturbance(_downloader: Downloader, protocol: Protocol): Promise<void> {
    await disturb(
      this.#honest(protocol),
      protocol === "quic" ? "udp" : "tcp",
      this.#options.random,
    );
  }

  async #restartServers(): Promise<void> {
    const { random } = this.#options;
    while (!this.#stopping) {
      await new Promise<void>((resolve) => setTimeout(resolve, 200 + random() * 2000));
      if (this.#stopping) return;
      const own = pick([...this.#own, this.#hostile], random);
      try {
        await this.#inTime(
          "closing a server to restart it",
          own.server?.close({ grace: random() < 0.5 ? 0 : 200 }),
        );
        await this.#startServer(own);
      } catch (error) {
        this.fail(`a server that is restarted: ${detailsOf(error)}`);
      }
    }
  }

  /** Restarts a server on its previous ports, or on others if another program has taken them. */
  async #startServer(own: OwnServer): Promise<void> {
    const { entry, counters, protocols, identity } = this.#options;
    const start = (ports: OwnServer["ports"]): Promise<StorageServer> =>
      entry.startServer({
        store: own.store,
        host: "127.0.0.1",
        tls: identity,
        stallTimeout: 5_000,
        requestTimeout: 3_000,
        telemetry: counters.telemetry,
        ...Object.fromEntries(
          protocols.map((protocol) => [protocol, { port: ports[protocol] ?? 0 }]),
        ),
      });
    try {
      own.server = await start(own.ports);
    } catch (error) {
      if (!(error instanceof VortexError) || error.code !== "AddressInUse") throw error;
      own.server = await start({});
    }
    const { addresses } = own.server;
    own.ports = Object.fromEntries(
      protocols.map((protocol) => [protocol, addresses[protocol]?.port]),
    );
  }

  #makeClient(protocol: Protocol): Downloader {
    const { entry, counters, fingerprint, random } = this.#options;
    return entry.createDownloader({
      protocol,
      ...(protocol === "quic" && { tls: { fingerprints: [fingerprint] } }),
      connectTimeout: 2_000,
      stallTimeout: 2_000,
      pieceTimeout: 20_000,
      pool: {
        connectionsPerAddress: random() < 0.5 ? 1 : 3,
        idleTimeout: 5_000,
        cleanupInterval: 1_000,
      },
      telemetry: counters.telemetry,
    } satisfies DownloaderOptions);
  }

  #request(protocol: Protocol): TaskStreamOptions {
    const { random } = this.#options;
    const parents = new Set([this.#honest(protocol), this.#honest(protocol)]);
    if (random() < 0.4) parents.add(addressOf(this.#hostile, protocol) ?? this.#honest(protocol));
    return {
      ...named,
      parents: [...parents],
      contentLength: CONTENT.length,
      pieceLength: PIECE_LENGTH,
      digest: DIGEST,
    };
  }

  /** Returns the address of a random honest peer, which may have been killed. */
  #honest(protocol: Protocol): string {
    const all = [
      ...this.#own.map((own) => addressOf(own, protocol)),
      ...this.#peers.map((peer) => peer[protocol]),
    ];
    return pick(
      all.filter((addr) => addr !== undefined),
      this.#options.random,
    );
  }

  #number(): number {
    return Math.floor(this.#options.random() * PIECE_COUNT);
  }
}

const named = { taskId: TASK_ID, hostId: "soak" } as const;

/** Kinds of requests, repeated by their weight. */
const operations = [
  ...([
    "piece",
    "piece",
    "piece",
    "piece",
    "piece",
    "piece",
    "range",
    "range",
    "leftPiece",
    "leftPiece",
  ] as const),
  ...([
    "abortedPiece",
    "abortedPiece",
    "missingPiece",
    "hostilePiece",
    "hostilePiece",
    "garbagePiece",
  ] as const),
  ...(["task", "task", "fileTask", "cancelledTask", "streamedTask", "disturbance"] as const),
] as const;

function addressOf({ ports }: OwnServer, protocol: Protocol): string | undefined {
  const port = ports[protocol];
  return port === undefined ? undefined : formatAddress({ host: "127.0.0.1", port });
}

async function orHangs(work: Promise<void> | undefined): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const hangs = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new Error(`hangs for ${REQUEST_TIMEOUT_MS} ms`)),
      REQUEST_TIMEOUT_MS,
    );
  });
  try {
    await Promise.race([work, hangs]);
  } finally {
    clearTimeout(timer);
  }
}

function requireRight(found: Uint8Array, expected: Uint8Array): void {
  if (found.length !== expected.length)
    throw new Error(`piece: expected ${expected.length} bytes, got ${found.length}`);
  for (let at = 0; at < found.length; at++) {
    if (found[at] !== expected[at]) throw new Error(`a wrong byte at ${at} of ${found.length}`);
  }
}

function detailsOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
