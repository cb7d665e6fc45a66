/** Behaviour of Deno's QUIC beyond the contract of all transports. */
import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { describe, it } from "node:test";
import {
  type DenoQuicTransportOptions,
  denoQuicTransport,
} from "../../adapters/deno-quic/lazy-transport.ts";
import { collectSockets } from "../../adapters/deno-quic/native.ts";
import { denoQuicSettings } from "../../adapters/deno-quic/options.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import { VortexDownloader } from "../../src/client/vortex/downloader.ts";
import { VortexError } from "../../src/errors.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import type { PieceStore } from "../../src/store/store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { Connection, Listener, ListenOptions } from "../../src/transport/transport.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { runtimeName } from "../support/fixtures.ts";
import { readAll } from "../support/hostile.ts";
import { seededBytes } from "../support/random.ts";
import { runners, runToEnd } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";
import { udpRelay } from "../support/udp-relay.ts";

const local = { host: "127.0.0.1", port: 0 };
const WAIT_TIMEOUT_MS = 30_000;
const testOptions = { timeout: 120_000 };
const { createDownloader, startServer } = await runtimeEntry();
const skip = { skip: runtimeName !== "deno" };
// In the name, because some runners do not print skip reasons.
const gap = skip.skip ? " [gap: only Deno has it]" : "";

describe("deno-quic: where it is missing", () => {
  it("fails with Unavailable and names the remedy", { timeout: 60_000 }, async () => {
    if (runtimeName !== "deno") {
      const error = await assertRejects(denoQuicTransport(), "Unavailable");
      assert.match(error.message, /"tcp"/);
      return;
    }
    const [program = ""] = runners.deno;
    const script =
      'import { denoQuicTransport } from "./adapters/deno-quic/lazy-transport.ts";' +
      'await denoQuicTransport().catch(({ code, message }) => console.log(code + ": " + message));';
    const { code, out, err } = await runToEnd([
      program,
      "eval",
      "--no-check",
      "--config",
      "deno.json",
      script,
    ]);
    assert.equal(code, 0, err);
    assert.match(out, /^Unavailable: .*deno run --unstable-net.*"tcp"/);
  });

  it("options out of range fail with InvalidArgument", () => {
    for (const options of [{ idleTimeout: 0 }, { keepAlive: 1 }, { handshakeTimeout: 1 }]) {
      assert.throws(() => denoQuicSettings(options), { code: "InvalidArgument" });
    }
  });
});

