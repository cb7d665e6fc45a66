/**
 * Process faults: a killed server, a blocked event loop, exhausted file descriptors, a jumping
 * clock, a file that changes while it is served. The client never accepts wrong bytes, no request
 * hangs, and requests succeed again after the fault.
 *
 * `task.test.ts` covers a killed downloader, and a full or read-only disk.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, open, rename, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileSink } from "../../adapters/files/sink.ts";
import { FilePieceStore } from "../../adapters/files/store.ts";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { fingerprintOf, selfSigned } from "../../adapters/shared/tls.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { downloaderFactory } from "../../src/client/factory.ts";
import type { Downloader } from "../../src/client/task-downloader.ts";
import { VortexError } from "../../src/errors.ts";
import { type Clock, portableRuntime, systemClock } from "../../src/runtime.ts";
import type { StorageServer } from "../../src/server/storage-server.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import { memorySink } from "../../src/task/memory-sink.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { rejectionOf } from "../support/failures.ts";
import {
  type FaultPeerOptions,
  type FaultPeerPorts,
  type FaultProtocol,
  faultProtocols,
  faultTaskId,
  type PerProtocol,
} from "../support/fault-peer.ts";
import { runtimeName } from "../support/fixtures.ts";
import { seededBytes, seededRandom } from "../support/random.ts";
import { type Program, root, runner, startProgram } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";

/** Timeout in ms; processes start slowly on a busy machine. */
const testOptions = { timeout: 300_000 };
/** Timeouts in ms, long enough not to end a request on a slow machine. */
const longTimeouts = { connectTimeout: 120_000, stallTimeout: 120_000 } as const;

const contentLength = 60 * 20_000 - 77;
const pieceLength = 20_000;
const seed = 61;
const content = seededBytes(seed, contentLength);
const { createDownloader, startServer } = await runtimeEntry();
let identity: TlsIdentity;
before(async () => {
  identity = await selfSigned();
});

interface Peer {
  readonly program: Program;
  readonly ports: FaultPeerPorts;
  /** Lines printed before the ports: a client may reach the server before they are printed. */
  readonly early: readonly string[];
}

async function startPeer(
  options: Partial<FaultPeerOptions> = {},
  wrap: (command: readonly string[]) => readonly string[] = (command) => command,
): Promise<Peer> {
  const argument = JSON.stringify({
    seed,
    contentLength,
    pieceLength,
    identity,
    ...options,
  } satisfies FaultPeerOptions);
  const program = startProgram(wrap([...runner, `${root}test/support/fault-peer.ts`, argument]));
  const early: string[] = [];
  let line = await program.line();
  for (; !line.startsWith("{"); line = await program.line()) early.push(line);
  return { program, ports: JSON.parse(line) as FaultPeerPorts, early };
}

async function endPeer({ program }: Peer): Promise<void> {
  program.kill();
  await program.ended;
}

function clientOf(protocol: FaultProtocol, options: object = longTimeouts): Downloader {
  return createDownloader({
    protocol,
    ...(protocol === "quic" && { tls: { fingerprints: [fingerprintOf(identity.cert)] } }),
    ...options,
  });
}

function pieceOf(protocol: FaultProtocol, ports: PerProtocol, number: number) {
  return {
    addr: `127.0.0.1:${ports[protocol]}`,
    hostId: "h",
    taskId: faultTaskId(protocol),
    number,
  };
}

/** Fetches a piece and checks its bytes. */
async function fetchRight(
  client: Downloader,
  protocol: FaultProtocol,
  ports: PerProtocol,
  number: number,
) {
  const piece = await client.downloadPiece(pieceOf(protocol, ports, number));
  assertSame(
    await piece.bytes(),
    content.subarray(number * pieceLength, (number + 1) * pieceLength),
  );
}

/** Returns `right`, or the code of the `VortexError`. Rethrows other errors. */
async function outcomeOf(fetching: Promise<void>): Promise<string> {
  try {
    await fetching;
    return "right";
  } catch (error) {
    if (!(error instanceof VortexError) || error.code === "Internal") throw error;
    return error.code;
  }
}

function assertSame(found: Uint8Array, expected: Uint8Array): void {
  assert.equal(found.length, expected.length);
  assert.equal(Buffer.compare(found, expected), 0, "wrong bytes");
}

