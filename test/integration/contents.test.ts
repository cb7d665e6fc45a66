/** Different contents under one task id: at two peers, and before and after a resumed download. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileSink } from "../../adapters/files/sink.ts";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { digestOf } from "../../src/digest/digest.ts";
import { VortexError } from "../../src/errors.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { type MemoryPieceStore, memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import { memorySink } from "../../src/task/memory-sink.ts";
import type { TaskEvent, TaskStreamOptions } from "../../src/task/task.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { Protocol } from "../../src/transport/protocol.ts";
import { assertRejects } from "../support/failures.ts";
import { seededBytes } from "../support/random.ts";
import { type Program, root, runner, startProgram } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";

const main = join(root, "cli/main.ts");
const taskId = "e5".repeat(32);
const PIECE_LENGTH = 50_000;
const PIECE_COUNT = 24;
const CONTENT_LENGTH = PIECE_COUNT * PIECE_LENGTH - 7;
const before = seededBytes(81, CONTENT_LENGTH);
const after = seededBytes(82, CONTENT_LENGTH);
const digest = digestOf("sha256", after, nativeHashers);
const protocols = ["quic", "tcp", "grpc"] as const;
/** Timeout in ms; processes start slowly on a busy machine. */
const testOptions = { timeout: 110_000 };

/**
 * Peer whose content can be changed, and that can hold piece requests after a number of answers.
 */
class ChangingPeer {
  readonly server: StorageServer;
  readonly addr: string;
  /** Number of piece requests. */
  requests = 0;
  #content: Uint8Array;
  #change: { readonly answers: number; readonly content: Uint8Array } | undefined;
  #budget = Number.POSITIVE_INFINITY;
  #release: () => void = () => {};
  #onHeld: () => void = () => {};
  #isHeld = false;

  private constructor(server: StorageServer, protocol: Protocol, content: Uint8Array) {
    const address = server.addresses[protocol];
    assert.ok(address !== undefined);
    this.server = server;
    this.addr = formatAddress(address);
    this.#content = content;
  }

  static async start(protocol: Protocol, content: Uint8Array): Promise<ChangingPeer> {
    const { startServer } = await runtimeEntry();
    let peer: ChangingPeer | undefined;
    const stores = new Map<Uint8Array, MemoryPieceStore>();
    const storeOf = (bytes: Uint8Array): MemoryPieceStore => {
      const store = stores.get(bytes) ?? memoryPieceStoreWith(nativeHashers);
      if (!stores.has(bytes)) store.putTask(taskId, bytes, { pieceLength: PIECE_LENGTH });
      stores.set(bytes, store);
      return store;
    };
    const server = await startServer({
      host: "127.0.0.1",
      [protocol]: { port: 0 },
      store: {
        getTask: (id) => storeOf(peer?.content ?? content).getTask(id),
        async getPiece(request) {
          await peer?.enter();
          return storeOf(peer?.content ?? content).getPiece(request);
        },
      },
    });
    peer = new ChangingPeer(server, protocol, content);
    return peer;
  }

  get content(): Uint8Array {
    return this.#content;
  }

  set content(content: Uint8Array) {
    this.#content = content;
    this.#budget = Number.POSITIVE_INFINITY;
    this.#release();
  }

  /** Answers the next `budget` requests and holds the ones after. */
  hold(budget: number): void {
    this.#isHeld = false;
    this.#budget = budget;
  }

  /** Changes the content after so many further answers. */
  changeAfter(answers: number, content: Uint8Array): void {
    this.requests = 0;
    this.#change = { answers, content };
  }

