/**
 * A peer in a process of its own, for tests of what happens to processes: it is killed, its event loop is blocked, its file
 * descriptors are used up. Serves a task for each protocol, over that protocol, and prints where, as JSON. Then it obeys lines on
 * its standard input, each answered with a line.
 *
 * | line | what it does | answer |
 * | --- | --- | --- |
 * | `block N` | blocks its event loop for N milliseconds, from the answer on | `blocking` |
 * | `exhaust` | opens files until there are no descriptors | `exhausted N` |
 * | `free` | closes them | `freed` |
 * | `reports` | forgets what its servers reported to `onError` | the codes of those errors, each once |
 * | `fetch P` | fetches piece 0 over protocol P from the peer that it was told of, twice | the outcomes |
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
import { runtimeFace } from "./runtime-face.ts";

/** The protocols of a fault peer. */
export type FaultProtocol = "quic" | "tcp" | "grpc";

/** A number for each protocol. */
export type EachProtocol = Readonly<Record<FaultProtocol, number>>;

/** What the peer is told, as JSON. */
export interface FaultPeerOptions {
  readonly seed: number;
  readonly contentLength: number;
  readonly pieceLength: number;
  readonly identity: TlsIdentity;
  /** Default: any that are free. */
  readonly ports?: EachProtocol;
  /**
   * Pieces of each protocol's task that are sent; of the next ones a part is, and nothing more, and the first of them is told by
   * a line `held P`. Default: all.
   */
  readonly budget?: EachProtocol;
  /** Whom to fetch from: a port for each protocol, and the fingerprint of its certificate. */
  readonly other?: { readonly ports: EachProtocol; readonly fingerprint: string };
}

/** Where the peer serves. */
export interface FaultPeerPorts extends EachProtocol {
  readonly fingerprint: string;
}

/** The task that a fault peer serves over a protocol. */
export function faultTaskId(protocol: FaultProtocol): string {
  return { quic: "a1", tcp: "b2", grpc: "c3" }[protocol].repeat(32);
}

/** All of them. */
export const faultProtocols: readonly FaultProtocol[] = ["quic", "tcp", "grpc"];

const argument = process.argv[2];
// The tests import the types and names above.
if (argument?.startsWith("{")) await serve(JSON.parse(argument) as FaultPeerOptions);

async function serve(options: FaultPeerOptions): Promise<void> {
  const { seed, contentLength, pieceLength, identity, ports, budget, other } = options;
  const { createDownloader, startServer } = await runtimeFace();
  const content = seededBytes(seed, contentLength);
  const servers: StorageServer[] = [];
  const reports = new Set<string>();
  for (const protocol of faultProtocols) {
    const whole = new MemoryPieceStore();
    const taskId = faultTaskId(protocol);
    whole.putTask(taskId, content, { pieceLength });
    let left = budget?.[protocol] ?? Number.POSITIVE_INFINITY;
    const server = await startServer({
      host: "127.0.0.1",
      tls: identity,
      onError: ({ code }) => reports.add(code),
      [protocol]: { port: ports?.[protocol] ?? 0 },
      store: {
        getTask: (id) => whole.getTask(id),
        async getPiece(request) {
          const piece = await whole.getPiece(request);
          if (piece === undefined || left-- > 0) return piece;
          if (left === -1) console.log(`held ${protocol}`);
          return { ...piece, read: () => partOf(piece) };
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
      // Out before it blocks, whatever the runtime does with its standard output.
      writeSync(1, "blocking\n");
      for (const until = performance.now() + Number(detail); performance.now() < until; );
    } else if (word === "exhaust") {
      exhaust(files);
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

  /** What one request by a new client comes to: `right`, or the code of its error. */
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

async function* partOf(piece: StoredPiece): AsyncGenerator<Uint8Array> {
  yield* piece.read({
    start: 0,
    end: 1 + ((piece.metadata.number * 7919) % Number(piece.metadata.length)),
  });
  await new Promise(() => {});
}

function exhaust(files: number[]): void {
  try {
    for (;;) files.push(openSync("/dev/null", "r"));
  } catch {
    // There are none left.
  }
}