async function inDirectory(run: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-faults-"));
  try {
    await run(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

describe("a server that is killed and restarted on its ports", () => {
  it(
    "at seeded moments in the middle of pieces: the same client completes a download over each protocol",
    testOptions,
    () =>
      inDirectory(async (directory) => {
        const random = seededRandom(815);
        let peer = await startPeer({ budget: budgetBy(random) });
        const { ports } = peer;
        let failures = 0;
        /** Resumes the failed download until one succeeds. */
        const fetch = async (protocol: FaultProtocol): Promise<void> => {
          const path = join(directory, protocol);
          await using client = clientOf(protocol, { connectTimeout: 10_000, stallTimeout: 2_000 });
          const { addr, taskId } = pieceOf(protocol, ports, 0);
          const request = { taskId, hostId: "h", parents: [addr], contentLength, pieceLength };
          while (
            (await outcomeOf(
              client.downloadTask({ ...request, to: fileSink(path) }).then(() => {}),
            )) !== "right"
          ) {
            failures++;
          }
          assertSame(readFileSync(path), content);
        };
        const fetching = Promise.all(faultProtocols.map(fetch));
        fetching.catch(() => {});
        try {
          for (let round = 1; round <= 4; round++) {
            const held = new Set<string>(peer.early);
            // No download can complete: each task has more pieces than all budgets together.
            while (held.size < faultProtocols.length) held.add(await peer.program.line());
            await endPeer(peer);
            peer = await startPeer({ ports, ...(round < 4 && { budget: budgetBy(random) }) });
          }
          await fetching;
          assert.ok(failures < 100, `${failures} downloads failed`);
        } finally {
          await endPeer(peer);
        }
      }),
  );
});

/** Draws a number of pieces for each task, so small that four rounds do not complete the task. */
function budgetBy(random: () => number): PerProtocol {
  const each = (): number => 1 + Math.floor(random() * 10);
  return { quic: each(), tcp: each(), grpc: each() };
}

describe("an event loop that is blocked for seconds", () => {
  const BLOCKED = 5_000;
  let peer: Peer;
  before(async () => {
    peer = await startPeer();
  }, testOptions);
  after(() => endPeer(peer));

  async function blockPeer(): Promise<void> {
    peer.program.send(`block ${BLOCKED}`);
    assert.equal(await peer.program.line(), "blocking");
  }

  /** Runs `run` concurrently for each protocol, with clients that are already connected. */
  async function withClients(
    options: object,
    run: (client: Downloader, protocol: FaultProtocol) => Promise<void>,
  ) {
    const clients = faultProtocols.map((protocol) => ({
      protocol,
      client: clientOf(protocol, options),
    }));
    try {
      await Promise.all(
        clients.map(({ protocol, client }) =>
          outcomeOf(fetchRight(client, protocol, peer.ports, 0)),
        ),
      );
      await blockPeer();
      await Promise.all(clients.map(({ protocol, client }) => run(client, protocol)));
    } finally {
      for (const { client } of clients) await client.close();
    }
  }

  it(
    "at the server: requests on old and new connections are answered afterwards, over every protocol",
    testOptions,
    () =>
      withClients(longTimeouts, async (client, protocol) => {
        await using late = clientOf(protocol);
        const both = [client, late].map((each) => fetchRight(each, protocol, peer.ports, 1));
        await Promise.all(both);
        for (let number = 2; number < 6; number++)
          await fetchRight(client, protocol, peer.ports, number);
      }),
  );

  it(
    "at the server, beyond the client's timeouts: requests fail over every protocol, then succeed again",
    testOptions,
    () =>
      withClients({ connectTimeout: 500, stallTimeout: 500 }, async (client, protocol) => {
        const outcomes = new Set<string>();
        while (!outcomes.has("right"))
          outcomes.add(await outcomeOf(fetchRight(client, protocol, peer.ports, 2)));
        assert.ok(outcomes.size > 1, `${protocol}: the server was not blocked`);
        outcomes.delete("right");
        for (const outcome of outcomes) {
          assert.ok(
            ["Stalled", "ConnectTimeout", "ConnectionLost"].includes(outcome),
            `${protocol}: ${outcome}`,
          );
        }
      }),
  );

  it(
    "at the client, in the middle of a piece: it and the next pieces arrive, over every protocol",
    testOptions,
    async () => {
      const clients = faultProtocols.map((protocol) => ({ protocol, client: clientOf(protocol) }));
      try {
        const pieces = await Promise.all(
          clients.map(({ protocol, client }) =>
            client.downloadPiece(pieceOf(protocol, peer.ports, 3)),
          ),
        );
        for (const until = performance.now() + BLOCKED; performance.now() < until; );
        for (const piece of pieces)
          assertSame(await piece.bytes(), content.subarray(3 * pieceLength, 4 * pieceLength));
        for (const { protocol, client } of clients)
          await fetchRight(client, protocol, peer.ports, 4);
      } finally {
        for (const { client } of clients) await client.close();
      }
    },
  );
});

/** True if a shell can limit the number of a process's file descriptors. */
const canLimitDescriptors = spawnSync("sh", ["-c", "ulimit -n 64"]).status === 0;

/** Reason to skip tests of exhausted descriptors, for a test's name; empty if they can run. */
const gapWithoutDescriptors = canLimitDescriptors ? "" : " [gap: needs a shell with ulimit -n]";

/** Reason why a runtime does not report failed accepts, for a test's name; empty if it does. */
const gapOfReports = {
  bun: " [gap: Bun leaves connections in the backlog without an error]",
  node: " [gap: Node closes the connection with a reserved descriptor, without an error]",
  deno: gapWithoutDescriptors,
}[runtimeName];

describe("exhausted file descriptors", () => {
  let own: StorageServer | undefined;
  let peer: Peer | undefined;
  const ask = async (line: string): Promise<string> => {
    assert.ok(peer);
    peer.program.send(line);
    return peer.program.line();
  };
  before(async () => {
    if (!canLimitDescriptors) return;
    const store = memoryPieceStoreWith(nativeHashers);
    for (const protocol of faultProtocols)
      store.putTask(faultTaskId(protocol), content, { pieceLength });
    const each = { quic: { port: 0 }, tcp: { port: 0 }, grpc: { port: 0 } };
    own = await startServer({ store, host: "127.0.0.1", tls: identity, ...each });
    const { quic, tcp, grpc } = own.addresses;
    const ports = { quic: quic?.port ?? 0, tcp: tcp?.port ?? 0, grpc: grpc?.port ?? 0 };
    const limited = ["sh", "-c", 'ulimit -n 128; exec "$@"', "sh"];
    const other = { ports, fingerprint: fingerprintOf(identity.cert) };
    peer = await startPeer({ other }, (command) => [...limited, ...command]);
  }, testOptions);
  after(async () => {
    if (peer !== undefined) await endPeer(peer);
    await own?.close({ grace: 0 });
  });

  for (const protocol of faultProtocols) {
    const gap = gapWithoutDescriptors;
    const name = `over ${protocol}: each request fails with one error, on both sides, then succeeds again${gap}`;
    it(name, { ...testOptions, skip: gap !== "" }, async () => {
      assert.ok(peer);
      const { ports } = peer;
      // Loads modules that are loaded at first use.
      assert.equal(await ask(`fetch ${protocol}`), "right right");
      await using client = clientOf(protocol);
      await fetchRight(client, protocol, ports, 0);
      assert.match(await ask("exhaust"), /^exhausted [1-9]/);
      const outcomes = (await ask(`fetch ${protocol}`)).split(" ");
      assert.equal(outcomes.length, 2);
      // Bun reports ConnectionRefused for such a socket.
      for (const outcome of outcomes)
        assert.ok(["Unreachable", "ConnectionRefused"].includes(outcome), outcome);
      await using late = clientOf(protocol, { connectTimeout: 1_000, stallTimeout: 1_000 });
      const outcome = await outcomeOf(fetchRight(late, protocol, ports, 1));
      // A QUIC server needs no descriptor for a connection.
      if (protocol === "quic") assert.equal(outcome, "right");
      assert.equal(await ask("free"), "freed");
      assert.equal(await ask(`fetch ${protocol}`), "right right");
      // A connection made meanwhile may have been accepted and closed.
      let tries = 0;
      while ((await outcomeOf(fetchRight(late, protocol, ports, 1))) !== "right")
        assert.ok(++tries < 50, "the server does not answer again");
      await fetchRight(client, protocol, ports, 2);
    });

    if (protocol === "quic") continue;
    it(`over ${protocol}: onError reports that connections could not be accepted${gapOfReports}`, {
      ...testOptions,
      skip: gapOfReports !== "",
    }, async () => {
      assert.ok(peer);
      const { ports } = peer;
      await ask("reports");
      let reports = "";
      // A second with an accepted connection is indistinguishable from one without a failed accept.
      for (let rounds = 0; reports === ""; rounds++) {
        assert.ok(rounds < 20, "no error was reported");
        assert.match(await ask("exhaust"), /^exhausted [1-9]/);
        const sockets = Array.from({ length: 8 }, () => connect(ports[protocol], "127.0.0.1"));
        for (const socket of sockets) socket.on("error", () => {});
        await using late = clientOf(protocol, { connectTimeout: 1_500, stallTimeout: 1_500 });
        assert.notEqual(await outcomeOf(fetchRight(late, protocol, ports, 1)), "right");
        assert.equal(await ask("free"), "freed");
        while ((await outcomeOf(fetchRight(late, protocol, ports, 1))) !== "right");
        for (const socket of sockets) socket.destroy();
        reports = await ask("reports");
      }
      assert.equal(reports, "Unreachable");
    });
  }
});

describe("a file that changes while it is served", () => {
  const pieceLength = 1024 * 1024;
  const content = seededBytes(62, 3 * pieceLength + 100);
  const long = 1_700_000_000;
  const changes: readonly (readonly [
    name: string,
    change: (path: string) => Promise<void>,
    served: boolean,
  ])[] = [
    ["is truncated", (path) => truncate(path, pieceLength + 7), false],
    ["is emptied and rewritten", (path) => writeFile(path, seededBytes(63, content.length)), false],
    ["is overwritten in place", (path) => overwrite(path, false), false],
    [
      "is overwritten in place with its modification time restored",
      (path) => overwrite(path, true),
      false,
    ],
    [
      "is replaced by another file of the same name",
      async (path) => {
        await writeFile(`${path}.new`, seededBytes(64, content.length));
        await rename(`${path}.new`, path);
      },
      true,
    ],
  ];

  async function overwrite(path: string, restoreTime: boolean): Promise<void> {
    const file = await open(path, "r+");
    for (let at = 50_000; at < content.length; at += 100_000)
      await file.write(new TextEncoder().encode("other bytes"), 0, 11, at);
    await file.close();
    if (restoreTime) await utimes(path, long, long);
  }

  /** Reads a stream to its end or failure. Returns the received bytes and the error. */
  async function readAll(
    client: Downloader,
    request: object,
    addr: string,
  ): Promise<readonly [Uint8Array, VortexError?]> {
    const stream = client.streamTask({
      hostId: "h",
      parents: [addr],
      contentLength: content.length,
      pieceLength,
      ...(request as { taskId: string }),
    });
    stream.report.catch(() => {});
    const chunks: Uint8Array[] = [];
    try {
      for await (const chunk of stream.content) chunks.push(chunk);
    } catch (error) {
      assert.ok(error instanceof VortexError);
      return [Buffer.concat(chunks), error];
    }
    return [Buffer.concat(chunks)];
  }

  /** Test runs, started together because a failing stream retries for seconds. */
  const running: Promise<void>[] = [];
  before(() => {
    for (const [, change, served] of changes) {
      const run = serveChanging(change, served);
      run.catch(() => {});
      running.push(run);
    }
  });
  for (const [index, [name]] of changes.entries()) {
    it(`${name}: a client receives only old bytes, then an error`, testOptions, async () => {
      await running[index];
    });
  }

  function serveChanging(change: (path: string) => Promise<void>, served: boolean): Promise<void> {
    return inDirectory(async (directory) => {
      const path = join(directory, "served");
      await writeFile(path, content);
      await utimes(path, long, long);
      await using store = new FilePieceStore();
      const { taskId } = await store.addFile(path, { pieceLength });
      const each = { quic: { port: 0 }, tcp: { port: 0 }, grpc: { port: 0 } };
      await using server = await startServer({ store, host: "127.0.0.1", tls: identity, ...each });
      const clients = faultProtocols.map((protocol) => {
        const address = server.addresses[protocol];
        assert.ok(address);
        return { protocol, client: clientOf(protocol), addr: formatAddress(address) };
      });
      try {
        const begun = await Promise.all(
          clients.map(async ({ client, addr }) => {
            const piece = await client.downloadPiece({ addr, hostId: "h", taskId, number: 0 });
            return { piece, first: (await piece.read()) ?? new Uint8Array(0) };
          }),
        );
        await change(path);
        for (const { piece, first } of begun) {
          const chunks = [first];
          const outcome = await outcomeOf(
            (async () => {
              for (let chunk = await piece.read(); chunk !== undefined; chunk = await piece.read())
                chunks.push(chunk);
            })(),
          );
          const got = Buffer.concat(chunks);
          assertSame(got, content.subarray(0, got.length));
          if (outcome === "right") assert.equal(got.length, pieceLength);
        }
        for (const { protocol, client, addr } of clients) {
          const request = { addr, hostId: "h", taskId, number: 1 };
          const whole = async (): Promise<Uint8Array> =>
            (await client.downloadPiece(request)).bytes();
          const range = { start: 40_000, end: 60_000 };
          const part = async (): Promise<Uint8Array> =>
            (await client.downloadPiece({ ...request, range })).bytes();
          const [got, error] = await readAll(client, { taskId }, addr);
          assertSame(got, content.subarray(0, got.length));
          if (served) {
            assertSame(await whole(), content.subarray(pieceLength, 2 * pieceLength));
            assertSame(
              await part(),
              content.subarray(pieceLength + range.start, pieceLength + range.end),
            );
            assert.equal(got.length, content.length, error?.message);
          } else {
            for (const fetch of [whole, part]) {
              const { kind, message } = await rejectionOf(fetch());
              assert.ok(
                ["remote", "peer", "transport"].includes(kind),
                `${protocol}: ${kind}, ${message}`,
              );
            }
            assert.ok(error !== undefined, `${protocol}: the stream ended well`);
          }
        }
      } finally {
        for (const { client } of clients) await client.close();
        await server.close({ grace: 0 });
      }
    });
  }
});

describe("a clock that jumps", () => {
  it(
    "the time of day, by ten years and back during a download, has no effect",
    testOptions,
    async () => {
      const store = memoryPieceStoreWith(nativeHashers);
      for (const protocol of faultProtocols)
        store.putTask(faultTaskId(protocol), content, { pieceLength });
      const each = { quic: { port: 0 }, tcp: { port: 0 }, grpc: { port: 0 } };
      await using server = await startServer({ store, host: "127.0.0.1", tls: identity, ...each });
      const { now } = Date;
      let jumps = 0;
      // Jumps at each call, so code that subtracts two times gets years.
      Date.now = () => now() + (jumps++ % 2 === 0 ? 1 : -1) * 10 * 365 * 86_400_000;
      try {
        for (const protocol of faultProtocols) {
          await using client = clientOf(protocol, {});
          const address = server.addresses[protocol];
          assert.ok(address);
          const to = memorySink();
          const task = {
            taskId: faultTaskId(protocol),
            hostId: "h",
            parents: [formatAddress(address)],
          };
          const { parents } = await client.downloadTask({
            ...task,
            contentLength,
            pieceLength,
            to,
          });
          assertSame(to.bytes(), content);
          assert.equal(parents[0]?.errors, 0, parents[0]?.reasons.join("; "));
        }
      } finally {
        Date.now = now;
      }
    },
  );

  it(
    "the library's clock, by an hour at a time as after suspend: tasks and rate limits continue",
    testOptions,
    async () => {
      let offset = 0;
      const clock: Clock = {
        now: () => systemClock.now() + offset,
        setTimer: systemClock.setTimer,
      };
      const runtime = { ...portableRuntime, hashers: nativeHashers, clock };
      const store = memoryPieceStoreWith(nativeHashers);
      store.putTask(faultTaskId("tcp"), content, { pieceLength });
      const local = { host: "127.0.0.1", port: 0 };
      const limited = { uploadRateLimit: 20_000_000 };
      await using server = await VortexServer.listen(tcpTransport, local, store, runtime, limited);
      const none = (): never => assert.fail("only TCP is used");
      const make = downloaderFactory({
        runtime,
        quic: none,
        grpc: none,
        tcp: async () => tcpTransport,
      });
      await using client = make({ protocol: "tcp", rateLimit: 20_000_000, ...longTimeouts });
      const to = memorySink();
      const download = client.downloadTask({
        taskId: faultTaskId("tcp"),
        hostId: "h",
        parents: [formatAddress(server.address)],
        contentLength,
        pieceLength,
        to,
        onEvent: ({ type }) => {
          if (type === "piece") offset += 3_600_000;
        },
      });
      const { parents } = await download;
      assertSame(to.bytes(), content);
      assert.equal(parents[0]?.errors, 0, parents[0]?.reasons.join("; "));
      assert.ok(offset >= 50 * 3_600_000);
    },
  );
});
