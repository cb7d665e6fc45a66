/**
 * Behaviour of quiche beyond the contract of all transports: address validation, limits, strange
 * datagrams.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import { describe, it } from "node:test";
import {
  type QuicheTransportOptions,
  quicheTransport,
} from "../../adapters/quiche/lazy-transport.ts";
import { loadQuiche } from "../../adapters/quiche/native.ts";
import { ALPN, quicheSettings } from "../../adapters/quiche/options.ts";
import { RetryTokens } from "../../adapters/quiche/retry-token.ts";
import { serverIdentity } from "../../adapters/shared/tls.ts";
import type { VortexError } from "../../src/errors.ts";
import type { TlsClientOptions } from "../../src/transport/tls.ts";
import type { Connection, Listener } from "../../src/transport/transport.ts";
import { runtimeName } from "../support/fixtures.ts";
import { QuichePair } from "../support/quiche-pair.ts";

const local = { host: "127.0.0.1", port: 0 };
const skip = { skip: runtimeName === "deno" };
// In the name, because some runners do not print skip reasons.
const gap = skip.skip ? " [gap: quiche is for Node and Bun; Deno has a built-in QUIC]" : "";

describe(`quiche: options${gap}`, skip, () => {
  it("out of range fail with InvalidArgument", () => {
    for (const options of [
      { udpPayloadSize: 1199 },
      { idleTimeout: 0 },
      { retry: -1 },
      { socketBuffer: 1 },
    ]) {
      assert.throws(() => quicheSettings(options), { code: "InvalidArgument" });
    }
  });
});

describe(`quiche: data from a client${gap}`, skip, () => {
  const MUCH = 2_000_000;

  it("beyond the abuse budget and unread, closes the connection as a violation", async () => {
    const pair = await QuichePair.connect(1350, { abuseBudget: 128 * 1024 });
    const { writer } = await pair.client.openStream();
    const writing = writer.write(new Uint8Array(MUCH)).catch(() => {});
    const { error } = await pair.run(pair.server.closed, 8);
    assert.equal(error.code, "ProtocolViolation", error.message);
    assert.equal((await pair.run(pair.client.closed, 8)).error.code, "ConnectionLost");
    await writing;
    pair.close();
  });

  it("is no violation when it is read, is acknowledgements, or is not from the client", async () => {
    const pair = await QuichePair.connect(1350, { abuseBudget: 128 * 1024 });
    const { reader, writer } = await pair.client.openStream();
    const sending = (async () => {
      await writer.end(new Uint8Array(MUCH));
      let got = 0;
      for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read())
        got += chunk.length;
      return got;
    })();
    const serving = (async () => {
      for await (const stream of pair.server.accept()) {
        while ((await stream.reader.read()) !== undefined);
        await stream.writer.end(new Uint8Array(4 * MUCH));
        return;
      }
    })();
    await pair.run(serving, 8);
    assert.equal(await pair.run(sending, 8), 4 * MUCH);
    for (let sent = 0; sent < MUCH; sent += 1200) {
      const garbage = randomBytes(1200);
      // First byte of a short header (RFC 9000, section 17.3.1).
      garbage[0] = 0x40 | ((garbage[0] ?? 0) & 0x3f);
      pair.server.receive(garbage);
    }
    assert.equal(pair.server.endError, undefined);
    pair.close();
  });
});

describe(`quiche: address validation${gap}`, skip, () => {
  for (const retry of ["always", "never", 0, 1] as const) {
    it(`retry ${retry}: concurrent handshakes succeed`, () =>
      withServer({ retry }, async (listener) => {
        await Promise.all(Array.from({ length: 8 }, () => dialOnce(listener, { verify: false })));
      }));
  }

  it("with retries enabled, a first datagram is answered with a Retry no longer than itself", () =>
    withServer({ retry: "always" }, async (listener) => {
      const answer = await exchange(listener, await initialDatagram());
      // The two bits of a long header's type (RFC 9000, section 17.2.5): 3 is Retry.
      assert.equal(((answer[0] ?? 0) >> 4) & 3, 3);
      assert.ok(answer.length < 1200);
    }));

  it("a token is valid only for its address, for its lifetime, and unmodified", () => {
    const tokens = new RetryTokens();
    const id = Uint8Array.of(1, 2, 3);
    const token = tokens.mint("10.0.0.1", 1000, id, 50_000);
    assert.deepEqual(tokens.verify("10.0.0.1", 1000, token, 59_000), id);
    assert.equal(tokens.verify("10.0.0.1", 1001, token, 50_000), undefined);
    assert.equal(tokens.verify("10.0.0.2", 1000, token, 50_000), undefined);
    assert.equal(tokens.verify("10.0.0.1", 1000, token, 70_000), undefined);
    assert.equal(tokens.verify("10.0.0.1", 1000, token.subarray(1), 50_000), undefined);
    assert.equal(new RetryTokens().verify("10.0.0.1", 1000, token, 50_000), undefined);
    for (let at = 0; at < token.length; at++) {
      const changed = Uint8Array.from(token);
      changed[at] = (changed[at] ?? 0) ^ 1;
      assert.equal(tokens.verify("10.0.0.1", 1000, changed, 50_000), undefined);
    }
  });
});

describe(`quiche: strange datagrams and limits${gap}`, skip, () => {
  it("an unknown version is answered with the supported versions", () =>
    withServer({}, async (listener) => {
      const datagram = await initialDatagram();
      datagram.set([0x1a, 0x2a, 0x3a, 0x4a], 1);
      const answer = await exchange(listener, datagram);
      // Version 0 marks a version negotiation (RFC 8999, section 6).
      assert.deepEqual([...answer.subarray(1, 5)], [0, 0, 0, 0]);
      assert.ok(answer.length < 100);
    }));

  it("garbage, truncated and mutated datagrams do not affect the listener", () =>
    withServer({}, async (listener) => {
      const initial = await initialDatagram();
      const socket = createSocket("udp4");
      for (let at = 0; at < 400; at++) {
        const datagram =
          at % 2 === 0 ? Uint8Array.from(initial) : crypto.getRandomValues(new Uint8Array(at * 4));
        if (at % 2 === 0) datagram[at] = (datagram[at] ?? 0) ^ 0xff;
        await new Promise((resolve) =>
          socket.send(datagram, listener.address.port, "127.0.0.1", resolve),
        );
      }
      socket.close();
      await dialOnce(listener, { verify: false });
    }));

  it("above the connection limit a dial fails with ConnectionRefused, until a connection ends", () =>
    withServer(
      {},
      async (listener) => {
        const transport = await quicheTransport({ tls: { verify: false } });
        const first = await transport.dial(listener.address);
        // The last handshake datagram may be delayed by 1 ms, in which another handshake could end.
        await echoed(first);
        const error = await lateFailure(listener, { verify: false });
        assert.ok(["ConnectionRefused", "ConnectionLost"].includes(error.code), error.code);
        await first.close();
        for (let tries = 0; ; tries++) {
          try {
            await dialOnce(listener, { verify: false });
            break;
          } catch (error) {
            if (tries > 100) throw error;
          }
        }
      },
      { maxConnections: 1 },
    ));

  it("a peer that speaks another application protocol causes ProtocolNotSupported with the remedy", async () => {
    await withOtherProtocol(async (port) => {
      const transport = await quicheTransport({ tls: { verify: false } });
      const error = await rejection(transport.dial({ host: "127.0.0.1", port }));
      assert.equal(error.code, "ProtocolNotSupported");
      assert.match(error.message, /"tcp"/);
    });
  });
});

async function withServer(
  options: QuicheTransportOptions,
  use: (listener: Listener) => Promise<void>,
  limits: { readonly maxConnections?: number } = {},
): Promise<void> {
  const listener = await (await quicheTransport(options)).listen(local, limits);
  const accepting = (async () => {
    for await (const connection of listener.accept()) void echo(connection);
  })();
  try {
    await use(listener);
  } finally {
    await listener.close({ grace: 0 });
    await accepting;
  }
}

async function echo(connection: Connection): Promise<void> {
  for await (const { reader, writer } of connection.accept()) {
    try {
      for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read())
        await writer.write(chunk);
      await writer.end();
    } catch {
      // The client has gone.
    }
  }
}

/** Dials the listener and exchanges bytes with its echo. */
async function dialOnce(listener: Listener, tls: TlsClientOptions): Promise<void> {
  const connection = await (await quicheTransport({ tls })).dial(listener.address);
  try {
    await echoed(connection);
  } finally {
    await connection.close({ grace: 0 });
  }
}

