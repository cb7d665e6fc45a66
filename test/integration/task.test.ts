import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileSink } from "../../adapters/files/sink.ts";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { runtimeApi } from "../../entry/runtime-api.ts";
import { digestOf } from "../../src/digest/digest.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import type { PieceStore } from "../../src/store/store.ts";
import { memorySink } from "../../src/task/memory-sink.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { seededBytes, seededRandom } from "../support/random.ts";
import { type Program, root, runner, startProgram } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";
import type { TaskFetchOptions } from "../support/task-fetch.ts";
import type { TaskPeerOptions } from "../support/task-peer.ts";

const entry = runtimeApi(() => Promise.reject(new Error("no QUIC here")));
const taskId = "c3".repeat(32);
const longTimeouts = { stallTimeout: 300_000, connectTimeout: 60_000 } as const;

type Protocol = NonNullable<TaskPeerOptions["protocol"]>;

/** Parent in a separate process. */
interface Parent {
  readonly program: Program;
  readonly addr: string;
  /** Fingerprint of the parent's QUIC certificate. */
  readonly fingerprint: string;
}

async function startParent(options: Omit<TaskPeerOptions, "taskId">): Promise<Parent> {
  const argument = JSON.stringify({ taskId, ...options } satisfies TaskPeerOptions);
  const program = startProgram([...runner, `${root}test/support/task-peer.ts`, argument]);
  const [, port, fingerprint = ""] = (await program.line()).split(" ");
  return { program, addr: `127.0.0.1:${port}`, fingerprint };
}

/** Starts a TCP parent in this process; `onAsk` is called for each request and may delay it. */
async function startCounted(
  content: Uint8Array,
  pieceLength: number,
  onAsk: (number: number) => Promise<void> | void,
  uploadRateLimit?: number,
): Promise<StorageServer> {
  const whole = memoryPieceStoreWith(nativeHashers);
  whole.putTask(taskId, content, { pieceLength });
  const store: PieceStore = {
    getTask: (id) => whole.getTask(id),
    async getPiece(request) {
      await onAsk(request.number);
      return whole.getPiece(request);
    },
  };
  const limit = uploadRateLimit === undefined ? {} : { uploadRateLimit };
  return entry.startServer({ host: "127.0.0.1", tcp: { port: 0 }, store, ...limit });
}

function addrOf(server: StorageServer, protocol: "tcp" | "grpc" = "tcp"): string {
  const address = server.addresses[protocol];
  assert.ok(address);
  return formatAddress(address);
}