describe(`deno-quic: sockets${gap}`, skip, () => {
  it(
    "a closed transport and a closed downloader keep no socket, after dials, failed dials and closes",
    testOptions,
    async () => {
      const identity = await selfSigned();
      const listeners = await Promise.all(
        Array.from({ length: 3 }, async () =>
          (await denoQuicTransport({ serverTls: identity })).listen(local),
        ),
      );
      for (const listener of listeners) void echoAll(listener);
      const store = new MemoryPieceStore();
      store.putTask(taskId, seededBytes(8, 1000), { pieceLength: 1000 });
      const server = await startServer({
        store,
        host: "127.0.0.1",
        tls: identity,
        quic: { port: 0 },
      });
      const silent = createSocket("udp4");
      silent.bind(0, "127.0.0.1");
      await once(silent, "listening");
      const start = await descriptors(() => true);
      const transport = await denoQuicTransport({ tls: { ca: identity.cert } });
      const downloader = createDownloader({
        protocol: "quic",
        tls: { fingerprints: [server.fingerprint ?? ""] },
      });
      const request = {
        addr: formatAddress(server.addresses.quic ?? local),
        hostId: "host",
        taskId,
        number: 0,
      };
      try {
        await (await downloader.downloadPiece(request)).bytes();
        for (let round = 0; round < 4; round++) {
          const dials = listeners.flatMap((listener) => [
            useAndClose(transport.dial(listener.address, { earlyData: true })),
            transport.dial(listener.address).then((connection) => connection.abort()),
            transport.dial(listener.address).then(async (connection) => {
              const stream = await connection.openStream();
              const writing = rejectionOf(stream.writer.write(new Uint8Array(20_000_000)));
              connection.abort();
              await writing;
            }),
            transport.dial(listener.address, { signal: AbortSignal.timeout(round) }).then(
              (connection) => connection.abort(),
              () => {},
            ),
          ]);
          const { port } = silent.address();
          const lost = rejectionOf(
            transport.dial({ ...local, port }, { signal: AbortSignal.timeout(50) }),
          );
          await Promise.all([...dials, lost]);
        }
        assert.ok((await descriptors(() => true)) > start, "no socket was opened");
      } finally {
        await downloader.close();
        await transport.close?.();
      }
      const end = await descriptors((count) => count <= start);
      assert.ok(end <= start, `${start} before, ${end} after`);
      silent.close();
      await server.close({ grace: 0 });
      for (const listener of listeners) await listener.close({ grace: 0 });
      // Both objects stay referenced up to here.
      assert.equal(transport.protocol, "quic");
      await assertRejects(downloader.downloadPiece(request), "Closed");
    },
  );

  it(
    "early data refused in the middle of requests: every read settles, and no socket is kept",
    testOptions,
    async () => {
      // After a refusal, quinn numbers streams from 0 again. Freeing an early stream then makes the
      // new stream with the same number deaf.
      const serverTls = await selfSigned();
      const start = await descriptors(() => true);
      const [one, other] = await Promise.all(
        [0, 1].map(async () => (await denoQuicTransport({ serverTls })).listen(local)),
      );
      assert.ok(one !== undefined && other !== undefined);
      for (const listener of [one, other]) void echoAll(listener);
      const relay = await udpRelay(one.address);
      let refused = 0;
      for (let round = 0; round < 3; round++) {
        relay.retarget(one.address);
        const transports = await Promise.all(
          Array.from({ length: 12 }, () => denoQuicTransport({ tls: { ca: serverTls.cert } })),
        );
        await Promise.all(
          transports.map((transport) => useAndClose(transport.dial(relay.address))),
        );
        // The other server knows none of the sessions.
        relay.retarget(other.address);
        await Promise.all(
          transports.map(async (transport) => {
            const connection = await transport.dial(relay.address, { earlyData: true });
            assert.equal(connection.earlyData, "pending");
            await Promise.all(
              Array.from({ length: 60 }, async (_, at) => {
                await turns(at % 6);
                if (at % 2 === 1) return abortRequest(connection, at % 4);
                // A refused client may retry; a connection that has ended fails in the same way.
                for (let ask = 0; ask < 2; ask++) {
                  const answer = await exchange(connection, "once more").catch((error) => error);
                  if (answer === "once more") return;
                  assert.equal(answer.code, "EarlyDataRefused", String(answer));
                  refused++;
                }
              }),
            );
            await connection.close({ grace: 0 });
            await transport.close?.();
          }),
        );
      }
      assert.ok(refused > 0, "no early data was refused");
      await relay.close();
      for (const listener of [one, other]) await listener.close({ grace: 0 });
      const end = await descriptors((count) => count <= start);
      assert.ok(end <= start, `${start} before, ${end} after`);
    },
  );
});

describe(`deno-quic: TLS${gap}`, skip, () => {
  it("option combinations that Deno does not support fail before the dial", async () => {
    const { cert, key } = await selfSigned();
    const pinned = await denoQuicTransport({ tls: { fingerprints: ["00".repeat(32)], cert, key } });
    await assertRejects(pinned.dial({ host: "127.0.0.1", port: 9 }), "InvalidArgument");
    const asking = await denoQuicTransport({ serverTls: { clientCa: cert } });
    const error = await assertRejects(asking.listen(local), "Unavailable");
    assert.match(error.message, /clientCa/);
  });

  it("connections survive many certificate changes with garbage collections in between", () =>
    withEcho({}, async (listener) => {
      const connections: Connection[] = [];
      for (let change = 0; change < 5; change++) {
        connections.push(await dialPinned(listener));
        await listener.setIdentity(await selfSigned());
        // Collects unreferenced sockets, which must not include the listening one.
        collectSockets();
      }
      for (const connection of connections) {
        assert.equal(await exchange(connection, "still here"), "still here");
        await connection.close();
      }
    }));
});