async function echoed(connection: Connection): Promise<void> {
  const { reader, writer } = await connection.openStream();
  await writer.write(Uint8Array.of(1, 2, 3));
  await writer.end();
  assert.deepEqual(await reader.read(), Uint8Array.of(1, 2, 3));
  assert.equal(await reader.read(), undefined);
}

/**
 * Returns a refused client's error. It learns of the refusal only after its handshake (RFC 9001,
 * 4.1.2).
 */
function lateFailure(listener: Listener, tls: TlsClientOptions): Promise<VortexError> {
  return rejection(dialOnce(listener, tls));
}

async function rejection(promise: Promise<unknown>): Promise<VortexError> {
  try {
    await promise;
  } catch (error) {
    return error as VortexError;
  }
  assert.fail("the promise was not rejected");
}

/** Creates the first datagram of a client of this library. */
async function initialDatagram(): Promise<Uint8Array> {
  const quiche = await loadQuiche();
  const config = quiche.Config.withBoringSslCtx(false, false);
  config.setApplicationProtos([ALPN]);
  const here = { host: "127.0.0.1", port: 1 };
  const connection = quiche.Connection.connect(
    null,
    new Uint8Array(16),
    here,
    { host: "127.0.0.1", port: 2 },
    config,
  );
  const datagram = new Uint8Array(1350);
  const [length] = connection.send(datagram) ?? [0];
  return datagram.slice(0, length);
}

/** Sends a datagram from a new socket, and resolves with the answer. */
function exchange(listener: Listener, datagram: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve) => {
    const socket = createSocket("udp4");
    socket.once("message", (answer: Uint8Array) => {
      socket.close();
      resolve(answer);
    });
    socket.send(datagram, listener.address.port, "127.0.0.1");
  });
}

/** Runs `use` with a minimal QUIC server that offers only the ALPN "h3". */
async function withOtherProtocol(use: (port: number) => Promise<void>): Promise<void> {
  const quiche = await loadQuiche();
  const { cert, key } = await serverIdentity({});
  const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
  const config = quiche.Config.withBoringSslCtx(false, false, null, [encode(key)], [encode(cert)]);
  config.setApplicationProtos(["h3"]);
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  socket.on("message", (datagram: Uint8Array, { address, port }) => {
    const [to, from] = [
      { host: "127.0.0.1", port: socket.address().port },
      { host: address, port },
    ];
    const connection = quiche.Connection.accept(new Uint8Array(16).fill(7), null, to, from, config);
    try {
      connection.recv(datagram, { to, from });
    } catch {
      // TlsFail: the alert goes out below.
    }
    const out = new Uint8Array(1350);
    for (let packet = connection.send(out); packet !== null; packet = connection.send(out)) {
      socket.send(out.slice(0, packet[0]), port, address);
    }
  });
  try {
    await use(socket.address().port);
  } finally {
    socket.close();
  }
}
