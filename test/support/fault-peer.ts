/**
 * Test program: a peer whose process is killed, whose event loop is blocked, or whose file
 * descriptors are exhausted. It serves one task for each protocol, and prints the ports as JSON.
 * Then it reads commands from standard input, and replies to each command with one line:
 *
 * - `block N` replies `blocking`, then blocks the event loop for N ms.
 * - `exhaust` opens files until no descriptors are left, and replies `exhausted COUNT`.
 * - `free` closes these files and replies `freed`.
 * - `reports` replies the distinct error codes that `onError` received since the last `reports`.
 * - `fetch P` fetches piece 0 twice over protocol P from the peer `other`. Replies both outcomes.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import process from "node:process";
import { createInterface } from "node:readline";
import { VortexError } from "../../src/errors.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { StoredPiece } from "../../src/store/store.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { seededBytes } from "./random.ts";
import { runtimeEntry } from "./runtime-entry.ts";

/** Protocol over which a fault peer serves. */
export type FaultProtocol = "quic" | "tcp" | "grpc";

/** Number for each protocol, such as a port. */
export type PerProtocol = Readonly<Record<FaultProtocol, number>>;

/** Command-line argument of this test program, as JSON. */
export interface FaultPeerOptions {
  readonly seed: number;
  readonly contentLength: number;
  readonly pieceLength: number;
  readonly identity: TlsIdentity;
  /** Port to listen on for each protocol. Default: free ports. */
  readonly ports?: PerProtocol;
  /**
   * Number of piece requests that are served completely, for each protocol. Content for later
   * requests stalls after its first part. The first stalled request prints the line `held
   * PROTOCOL`. Default: unlimited.
   */
  readonly budget?: PerProtocol;
  /**
   * Peer that the command `fetch` downloads from: its port for each protocol, and the fingerprint
   * of its certificate.
   */
  readonly other?: { readonly ports: PerProtocol; readonly fingerprint: string };
}

/** Ports of the peer and the fingerprint of its certificate, which the program prints as JSON. */
export interface FaultPeerPorts extends PerProtocol {
  readonly fingerprint: string;
}

/** Returns the id of the task that a fault peer serves over `protocol`. */
export function faultTaskId(protocol: FaultProtocol): string {
  return { quic: "a1", tcp: "b2", grpc: "c3" }[protocol].repeat(32);
}

/** All protocols over which a fault peer serves. */
export const faultProtocols: readonly FaultProtocol[] = ["quic", "tcp", "grpc"];

const argument = process.argv[2];
// Tests import the exports above without starting a peer.
if (argument?.startsWith("{")) await serve(JSON.parse(argument) as FaultPeerOptions);

async function serve(options: FaultPeerOptions): Promise<void> {
  // Deno 2.9 creates a pipe for signals at the first registration, and panics if no descriptor is
  // left. So the first registration precedes the exhaustion.
  process.on("SIGUSR2", () => {});
  const { seed, contentLength, pieceLength, identity, ports, budget, other } = options;
  const { createDownloader, startServer } = await runtimeEntry();
  const content = seededBytes(seed, contentLength);
  const servers: StorageServer[] = [];
  const reports = new Set<string>();
  for (const protocol of faultProtocols) {
    const whole = new MemoryPieceStore();
    const taskId = faultTaskId(protocol);
    whole.putTask(taskId, content, { pieceLength });
    let remaining = budget?.[protocol] ?? Number.POSITIVE_INFINITY;
    const server = await startServer({
      host: "127.0.0.1",
      tls: identity,
      onError: ({ code }) => reports.add(code),
      [protocol]: { port: ports?.[protocol] ?? 0 },
      store: {
        getTask: (id) => whole.getTask(id),
        async getPiece(request) {
          const piece = await whole.getPiece(request);
          if (piece === undefined || remaining-- > 0) return piece;
          if (remaining === -1) console.log(`held ${protocol}`);
          return { ...piece, read: () => partThenStall(piece) };
        },
      },
    });
    servers.push(server);
  }
  const portOf = (protocol: FaultProtocol): number =>
    servers.flatMap(({ addresses }) => addresses[protocol]?.port ?? [])[0] ?? 0;
  const [quic, tcp, grpc] = [portOf("quic"), portOf("tcp"), portOf("grpc")];
  console.log(
    JSON.stringify({
      quic,
      tcp,
      grpc,
      fingerprint: servers[0]?.fingerprint ?? "",
    } satisfies FaultPeerPorts),
  );

  const files: number[] = [];
  for await (const line of createInterface({ input: process.stdin })) {
    const [word, detail] = line.split(" ");
    if (word === "block") {
      // A synchronous write: some runtimes would delay console.log until after the block.
      writeSync(1, "blocking\n");
      for (const until = performance.now() + Number(detail); performance.now() < until; );
    } else if (word === "exhaust") {
      exhaustDescriptors(files);
      console.log(`exhausted ${files.length}`);
    } else if (word === "free") {
      for (const file of files.splice(0)) closeSync(file);
      console.log("freed");
    } else if (word === "reports") {
      console.log([...reports].join(" "));
      reports.clear();
    } else if (word === "fetch" && other !== undefined) {
      const protocol = detail as FaultProtocol;
      const outcomes: string[] = [];
      for (let turn = 0; turn < 2; turn++) outcomes.push(await fetchFirst(protocol, other));
      console.log(outcomes.join(" "));
    }
  }
  process.exit(0);

  /**
   * Fetches piece 0 with a new downloader. Returns `right` or `wrong` for its content, or an error
   * code.
   */
  async function fetchFirst(
    protocol: FaultProtocol,
    { ports, fingerprint }: NonNullable<FaultPeerOptions["other"]>,
  ): Promise<string> {
    const tls = protocol === "quic" && { tls: { fingerprints: [fingerprint] } };
    await using downloader = createDownloader({ protocol, ...tls });
    try {
      const addr = `127.0.0.1:${ports[protocol]}`;
      const piece = await downloader.downloadPiece({
        addr,
        hostId: "h",
        taskId: faultTaskId(protocol),
        number: 0,
      });
      const bytes = await piece.bytes();
      return bytes.every((byte, at) => byte === content[at]) ? "right" : "wrong";
    } catch (error) {
      if (error instanceof VortexError) return error.code;
      throw error;
    }
  }
}

async function* partThenStall(piece: StoredPiece): AsyncGenerator<Uint8Array> {
  yield* piece.read({
    start: 0,
    end: 1 + ((piece.metadata.number * 7919) % Number(piece.metadata.length)),
  });
  await new Promise(() => {});
}

function exhaustDescriptors(files: number[]): void {
  try {
    for (;;) files.push(openSync("/dev/null", "r"));
  } catch {
    // EMFILE: no descriptors are left.
  }
}