  async enter(): Promise<void> {
    this.requests++;
    if (this.requests > (this.#change?.answers ?? Number.POSITIVE_INFINITY))
      this.#content = this.#change?.content ?? this.#content;
    if (this.#budget-- > 0) return;
    this.#isHeld = true;
    this.#onHeld();
    const release = this.#release;
    await new Promise<void>((resolve) => {
      this.#release = () => {
        release();
        resolve();
      };
    });
  }

  /** Resolves once a request is held. */
  async held(): Promise<void> {
    if (this.#isHeld) return;
    await new Promise<void>((resolve) => {
      this.#onHeld = resolve;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#release();
    await this.server.close();
  }
}

async function inDirectory(run: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-contents-"));
  try {
    await run(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Creates a downloader that trusts the given peers, and is patient with a slow machine. */
async function downloaderFor(protocol: Protocol, peers: readonly ChangingPeer[]) {
  const { createDownloader } = await runtimeEntry();
  const fingerprints = peers.flatMap(({ server }) => server.fingerprint ?? []);
  return createDownloader({
    protocol,
    ...(protocol === "quic" && { tls: { fingerprints } }),
    connectTimeout: 60_000,
    stallTimeout: 60_000,
  });
}

function assertFile(path: string, expected: Uint8Array): void {
  assert.equal(Buffer.compare(readFileSync(path), expected), 0, "the file has other bytes");
}

describe("two peers with different contents of one length", () => {
  for (const protocol of protocols) {
    it(
      `over ${protocol}: the task fails, names both and leaves no file; with a digest it succeeds`,
      testOptions,
      () =>
        inDirectory(async (directory) => {
          await using one = await ChangingPeer.start(protocol, before);
          await using other = await ChangingPeer.start(protocol, after);
          await using downloader = await downloaderFor(protocol, [one, other]);
          const path = join(directory, "out");
          const parents = [one.addr, other.addr];
          const request: TaskStreamOptions = {
            taskId,
            hostId: "h",
            parents,
            contentLength: CONTENT_LENGTH,
            pieceLength: PIECE_LENGTH,
          };
          const error = await assertRejects(
            downloader.downloadTask({ ...request, to: fileSink(path) }),
            "DigestMismatch",
          );
          for (const { addr } of [one, other])
            assert.ok(error.message.includes(addr), error.message);
          assert.deepEqual(readdirSync(directory), []);
          const report = await downloader.downloadTask({ ...request, digest, to: fileSink(path) });
          assert.deepEqual(report.verified, { level: "whole", digest, by: "caller" });
          assertFile(path, after);
        }),
    );

    it(
      `over ${protocol}: one that had other content for its first answers makes no mixed file`,
      testOptions,
      async () => {
        // A fast reference and few pieces: the other peer is compared right after its first answer.
        const short = before.subarray(0, 2 * PIECE_LENGTH);
        const changed = after.subarray(0, 2 * PIECE_LENGTH);
        await using one = await ChangingPeer.start(protocol, changed);
        await using other = await ChangingPeer.start(protocol, short);
        await using downloader = await downloaderFor(protocol, [one, other]);
        for (let tries = 0; tries < 10; tries++) {
          other.content = short;
          other.changeAfter(1, changed);
          const sink = memorySink();
          const parents = [one.addr, other.addr];
          const request = {
            taskId,
            hostId: "h",
            parents,
            contentLength: short.length,
            pieceLength: PIECE_LENGTH,
          };
          try {
            await downloader.downloadTask({ ...request, to: sink });
            // Right only if no piece of the first answers was needed.
            assert.equal(Buffer.compare(sink.bytes(), changed), 0, "the content is mixed");
          } catch (error) {
            if (!(error instanceof VortexError)) throw error;
            assert.equal(error.code, "DigestMismatch");
          }
        }
      },
    );

    it(
      `over ${protocol}: peers with the same content are compared, and its pieces count as verified`,
      testOptions,
      () =>
        inDirectory(async (directory) => {
          await using one = await ChangingPeer.start(protocol, after);
          await using other = await ChangingPeer.start(protocol, after);
          await using downloader = await downloaderFor(protocol, [one, other]);
          const path = join(directory, "out");
          const parents = [one.addr, other.addr];
          const request: TaskStreamOptions = {
            taskId,
            hostId: "h",
            parents,
            contentLength: CONTENT_LENGTH,
            pieceLength: PIECE_LENGTH,
          };
          // On a slow machine a piece may be asked for twice.
          let hedged = 0;
          const onEvent = ({ type }: TaskEvent): void => {
            if (type === "hedged") hedged++;
          };
          const options = { to: fileSink(path), onEvent };
          const report = await downloader.downloadTask({ ...request, ...options });
          assert.deepEqual(report.verified, { level: "pieces" });
          for (const { errors } of report.parents)
            assert.equal(errors, 0, "a request cancelled unread is not an error");
          assertFile(path, after);
          assert.ok(
            one.requests + other.requests > PIECE_COUNT,
            "stored pieces were compared with a peer",
          );
          assert.ok(
            one.requests + other.requests <= PIECE_COUNT + 2 * (3 + 2) + 2 * hedged,
            `${one.requests} and ${other.requests} requests`,
          );
        }),
    );
  }
});

describe("vortex-peer get, after the content behind its task changed", () => {
  for (const protocol of protocols) {
    it(
      `over ${protocol}: fails with a reason, then starts from zero and reports the verification`,
      testOptions,
      () =>
        inDirectory(async (directory) => {
          await using peer = await ChangingPeer.start(protocol, before);
          const path = join(directory, "out");
          const get = (...more: string[]): Program => {
            const pin =
              peer.server.fingerprint === undefined
                ? []
                : ["--fingerprint", peer.server.fingerprint];
            const from = [
              "--peer",
              peer.addr,
              "--protocol",
              protocol,
              "--task-id",
              taskId,
              ...(protocol === "quic" ? pin : []),
            ];
            const shape = [
              "--content-length",
              String(CONTENT_LENGTH),
              "--piece-length",
              String(PIECE_LENGTH),
              "--stall-timeout",
              "60s",
            ];
            return startProgram([...runner, main, "get", ...from, ...shape, "-o", path, ...more]);
          };
          const interrupted = async (): Promise<void> => {
            peer.content = before;
            peer.hold(PIECE_COUNT / 2);
            const begun = get();
            await Promise.race([peer.held(), begun.ended.then(({ err }) => assert.fail(err))]);
            while (!hasPieces(path)) await new Promise((resolve) => setTimeout(resolve, 10));
            begun.kill();
            await begun.ended;
            peer.content = after;
          };
          await interrupted();
          const failed = await get().ended;
          assert.equal(failed.code, 6, failed.err);
          assert.match(
            failed.err,
            /vortex-peer: DigestMismatch: .* and what an earlier download from .* left \(the journal\) have different contents/,
          );
          assert.deepEqual(readdirSync(directory), [], "no file is left");
          const restarted = await get().ended;
          assert.equal(restarted.code, 0, restarted.err);
          assert.match(restarted.err, /, unverified \(no --digest: only pieces were checked\)\n$/);
          assertFile(path, after);

          // With the digest, stored pieces of the other content are dropped.
          await rm(path);
          await interrupted();
          const whole = await get("--digest", digest, "--json").ended;
          assert.equal(whole.code, 0, whole.err);
          const lines = whole.out
            .trim()
            .split("\n")
            .map((line) => JSON.parse(line) as Record<string, unknown>);
          assert.deepEqual(lines.at(-1)?.verified, { level: "whole", digest, by: "caller" });
          assert.ok(lines.some(({ type }) => type === "restarted"));
          assertFile(path, after);
        }),
    );
  }
});

/** Returns true if the journal of a download records any piece. */
function hasPieces(path: string): boolean {
  const journal = `${path}.part.journal`;
  return existsSync(journal) && readFileSync(journal, "utf8").trim().split("\n").length > 3;
}