async function inDirectory(run: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-task-"));
  try {
    await run(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function assertFile(path: string, expected: Uint8Array): void {
  const found = readFileSync(path);
  assert.equal(found.length, expected.length);
  assert.equal(Buffer.compare(found, expected), 0, "the file has other bytes");
}

/** Reason why a process cannot mount a private disk, for a test's name; empty if it can. */
const noMounts =
  spawnSync("unshare", ["-m", "true"]).status === 0
    ? ""
    : " [gap: needs root and Linux, for a private disk]";

/** Timeout in ms. Processes start slowly on a busy machine, and one test starts 21. */
const testOptions = { timeout: 600_000 };

describe("a task from three bad parents and a good one, between processes", () => {
  for (const protocol of ["quic", "tcp", "grpc"] satisfies Protocol[]) {
    it(
      `over ${protocol}: is correct with one killed, one stalled and one corrupting every fifth piece, and the report names all three`,
      testOptions,
      () => fetchFromBadParents(protocol),
    );
  }
});

function fetchFromBadParents(protocol: Protocol): Promise<void> {
  return inDirectory(async (directory) => {
    const contentLength = 8_000_123;
    const pieceLength = 100_000;
    const shape = { seed: 21, contentLength, pieceLength, protocol };
    const parents = await Promise.all([
      startParent({ ...shape, behaviour: "hang" }),
      startParent({ ...shape, behaviour: "stall" }),
      startParent({ ...shape, behaviour: "corrupt" }),
      startParent({ ...shape, behaviour: "late" }),
    ]);
    const [killed, stalled, corrupt, honest] = parents;
    assert.ok(killed && stalled && corrupt && honest);
    try {
      const content = seededBytes(21, contentLength);
      const path = join(directory, "out");
      const { createDownloader } = await runtimeEntry();
      await using downloader = createDownloader({
        protocol,
        ...(protocol === "quic" && {
          tls: { fingerprints: parents.map(({ fingerprint }) => fingerprint) },
        }),
        connectTimeout: 60_000,
        stallTimeout: 12_000,
      });
      let onCaught: () => void = () => {};
      const isCaught = new Promise<void>((resolve) => {
        onCaught = resolve;
      });
      const download = downloader.downloadTask({
        taskId,
        hostId: "h",
        parents: parents.map(({ addr }) => addr),
        contentLength,
        pieceLength,
        digest: digestOf("sha256", content, nativeHashers),
        to: fileSink(path),
        onEvent: (event) => {
          if (event.type === "parent-excluded" && event.parent === corrupt.addr) onCaught();
        },
      });
      // This parent delivers two pieces and hangs in the third, so the task cannot end before the
      // kill.
      for (let asked = 0; asked < 3; asked++) await killed.program.line();
      killed.program.kill();
      // Until then no other parent delivers, so the corrupting parent reaches a fifth piece.
      await Promise.race([isCaught, download]);
      honest.program.send("");
      const report = await download;
      assertFile(path, content);
      const told = new Map(report.parents.map((parent) => [parent.parent, parent]));
      assert.ok((told.get(killed.addr)?.errors ?? 0) > 0);
      assert.ok(told.get(stalled.addr)?.reasons.some(({ code }) => code === "Stalled"));
      assert.equal(told.get(stalled.addr)?.pieces, 0);
      assert.equal(told.get(corrupt.addr)?.state, "excluded");
      assert.ok(told.get(corrupt.addr)?.reasons.some(({ code }) => code === "DigestMismatch"));
      assert.equal(told.get(honest.addr)?.state, "active");
    } finally {
      for (const { program } of parents) program.kill();
      await Promise.all(parents.map(({ program }) => program.ended));
    }
  });
}

describe("a task over TCP, between processes", () => {
  it(
    "survives kill -9 at 20 random moments: correct at the end, and no verified piece is fetched twice",
    testOptions,
    () =>
      inDirectory(async (directory) => {
        const pieceLength = 20_000;
        const pieces = 400;
        const content = seededBytes(31, pieces * pieceLength - 77);
        const random = seededRandom(4711);
        const path = join(directory, "out");
        const verified = new Set<number>();
        /**
         * Resumes in a new process. The parents deliver `budget` pieces and hold later requests.
         */
        const fetch = async (
          budget: number,
          use: (program: Program, held: Promise<void>) => Promise<void>,
        ): Promise<void> => {
          const asked: number[] = [];
          let release: () => void = () => {};
          const released = new Promise<void>((resolve) => {
            release = resolve;
          });
          let onHeld: () => void = () => {};
          const held = new Promise<void>((resolve) => {
            onHeld = resolve;
          });
          let compared = 0;
          const onAsk = (number: number): Promise<void> | void => {
            if (verified.has(number) || asked.includes(number)) {
              compared++;
              return;
            }
            asked.push(number);
            if (asked.length <= budget) return;
            onHeld();
            return released;
          };
          // New parents for each process: a late request of a killed process must not reach the
          // parents of the next one.
          const servers = [
            await startCounted(content, pieceLength, onAsk),
            await startCounted(content, pieceLength, onAsk),
          ];
          const options: TaskFetchOptions = {
            request: {
              taskId,
              hostId: "h",
              parents: servers.map((server) => addrOf(server)),
              contentLength: content.length,
              pieceLength,
              digest: digestOf("sha256", content, nativeHashers),
            },
            path,
          };
          try {
            await use(
              startProgram([
                ...runner,
                `${root}test/support/task-fetch.ts`,
                JSON.stringify(options),
              ]),
              held,
            );
          } finally {
            release();
            await Promise.all(servers.map((server) => server.close()));
          }
          // Per parent: three pieces of other parents, and at the end the first piece it announced.
          assert.ok(
            compared <= 2 * (3 + 1),
            `${compared} pieces were requested again; at most 8 are compared`,
          );
        };
        for (let round = 0; round < 20; round++) {
          await fetch(1 + Math.floor(random() * 24), async (program, held) => {
            await Promise.race([
              held,
              program.ended.then(({ err }) => assert.fail(`the program exited by itself: ${err}`)),
            ]);
            program.kill();
            assert.equal((await program.ended).code, null);
          });
          for (const number of journaled(path)) verified.add(number);
        }
        assert.ok(verified.size > 20, `${verified.size} pieces were verified`);
        await fetch(Number.POSITIVE_INFINITY, async (program) => {
          const { code, err } = await program.ended;
          assert.equal(code, 0, err);
          assert.equal(await program.line(), `resumed ${verified.size}`);
        });
        assertFile(path, content);
      }),
  );

  it(
    `a disk that is read-only, then full, then larger: reports it, and resumes from verified pieces${noMounts}`,
    { ...testOptions, skip: noMounts !== "" },
    () =>
      inDirectory(async (directory) => {
        const pieceLength = 100_000;
        const pieces = 40;
        const content = seededBytes(71, pieces * pieceLength);
        const asked: number[] = [];
        const server = await startCounted(
          content,
          pieceLength,
          (number) => void asked.push(number),
        );
        const request = {
          taskId,
          hostId: "h",
          parents: [addrOf(server)],
          contentLength: content.length,
          pieceLength,
        };
        const digest = digestOf("sha256", content, nativeHashers);
        const options: TaskFetchOptions = {
          request: { ...request, digest },
          path: join(directory, "out"),
        };
        // A mount private to this process. After each try, the program waits for a line of input.
        const tries = [
          'mount -t tmpfs -o ro,size=2m tmpfs "$0"; "$@"; echo "code $?"; read next',
          'mount -o remount,rw,size=2m tmpfs "$0"; "$@"; echo "code $?"; read next',
          'mount -o remount,size=64m tmpfs "$0"; "$@"; echo "code $?"',
        ];
        const fetch = [...runner, `${root}test/support/task-fetch.ts`, JSON.stringify(options)];
        const program = startProgram([
          "unshare",
          "-m",
          "sh",
          "-c",
          tries.join("; "),
          directory,
          ...fetch,
        ]);
        try {
          assert.equal(await program.line(), "code 1");
          assert.deepEqual(asked, []);
          program.send("");
          assert.equal(await program.line(), "code 1");
          const before = asked.length;
          program.send("");
          const [, resumed] = (await program.line()).split(" ");
          assert.ok(Number(resumed) > 0, `${resumed} pieces were kept`);
          // Three pieces are compared. The server may count the last requests of the failed
          // download, up to eight, only after that download has ended.
          const again = asked.length - before - (pieces - Number(resumed));
          assert.ok(
            again >= 0 && again <= 3 + 8,
            `${again} of ${resumed} verified pieces were requested again`,
          );
          assert.ok(again < Number(resumed), `only ${resumed} pieces were kept`);
          // The task has a digest, so it succeeds only if every byte is right.
          assert.equal(await program.line(), "code 0");
          const { err } = await program.ended;
          assert.match(err, /StorageFailed.*read-only/s);
          assert.match(err, /no space left on device/);
        } finally {
          program.kill();
          await server.close();
        }
      }),
  );

  it(
    "the only parent is away long enough to be excluded, then returns: the task resumes",
    testOptions,
    async () => {
      const pieceLength = 64 * 1024;
      const content = seededBytes(91, 40 * pieceLength);
      const asked: number[] = [];
      let stop: () => void = () => {};
      const stopped = new Promise<void>((resolve) => {
        stop = resolve;
      });
      // The first server never answers requests for the last pieces.
      const first = await startCounted(content, pieceLength, (number) => {
        asked.push(number);
        if (number < 20) return;
        stop();
        return new Promise(() => {});
      });
      const port = first.addresses.tcp?.port ?? 0;
      await using downloader = entry.createDownloader({ protocol: "tcp", ...longTimeouts });
      const to = memorySink();
      const request = {
        taskId,
        hostId: "h",
        parents: [addrOf(first)],
        contentLength: content.length,
        pieceLength,
      };
      const events: string[] = [];
      let exclusion: () => void = () => {};
      const gone = new Promise<void>((resolve) => {
        exclusion = resolve;
      });
      const download = downloader.downloadTask({
        ...request,
        to,
        onEvent: ({ type }) => {
          if (type.startsWith("parent-")) events.push(type);
          if (type === "parent-excluded") exclusion();
        },
      });
      await Promise.race([stopped, download]);
      const before = download.progress().pieces;
      await first.close({ grace: 0 });
      await Promise.race([gone, download]);
      const { patienceLeft } = download.progress();
      assert.ok(patienceLeft !== undefined && patienceLeft <= 60_000, `${patienceLeft} ms`);
      const store = memoryPieceStoreWith(nativeHashers);
      store.putTask(taskId, content, { pieceLength });
      const second = await entry.startServer({ host: "127.0.0.1", tcp: { port }, store });
      try {
        const report = await download;
        assert.equal(Buffer.compare(to.bytes(), content), 0);
        assert.deepEqual(events, ["parent-excluded", "parent-restored"]);
        assert.ok(before > 0 && report.pieces === 40, `${before} pieces before`);
        assert.equal(asked.length, new Set(asked).size, "no piece was requested twice");
      } finally {
        await second.close({ grace: 0 });
      }
    },
  );

  it("fetches about equally from three parents of the same rate", testOptions, async () => {
    const pieceLength = 256 * 1024;
    const content = seededBytes(41, 96 * pieceLength);
    const servers = await Promise.all(
      [1, 2, 3].map(() => startCounted(content, pieceLength, () => {}, 2_000_000)),
    );
    try {
      await using downloader = entry.createDownloader({ protocol: "tcp", ...longTimeouts });
      const to = memorySink();
      const parents = servers.map((server) => addrOf(server));
      const request = { taskId, hostId: "h", parents, contentLength: content.length, pieceLength };
      const report = await downloader.downloadTask({ ...request, to });
      assert.equal(Buffer.compare(to.bytes(), content), 0);
      for (const { pieces } of report.parents) {
        assert.ok(
          pieces >= 20 && pieces <= 46,
          report.parents.map((parent) => parent.pieces).join(", "),
        );
      }
    } finally {
      await Promise.all(servers.map((server) => server.close()));
    }
  });

  it("a peer serves its stored pieces while it fetches the rest", testOptions, () =>
    inDirectory(async (directory) => {
      const pieceLength = 50_000;
      const content = seededBytes(51, 40 * pieceLength + 1);
      let open: () => void = () => {};
      const gate = new Promise<void>((resolve) => {
        open = resolve;
      });
      // The origin holds later pieces until the third peer has some of the first from the second.
      const origin = await startCounted(content, pieceLength, (number) =>
        number < 10 ? undefined : gate,
      );
      await using second = entry.createDownloader({ protocol: "tcp", ...longTimeouts });
      let begin: () => void = () => {};
      const begun = new Promise<void>((resolve) => {
        begin = resolve;
      });
      const fetching = second.downloadTask({
        taskId,
        hostId: "second",
        parents: [addrOf(origin)],
        contentLength: content.length,
        pieceLength,
        to: fileSink(join(directory, "second")),
        onEvent: ({ type }) => void (type === "started" && begin()),
      });
      const seeding = await entry.startServer({
        host: "127.0.0.1",
        tcp: { port: 0 },
        grpc: { port: 0 },
        store: fetching.store,
      });
      try {
        await Promise.race([begun, fetching]);
        await using third = entry.createDownloader({ protocol: "tcp", ...longTimeouts });
        const path = join(directory, "third");
        const parents = [{ addr: addrOf(seeding), apiAddr: addrOf(seeding, "grpc") }];
        let some: () => void = () => {};
        const hasSome = new Promise<void>((resolve) => {
          some = resolve;
        });
        const from = third.downloadTask({
          taskId,
          hostId: "third",
          parents,
          contentLength: content.length,
          pieceLength,
          to: fileSink(path),
          onEvent: ({ type }) => void (type === "piece" && some()),
        });
        await Promise.race([hasSome, from]);
        assert.equal((await fetching.store.getTask(taskId))?.complete, false);
        open();
        const report = await from;
        assertFile(path, content);
        assert.equal(report.parents[0]?.errors, 0, "only announced pieces were requested");
        await fetching;
        assert.equal((await fetching.store.getTask(taskId))?.complete, true);
      } finally {
        open();
        await seeding.close();
        await origin.close();
      }
    }),
  );

  it("lengths and piece locations are queried from peers over gRPC", testOptions, async () => {
    const pieceLength = 60_000;
    const content = seededBytes(61, 30 * pieceLength + 5);
    const store = memoryPieceStoreWith(nativeHashers);
    store.putTask(taskId, content, { pieceLength });
    const server = await entry.startServer({
      host: "127.0.0.1",
      tcp: { port: 0 },
      grpc: { port: 0 },
      store,
    });
    try {
      for (const protocol of ["tcp", "grpc"] as const) {
        await using downloader = entry.createDownloader({ protocol, ...longTimeouts });
        const stream = downloader.streamTask({
          taskId,
          hostId: "h",
          parents: [{ apiAddr: addrOf(server, "grpc") }],
        });
        assert.equal(Buffer.compare(await stream.bytes(), content), 0);
      }
    } finally {
      await server.close();
    }
  });
});

/** Reads the piece numbers in the complete lines of a killed process's journal. */
function journaled(path: string): number[] {
  let text: string;
  try {
    text = readFileSync(`${path}.part.journal`, "utf8");
  } catch {
    return [];
  }
  const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
  return lines.slice(1, -1).map((line) => JSON.parse(line).number);
}
