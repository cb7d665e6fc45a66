/** Compliance tests of silent, killed and idle peers. */
import assert from "node:assert/strict";
import { describe } from "node:test";
import { VortexError } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import type { ByteStream, Connection } from "../../src/transport/transport.ts";
import { rejectionOf } from "../support/failures.ts";
import type { TransportTuning } from "../support/fixture.ts";
import { readAll } from "../support/hostile.ts";
import { type Program, runner, startProgram } from "../support/run.ts";
import { type SilentHost, silentTcpHost, silentUdpHost } from "../support/silent-host.ts";
import type { AbortedDials } from "../support/transport-peer.ts";
import {
  echo,
  isServed,
  readExactly,
  readToFailure,
  type Suite,
  silence,
  text,
  writeAll,
  writeToFailure,
} from "./peers.ts";

/**
 * Idle timeouts in ms, tried in order. A machine that stalls for longer rightly loses the
 * connection; the test is then repeated with the next value.
 */
const IDLE_TIMEOUTS = [1500, 5000, 20_000];

/** Error codes of the operations that were pending when the peer died. */
interface PendingResults {
  /** Result of a pending read: an error code, or `end`. */
  readonly reading: string;
  /** Error code of a pending write. */
  readonly writing: string;
  /** Error code of opening another stream. */
  readonly opening: string;
  /** Error code of `closed`. */
  readonly closed: string;
}

const allLost: PendingResults = {
  reading: "ConnectionLost",
  writing: "ConnectionLost",
  opening: "ConnectionLost",
  closed: "ConnectionLost",
};

/** Registers the tests for one transport. */
export function silenceCompliance(suite: Suite): void {
  const { name, fixture, withPeers } = suite;

  /** Starts one side of a connection in a separate process. */
  const peer = (role: string, tuning: TransportTuning, to?: Address): Program =>
    startProgram([
      ...runner,
      "test/support/transport-peer.ts",
      fixture.peer ?? name,
      role,
      JSON.stringify(tuning),
      ...(to === undefined ? [] : [to.host, String(to.port)]),
    ]);

  const withSilentHost = async (use: (host: SilentHost) => Promise<void>): Promise<void> => {
    const host = fixture.overUdp === true ? await silentUdpHost() : await silentTcpHost();
    try {
      await use(host);
    } finally {
      await host.close();
    }
  };

  const killedServer = once(() =>
    withLongerTimeouts(async (idleTimeout): Promise<PendingResults> => {
      const tuning = { idleTimeout, keepAlive: idleTimeout / 5 };
      const server = peer("serve", tuning);
      try {
        const address = JSON.parse(await server.line()) as Address;
        const transport = await fixture.transport(tuning);
        const connection = await transport.dial(address);
        const waiting = await connection.openStream();
        await waiting.writer.write(text("there?"));
        assert.deepEqual(await readExactly(waiting.reader, 6), text("there?"));
        const ends = pendingResults(waiting, await connection.openStream());
        server.kill();
        return await resultsOf(connection, ends);
      } finally {
        server.kill();
      }
    }),
  );

  const killedClient = once(() =>
    withLongerTimeouts(async (idleTimeout): Promise<PendingResults> => {
      const tuning = { idleTimeout, keepAlive: idleTimeout / 5 };
      let aftermath: Promise<PendingResults> | undefined;
      await withPeers(
        async ({ transport, address, open, acceptStream }) => {
          // Streams accepted after this one come from the client.
          await open();
          const client = peer("dial", tuning, address);
          try {
            assert.equal(await client.line(), "dialled");
            const [[first, connection], [second]] = await withTimeout(
              20_000,
              Promise.all([acceptStream(), acceptStream()]),
            );
            for (const { reader } of [first, second])
              assert.equal((await readExactly(reader, 1)).length, 1);
            const ends = pendingResults(first, second);
            client.kill();
            aftermath = resultsOf(connection, ends);
            await aftermath;
            acceptStream()
              .then(
                ([stream]) => echo(stream),
                () => {},
              )
              .catch(() => {});
            assert.equal(await isServed(transport, address), true, "no other client was served");
          } finally {
            client.kill();
          }
        },
        { tuning },
      );
      if (aftermath === undefined) assert.fail("nothing was seen");
      return aftermath;
    }),
  );

  describe(`${name}: silent or dead peers`, () => {
    startTogether(suite, {
      "dialling a silent peer rejects when its signal aborts, with the signal's reason": () =>
        withSilentHost(async ({ address }) => {
          const transport = await fixture.transport();
          for (const reason of [
            new VortexError("ConnectTimeout", "too slow"),
            new Error("changed my mind"),
          ]) {
            const abort = new AbortController();
            const dialling = rejectionOf(transport.dial(address, { signal: abort.signal }));
            await silence();
            abort.abort(reason);
            const error = await dialling;
            if (reason instanceof VortexError) assert.equal(error, reason);
            else assert.deepEqual([error.code, error.cause], ["Aborted", reason]);
          }
        }),

      "aborted dials leave no sockets, and their process exits": () =>
        withSilentHost(async ({ address }) => assertLeavesNothing(peer("give-up", {}, address))),

      ...(fixture.resolvesNames === true && {
        "aborted dials of several addresses leave no sockets, and their process exits": () =>
          withSilentHost(async ({ address: { port } }) => {
            // An address that refuses, the silent one, and one that is dialled concurrently.
            const addresses = ["127.0.0.2", "127.0.0.1", "127.0.0.3"];
            await assertLeavesNothing(peer("give-up", { addresses }, { host: "localhost", port }));
          }),
      }),

      "after the server is killed, all pending operations of its client settle": async () => {
        await killedServer();
      },

      "after the server is killed, all pending operations of its client reject with ConnectionLost":
        async () => {
          assert.deepEqual(await killedServer(), allLost);
        },

      "after a client is killed, all pending operations of the server settle, and other clients are served":
        async () => {
          await killedClient();
        },

      "after a client is killed, all pending operations of the server reject with ConnectionLost":
        async () => {
          assert.deepEqual(await killedClient(), allLost);
        },

      "an idle connection is ConnectionLost on both sides after the idle timeout": () =>
        withLongerTimeouts((idleTimeout) =>
          withPeers(
            async ({ open, connection }) => {
              const [near, far, accepted] = await open();
              const waits = Promise.all(
                [near, far].map(({ reader }) => rejectionOf(reader.read())),
              );
              for (const { error } of await Promise.all([connection.closed, accepted.closed])) {
                assert.equal(error.code, "ConnectionLost");
              }
              for (const { code } of await waits) assert.equal(code, "ConnectionLost");
            },
            // No keep-alive within the idle timeout.
            { tuning: { idleTimeout, keepAlive: 600_000 } },
          ),
        ),

      ...(fixture.overUdp === true && {
        "a dead path is ConnectionLost on both sides after the idle timeout": () =>
          withLongerTimeouts((idleTimeout) =>
            withPeers(
              async ({ open, connection, relay }) => {
                const [near, far, accepted] = await open();
                const ends = Promise.all([pendingResults(near, far), pendingResults(far, near)]);
                relay?.silence(true);
                for (const { error } of await Promise.all([connection.closed, accepted.closed])) {
                  assert.equal(error.code, "ConnectionLost");
                }
                for (const end of await ends) {
                  assert.deepEqual(end, { reading: "ConnectionLost", writing: "ConnectionLost" });
                }
              },
              { tuning: { idleTimeout, keepAlive: idleTimeout / 5 }, relayed: true },
            ),
          ),
      }),

      "keep-alive keeps an idle connection open for several idle timeouts": () =>
        withLongerTimeouts((idleTimeout) =>
          withPeers(
            async ({ open }) => {
              const [near, far] = await open();
              await silence(3 * idleTimeout);
              echo(far).catch(() => {});
              await writeAll(near, [text("still there")]);
              assert.deepEqual(await readAll(near), text("still there"));
            },
            { tuning: { idleTimeout, keepAlive: idleTimeout / 5 } },
          ),
        ),
    });
  });
}

