/** Peers that never answer, that are killed, and that have nothing to say. */
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
import type { GivenUp } from "../support/transport-peer.ts";
import {
  echo,
  isServed,
  readExactly,
  readToFailure,
  type Suite,
  silence,
  text,
  writeAll,
  writeUntilRefused,
} from "./peers.ts";

/**
 * Idle timeouts in milliseconds, tried one after the other. A machine that stands still for longer than one of them loses a
 * connection that the test still needs, and rightly so; then the test is made again with the next.
 */
const IDLE_TIMEOUTS = [1500, 5000, 20_000];

/** What became of those who waited for a peer. */
interface Aftermath {
  /** What a pending read ended with, and a pending write: an error's code, or `end`. */
  readonly reading: string;
  readonly writing: string;
  /** What another stream was refused with. */
  readonly opening: string;
  readonly closed: string;
}

const lost: Aftermath = {
  reading: "ConnectionLost",
  writing: "ConnectionLost",
  opening: "ConnectionLost",
  closed: "ConnectionLost",
};

/** Registers these tests for one transport. */
export function silenceCompliance(suite: Suite): void {
  const { name, fixture, withPeers } = suite;

  /** A program that is one side of a connection. */
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
    patiently(async (idleTimeout): Promise<Aftermath> => {
      const tuning = { idleTimeout, keepAlive: idleTimeout / 5 };
      const server = peer("serve", tuning);
      try {
        const address = JSON.parse(await server.line()) as Address;
        const transport = await fixture.transport(tuning);
        const connection = await transport.dial(address);
        const waiting = await connection.openStream();
        await waiting.writer.write(text("there?"));
        assert.deepEqual(await readExactly(waiting.reader, 6), text("there?"));
        const ends = endsOf(waiting, await connection.openStream());
        server.kill();
        return await aftermathOf(connection, ends);
      } finally {
        server.kill();
      }
    }),
  );

  const killedClient = once(() =>
    patiently(async (idleTimeout): Promise<Aftermath> => {
      const tuning = { idleTimeout, keepAlive: idleTimeout / 5 };
      let aftermath: Promise<Aftermath> | undefined;
      await withPeers(
        async ({ transport, address, open, acceptStream }) => {
          // What comes after this comes from the client.
          await open();
          const client = peer("dial", tuning, address);
          try {
            assert.equal(await client.line(), "dialled");
            const [[first, connection], [second]] = await within(
              20_000,
              Promise.all([acceptStream(), acceptStream()]),
            );
            for (const { reader } of [first, second])
              assert.equal((await readExactly(reader, 1)).length, 1);
            const ends = endsOf(first, second);
            client.kill();
            aftermath = aftermathOf(connection, ends);
            await aftermath;
            acceptStream()
              .then(
                ([stream]) => echo(stream),
                () => {},
              )
              .catch(() => {});
            assert.equal(await isServed(transport, address), true, "nobody else was served");
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

  describe(`${name}: a silent or dead peer`, () => {
    together(suite, {
      "dialling a peer that never answers ends when its signal fires, as the signal says": () =>
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

      "dials that were given up leave nothing behind, and their process ends by itself": () =>
        withSilentHost(async ({ address }) => assertLeavesNothing(peer("give-up", {}, address))),

      ...(fixture.resolvesNames === true && {
        "dials of several addresses that were given up leave nothing behind, and their process ends by itself":
          () =>
            withSilentHost(async ({ address: { port } }) => {
              // One that refuses, the silent one, and one that is tried beside it.
              const addresses = ["127.0.0.2", "127.0.0.1", "127.0.0.3"];
              await assertLeavesNothing(
                peer("give-up", { addresses }, { host: "localhost", port }),
              );
            }),
      }),

      "the peer's process is killed: nobody here waits for ever": async () => {
        await killedServer();
      },

      "the peer's process is killed: ConnectionLost for all that waits": async () => {
        assert.deepEqual(await killedServer(), lost);
      },

      "the client's process is killed: nobody here waits for ever, and others are served":
        async () => {
          await killedClient();
        },

      "the client's process is killed: ConnectionLost for all that waits": async () => {
        assert.deepEqual(await killedClient(), lost);
      },

      "a connection without a word is ConnectionLost after the idle timeout, on both sides": () =>
        patiently((idleTimeout) =>
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
            // Nothing breaks the silence.
            { tuning: { idleTimeout, keepAlive: 600_000 } },
          ),
        ),

      ...(fixture.overUdp === true && {
        "a path that carries nothing any more is ConnectionLost after the idle timeout, on both sides":
          () =>
            patiently((idleTimeout) =>
              withPeers(
                async ({ open, connection, relay }) => {
                  const [near, far, accepted] = await open();
                  const ends = Promise.all([endsOf(near, far), endsOf(far, near)]);
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

      "keep-alive holds a connection without a word through several idle timeouts": () =>
        patiently((idleTimeout) =>
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

async function assertLeavesNothing(client: Program): Promise<void> {
  const { codes, sockets } = JSON.parse(await client.line()) as GivenUp;
  assert.deepEqual(codes, Array(4).fill("Aborted"));
  const [before, after] = sockets;
  assert.equal(after, before);
  const { code, err } = await client.ended;
  assert.deepEqual([code, err], [0, ""]);
}

/** Registers tests that mostly wait: all start with the first, and each is looked at in its turn. */
function together(
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

/** Runs a test with one idle timeout after the other, until it passes with one. */
async function patiently<T>(run: (idleTimeout: number) => Promise<T>): Promise<T> {
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

async function within<T>(milliseconds: number, promise: Promise<T>): Promise<T> {
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

/** What a read on one stream and a write on another end with. */
async function endsOf(
  read: ByteStream,
  written: ByteStream,
): Promise<Pick<Aftermath, "reading" | "writing">> {
  const [reading, writing] = await Promise.all([
    readToFailure(read.reader).then(() => "end", codeOf),
    writeUntilRefused(written.writer).then(codeOf),
  ]);
  return { reading, writing };
}

async function aftermathOf(
  connection: Connection,
  ends: ReturnType<typeof endsOf>,
): Promise<Aftermath> {
  const { reading, writing } = await ends;
  const opening = codeOf(await rejectionOf(connection.openStream()));
  // Over TCP this side's direction of a stream that has ended is still open.
  connection.abort();
  return { reading, writing, opening, closed: (await connection.closed).error.code };
}

function codeOf(error: unknown): string {
  if (error instanceof VortexError) return error.code;
  throw error;
}