describe(`deno-quic: differences${gap}`, skip, () => {
  it("a connection carries thousands of streams with a small stream limit", () =>
    // denoland/deno#36049: the credit of finished streams was not returned.
    withEcho(
      {},
      async (listener) => {
        const connection = await dialPinned(listener);
        for (let round = 0; round < 50; round++) {
          await Promise.all(
            Array.from({ length: 40 }, (_, at) => exchange(connection, `${round} ${at}`)),
          );
        }
        await connection.close();
      },
      { maxStreams: 8 },
    ));

  it("a closed listener refuses clients for a while, and its port can be bound again at once", async () => {
    const transport = await transportWithIdentity();
    const first = await transport.listen(local);
    await first.close();
    const signal = AbortSignal.timeout(WAIT_TIMEOUT_MS);
    assert.equal(
      (await rejectionOf(transport.dial(first.address, { signal }))).code,
      "ConnectionRefused",
    );
    const second = await transport.listen(first.address);
    void echoAll(second);
    const connection = await transport.dial(second.address, { signal });
    assert.equal(await exchange(connection, "here again"), "here again");
    await connection.close();
    await second.close();
  });

  it("aborted handshakes do not keep the port of a closing server", async () => {
    const transport = await transportWithIdentity();
    const first = await transport.listen(local);
    void echoAll(first);
    const met = await transport.dial(first.address);
    await exchange(met, "a session for 0-RTT");
    await met.close();
    for (let turn = 0; turn < 4; turn++) {
      const early = await transport.dial(first.address, { earlyData: true });
      early.abort();
      const abort = new AbortController();
      const late = rejectionOf(transport.dial(first.address, { signal: abort.signal }));
      abort.abort();
      await late;
    }
    await first.close();
    // Listening retries for seconds while the port is taken, and the server's side of aborted
    // handshakes takes seconds to end.
    let second: Listener | undefined;
    for (const until = performance.now() + WAIT_TIMEOUT_MS; second === undefined; ) {
      second = await transport.listen(first.address).catch((error) => {
        if (performance.now() > until) throw error;
        return undefined;
      });
    }
    await second.close();
    await transport.close?.();
  });

  it("a dial to a port without a listener ends with the signal", async () => {
    const transport = await transportWithIdentity();
    const reason = new VortexError("ConnectTimeout", "no peer answered");
    const abort = new AbortController();
    const dialling = rejectionOf(
      transport.dial({ host: "127.0.0.1", port: 9 }, { signal: abort.signal }),
    );
    abort.abort(reason);
    assert.equal(await dialling, reason);
  });

  it("a client that does not finish its handshake in time is refused", () =>
    withEcho({ handshakeTimeout: 100 }, async (listener) => {
      const relay = await udpRelay(listener.address);
      const transport = await denoQuicTransport({
        tls: { fingerprints: [listener.fingerprint ?? ""] },
      });
      try {
        // Holds the client for increasing times, until it exceeds the server's handshake timeout on
        // a machine of any speed.
        for (let held = 200; ; held *= 2) {
          relay.hold();
          const dialling = transport.dial(relay.address, {
            signal: AbortSignal.timeout(WAIT_TIMEOUT_MS),
          });
          const outcome = dialling
            .then((connection) => exchange(connection, "in time"))
            .catch((error) => error);
          await new Promise((resolve) => {
            setTimeout(resolve, held);
          });
          relay.release();
          const error = await outcome;
          if (error === "in time") continue;
          assert.ok(error instanceof VortexError, String(error));
          assert.ok(
            ["ConnectionRefused", "ConnectionLost"].includes(error.code),
            `${error.code}: ${error.message}`,
          );
          break;
        }
      } finally {
        await relay.close();
      }
      const connection = await dialPinned(listener);
      assert.equal(await exchange(connection, "finished"), "finished");
      await connection.close();
    }));

  it("a store that fails inside the content gives the client an error, although resets look like ends", async () => {
    const content = seededBytes(5, 300_000);
    const stored = new MemoryPieceStore();
    stored.putTask(taskId, content, { pieceLength: content.length });
    const failing: PieceStore = {
      getTask: (id) => stored.getTask(id),
      async getPiece(request) {
        const piece = await stored.getPiece(request);
        return (
          piece && {
            metadata: piece.metadata,
            async *read() {
              yield content.slice(0, 100_000);
              throw new VortexError("StorageFailed", "the disk is gone");
            },
          }
        );
      },
    };
    const transport = await transportWithIdentity();
    const server = await VortexServer.listen(transport, local, failing, portableRuntime);
    await using downloader = new VortexDownloader(
      async () => transport,
      downloaderSettings({}, portableRuntime),
    );
    const request = { addr: `127.0.0.1:${server.address.port}`, hostId: "host", taskId, number: 0 };
    const piece = await downloader.downloadPiece(request);
    await assertRejects(piece.bytes(), "TruncatedContent");
    await server.close({ grace: 0 });
  });

  it("a finished answer reaches a slow reader although the server closes", () =>
    withEcho({}, async (listener) => {
      const connection = await dialPinned(listener);
      const stream = await connection.openStream();
      await stream.writer.write(seededBytes(6, 200_000));
      await stream.writer.end();
      const first = await stream.reader.read();
      const closing = listener.close();
      const rest = await readAll(stream);
      assert.equal((first?.length ?? 0) + rest.length, 200_000);
      await connection.close();
      await closing;
    }));
});

