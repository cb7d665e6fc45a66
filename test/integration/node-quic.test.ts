/**
 * Behaviour of node:quic beyond the contract of all transports: limits of its runtime, and
 * interoperability.
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import process from "node:process";
import { describe, it } from "node:test";
import { nodeQuicTransport } from "../../adapters/node-quic/lazy-transport.ts";
import { loadNodeQuic, type NativeSession } from "../../adapters/node-quic/native.ts";
import { nodeQuicSettings } from "../../adapters/node-quic/options.ts";
import { SocketOptions } from "../../adapters/node-quic/socket-options.ts";
import { nativeIdentity } from "../../adapters/node-quic/tls.ts";
import { quicheTransport } from "../../adapters/quiche/lazy-transport.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import type { Address } from "../../src/transport/address.ts";
import type { ByteStream, Listener, Transport } from "../../src/transport/transport.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { runtimeName } from "../support/fixtures.ts";
import { crc32Of, readAll } from "../support/hostile.ts";
import { seededBytes } from "../support/random.ts";
import { runner, startProgram } from "../support/run.ts";

const local: Address = { host: "127.0.0.1", port: 0 };
const verify = { verify: false } as const;
const skip = { skip: runtimeName !== "bun", timeout: 60_000 };
// In the name, because some runners do not print skip reasons.
const gap = skip.skip ? " [gap: only Bun has node:quic]" : "";

it("without node:quic, fails with Unavailable and names the alternatives", {
  skip: runtimeName === "bun",
}, async () => {
  const error = await assertRejects(nodeQuicTransport(), "Unavailable");
  assert.match(error.message, /quiche.*"tcp".*"grpc"/);
});

it("invalid options fail with InvalidArgument", () => {
  for (const options of [
    { streamWindow: 1 },
    { unreadLimit: 0 },
    { idleTimeout: 0 },
    { keepAlive: -1 },
  ]) {
    assert.throws(() => nodeQuicSettings(options), { code: "InvalidArgument" });
  }
});

describe(`node-quic: other implementations${gap}`, skip, () => {
  const bindings: [name: string, make: () => Promise<Transport>][] = [
    ["node-quic", () => nodeQuicTransport({ tls: verify })],
    ["quiche", () => quicheTransport({ tls: verify })],
  ];
  for (const [client, dialling] of bindings) {
    for (const [server, listening] of bindings) {
      if (client === server) continue;
      it(
        `${client} dials ${server}: data in both directions, resets, STOP_SENDING and ends work`,
        skip,
        async () => {
          const listener = await (await listening()).listen(local);
          const serving = serve(listener);
          const connection = await (await dialling()).dial(listener.address);
          const sent = seededBytes(1, 3_000_000);
          const stream = await connection.openStream();
          const receiving = readAll(stream);
          await stream.writer.write(sent);
          await stream.writer.end();
          assert.equal(crc32Of(await receiving), crc32Of(sent));
          const stopped = await connection.openStream();
          stopped.reader.cancel();
          const refused = await rejectionOf(writeForEver(stopped));
          assert.equal(refused.code, "StreamReset");
          await connection.close();
          await listener.close({ grace: 0 });
          await serving;
        },
      );
    }
  }

  it(
    "a peer that speaks another application protocol causes ProtocolNotSupported with the remedy",
    skip,
    async () => {
      const quic = await loadNodeQuic();
      const onSession = (session: NativeSession): void => {
        session.onerror = () => {};
      };
      const endpoint = await quic.listen(onSession, {
        endpoint: new quic.QuicEndpoint({
          address: { address: "127.0.0.1", port: 0, family: "ipv4" },
        }),
        alpn: ["another"],
        sni: { "*": nativeIdentity(await selfSigned()) },
        verifyClient: false,
        verifyPeer: "manual",
        enableEarlyData: false,
        handshakeTimeout: 10_000,
        transportParams: {
          initialMaxStreamDataBidiLocal: 0,
          initialMaxStreamDataBidiRemote: 0,
          initialMaxData: 0,
          initialMaxStreamsBidi: 0,
          initialMaxStreamsUni: 0,
          maxIdleTimeout: 10_000,
          maxDatagramFrameSize: 0,
        },
      });
      const transport = await nodeQuicTransport({ tls: verify });
      const remote = { host: "127.0.0.1", port: endpoint.address?.port ?? 0 };
      const error = await assertRejects(transport.dial(remote), "ProtocolNotSupported");
      assert.match(error.message, /"tcp"/);
      endpoint.destroy().catch(() => {});
    },
  );
});

describe(`node-quic: slow readers${gap}`, skip, () => {
  it("above unreadLimit a stream fails with LimitExceeded, and others continue", skip, async () => {
    const unreadLimit = 1024 * 1024;
    const listener = await (await nodeQuicTransport()).listen(local);
    const serving = serve(listener);
    const connection = await (await nodeQuicTransport({ tls: verify, unreadLimit })).dial(
      listener.address,
    );
    const slow = await connection.openStream();
    assert.equal((await rejectionOf(writeForEver(slow))).code, "StreamReset");
    const error = await rejectionOf(readAll(slow));
    assert.equal(error.code, "LimitExceeded");
    assert.match(error.message, /unreadLimit/);
    const other = await connection.openStream();
    await other.writer.write(Uint8Array.of(1, 2, 3));
    await other.writer.end();
    assert.deepEqual(await readAll(other), Uint8Array.of(1, 2, 3));
    await connection.close();
    await listener.close({ grace: 0 });
    await serving;
  });
});

describe(`node-quic: clients that vanish${gap}`, skip, () => {
  it("do not cause ICMP errors at the server's socket (Linux)", {
    skip: process.platform !== "linux",
  }, async () => {
    const listener = await (await nodeQuicTransport()).listen(local);
    const options = await SocketOptions.load();
    assert.ok(options !== undefined);
    const found = readdirSync("/proc/self/fd")
      .map(Number)
      .filter((fd) => options.isUdp(fd, listener.address.port));
    assert.equal(found.length, 1);
    assert.equal(options.reportsNetworkErrors(found[0] ?? -1), false);
    await listener.close();
  });

  it("do not stall other downloads when killed in the middle of theirs", skip, async () => {
    const listener = await (await nodeQuicTransport()).listen(local);
    const serving = serve(listener);
    const connection = await (await nodeQuicTransport({ tls: verify })).dial(listener.address);
    const { host, port } = listener.address;
    const victim = startProgram([
      ...runner,
      "test/support/transport-peer.ts",
      "node-quic",
      "dial",
      "{}",
      host,
      String(port),
    ]);
    const pauses: number[] = [];
    try {
      const stream = await connection.openStream();
      const writing = writeForEver(stream).catch(() => {});
      const read = async (bytes: number): Promise<void> => {
        let last = performance.now();
        for (let got = 0; got < bytes; ) {
          got += (await stream.reader.read())?.length ?? bytes;
          pauses.push(performance.now() - last);
          last = performance.now();
        }
      };
      assert.equal(await victim.line(), "dialled");
      await read(4_000_000);
      victim.kill();
      await victim.ended;
      pauses.length = 0;
      await read(64_000_000);
      connection.abort();
      await writing;
    } finally {
      victim.kill();
    }
    // The fault to exclude: repeated pauses of one second for all clients.
    const long = pauses.filter((pause) => pause > 900);
    console.log(`longest pause ${Math.max(...pauses).toFixed(0)} ms, ${long.length} of a second`);
    assert.ok(long.length < 2, `${long.length} pauses of a second`);
    await listener.close({ grace: 0 });
    await serving;
  });
});

async function serve(listener: Listener): Promise<void> {
  for await (const connection of listener.accept()) {
    void (async () => {
      for await (const stream of connection.accept()) void echo(stream);
    })();
  }
}

async function echo({ reader, writer }: ByteStream): Promise<void> {
  try {
    for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read())
      await writer.write(chunk);
    await writer.end();
  } catch {
    // Errors of the test's side of the stream are expected.
    reader.cancel();
    writer.abort();
  }
}

async function writeForEver({ writer }: ByteStream): Promise<never> {
  const chunk = new Uint8Array(64 * 1024);
  for (;;) await writer.write(chunk);
}