/** Asserts that aborted dials of a `give-up` peer leave no sockets, and that its process ends. */
async function assertLeavesNothing(client: Program): Promise<void> {
  const { codes, sockets } = JSON.parse(await client.line()) as AbortedDials;
  assert.deepEqual(codes, Array(4).fill("Aborted"));
  const [before, after] = sockets;
  assert.equal(after, before);
  const { code, err } = await client.ended;
  assert.deepEqual([code, err], [0, ""]);
}

/** Registers tests that mostly wait: all start with the first, and each awaits its own result. */
function startTogether(
  { it, fixture }: Suite,
  tests: Readonly<Record<string, () => Promise<void>>>,
): void {
  const start = once(async () => {
    const running = new Map<string, Promise<void>>();
    for (const [name, run] of Object.entries(tests)) {
      if (fixture.gaps?.[name] !== undefined) continue;
      const result = run();
      result.catch(() => {});
      running.set(name, result);
    }
    return running;
  });
  for (const name of Object.keys(tests)) it(name, async () => (await start()).get(name));
}

function once<T>(run: () => Promise<T>): () => Promise<T> {
  let running: Promise<T> | undefined;
  return () => {
    running ??= run();
    return running;
  };
}

/** Runs a test with each idle timeout in turn until it passes. */
async function withLongerTimeouts<T>(run: (idleTimeout: number) => Promise<T>): Promise<T> {
  let failure: unknown;
  for (const idleTimeout of IDLE_TIMEOUTS) {
    try {
      return await run(idleTimeout);
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

/** Rejects unless `promise` settles within `milliseconds`. */
async function withTimeout<T>(milliseconds: number, promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new Error(`nothing came for ${milliseconds} ms`)),
      milliseconds,
    );
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Returns the results of a read on one stream and a write on another. */
async function pendingResults(
  read: ByteStream,
  written: ByteStream,
): Promise<Pick<PendingResults, "reading" | "writing">> {
  const [reading, writing] = await Promise.all([
    readToFailure(read.reader).then(() => "end", codeOf),
    writeToFailure(written.writer).then(codeOf),
  ]);
  return { reading, writing };
}

async function resultsOf(
  connection: Connection,
  ends: ReturnType<typeof pendingResults>,
): Promise<PendingResults> {
  const { reading, writing } = await ends;
  const opening = codeOf(await rejectionOf(connection.openStream()));
  // Over TCP, this side's direction of an ended stream is still open.
  connection.abort();
  return { reading, writing, opening, closed: (await connection.closed).error.code };
}

function codeOf(error: unknown): string {
  if (error instanceof VortexError) return error.code;
  throw error;
}