const taskId = "ab".repeat(32);

/** Waits until the number of open descriptors satisfies `wanted`, up to 30 s, and returns it. */
async function descriptors(wanted: (count: number) => boolean): Promise<number> {
  const until = performance.now() + WAIT_TIMEOUT_MS;
  for (;;) {
    // Twice, because the first collection may free an object that referenced another socket.
    for (let pass = 0; pass < 2; pass++) {
      collectSockets();
      await new Promise((resolve) => {
        setTimeout(resolve, 20);
      });
    }
    // Minus the descriptor that reads the directory.
    const count = readdirSync("/proc/self/fd").length - 1;
    if (wanted(count) || performance.now() > until) return count;
  }
}

/** Starts a request and aborts it `after` turns of the event loop later. */
async function abortRequest(connection: Connection, after: number): Promise<void> {
  const stream = await connection.openStream().catch(() => undefined);
  if (stream === undefined) return;
  const writing = stream.writer.write(new Uint8Array(100)).catch(() => {});
  const reading = rejectionOf(stream.reader.read());
  await turns(after);
  stream.reader.cancel();
  stream.writer.abort();
  await Promise.all([writing, reading]);
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++)
    await new Promise<void>((resolve) => setImmediate(resolve));
}

async function useAndClose(dialling: Promise<Connection>): Promise<void> {
  const connection = await dialling;
  await exchange(connection, "used");
  await connection.close();
}

async function transportWithIdentity(
  options: DenoQuicTransportOptions = {},
): ReturnType<typeof denoQuicTransport> {
  const identity = await selfSigned();
  return denoQuicTransport({ tls: { ca: identity.cert }, serverTls: identity, ...options });
}

async function withEcho(
  options: DenoQuicTransportOptions,
  use: (listener: Listener) => Promise<void>,
  limits: ListenOptions = {},
): Promise<void> {
  const listener = await (await denoQuicTransport(options)).listen(local, limits);
  const echoing = echoAll(listener);
  try {
    await use(listener);
  } finally {
    await listener.close({ grace: 0 });
    await echoing;
  }
}

async function echoAll(listener: Listener): Promise<void> {
  for await (const connection of listener.accept()) {
    void (async () => {
      for await (const stream of connection.accept()) {
        void (async () => {
          await stream.writer.write(await readAll(stream));
          await stream.writer.end();
        })().catch(() => {});
      }
    })();
  }
}

async function dialPinned(listener: Listener): Promise<Connection> {
  const transport = await denoQuicTransport({
    tls: { fingerprints: [listener.fingerprint ?? ""] },
  });
  return transport.dial(listener.address, { signal: AbortSignal.timeout(WAIT_TIMEOUT_MS) });
}

async function exchange(connection: Connection, text: string): Promise<string> {
  const stream = await connection.openStream();
  await stream.writer.write(new TextEncoder().encode(text));
  await stream.writer.end();
  return new TextDecoder().decode(await readAll(stream));
}
