/**
 * Native calls that throw within event callbacks: one connection ends, and the error is counted and
 * reported.
 */
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import type { Http2Server } from "node:http2";
import type { Socket } from "node:net";
import { describe, it } from "node:test";
import { listenDenoQuic } from "../../../adapters/deno-quic/listener.ts";
import type { DenoQuic, NativeIncoming } from "../../../adapters/deno-quic/native.ts";
import { denoQuicSettings } from "../../../adapters/deno-quic/options.ts";
import { GrpcServer } from "../../../adapters/grpc/server.ts";
import { listenNodeQuic } from "../../../adapters/node-quic/listener.ts";
import type {
  NativeEndpoint,
  NativeSession,
  NodeQuic,
} from "../../../adapters/node-quic/native.ts";
import { nodeQuicSettings } from "../../../adapters/node-quic/options.ts";
import type { NativeConnection, Quiche } from "../../../adapters/quiche/native.ts";
import { Guard } from "../../../adapters/shared/guard.ts";
import { selfSigned } from "../../../adapters/shared/tls.ts";
import { SocketStream } from "../../../adapters/tcp/stream.ts";
import type { VortexError } from "../../../src/errors.ts";
import { portableRuntime } from "../../../src/runtime.ts";
import { serverSettings } from "../../../src/server/admission/upload.ts";
import { firstDatagram } from "../../support/first-datagram.ts";
import { quicheFixture } from "../../support/fixtures.ts";
import { openQuicheListener } from "../../support/quiche-listener.ts";

const limit = { timeout: 20_000 };
const loopback = { host: "127.0.0.1", port: 0 };
const never = (): Promise<never> => new Promise(() => {});
const fault = (): never => {
  throw new TypeError("a native call failed");
};

describe("a native call that throws in an event callback", () => {
  const name = "of quiche ends its connection and no other";
  const gap =
    quicheFixture === undefined
      ? "quiche is for Node and Bun, Deno has a separate QUIC implementation"
      : undefined;
  for (const [when, faulty] of Object.entries({
    "at the first datagram": faultyAccept,
    "at a flush": faultyTimeout,
  })) {
    const title = `${name}: ${when}`;
    it(gap === undefined ? title : `${title} [gap: ${gap}]`, {
      ...limit,
      skip: gap !== undefined,
    }, async () => {
      if (quicheFixture === undefined) return;
      const transport = await quicheFixture.transport();
      const initial = await firstDatagram(transport);
      const { report, reported } = errorCollector();
      const { listener, receive } = await openQuicheListener(loopback, report, faulty());
      try {
        receive(initial, { host: "127.0.0.1", port: 9 });
        assert.match((await reported).message, /a native call failed/);
        assert.equal(listener.counters?.caught, 1);
        const connection = await transport.dial(listener.address);
        await connection.close({ grace: 0 });
      } finally {
        await listener.close({ grace: 0 });
      }
    });
  }

  it("of node:quic ends its session, and the listener continues", limit, async () => {
    const { report, reported } = errorCollector();
    let onSession: (session: NativeSession) => void = fault;
    const endpoint: Partial<NativeEndpoint> = {
      address: { port: 1 },
      destroyed: false,
      busy: false,
      closed: never(),
      close: async () => {},
    };
    const quic: NodeQuic = {
      QuicEndpoint: function endpointOf() {
        return endpoint;
      } as unknown as NodeQuic["QuicEndpoint"],
      async listen(taken) {
        onSession = taken;
        return endpoint as NativeEndpoint;
      },
      connect: never,
    };
    const listener = await listenNodeQuic(
      {
        quic,
        socketOptions: undefined,
        socketBuffer: 0,
        settings: nodeQuicSettings(),
        maxConnections: 8,
        maxStreams: 1,
        earlyData: false,
        identity: await selfSigned(),
        clientCa: undefined,
        onError: report,
      },
      loopback,
    );
    let destroyed = 0;
    const session: Partial<NativeSession> = { opened: never(), closed: never(), destroyed: false };
    onSession(
      Object.defineProperty(Object.assign(session, { destroy: () => destroyed++ }), "stats", {
        get: fault,
      }) as NativeSession,
    );
    assert.match((await reported).message, /a native call failed/);
    assert.deepEqual([destroyed, listener.counters?.caught], [1, 1]);
    await listener.close({ grace: 0 });
  });

  it("of Deno's QUIC ends its connection, and later ones are still accepted", limit, async () => {
    const { report, reported } = errorCollector();
    let refused = 0;
    const incomings: NativeIncoming[] = [
      {
        accept: () => Object.defineProperty({}, "remoteAddr", { get: fault }) as never,
        refuse: fault,
        ignore: fault,
      },
      {
        accept: () => {
          refused++;
          return fault();
        },
        refuse: fault,
        ignore: fault,
      },
    ];
    const listening = { incoming: async () => incomings.shift() ?? never() };
    const endpoint = { addr: { port: 1 }, listen: () => listening, close: () => {} };
    const quic = {
      connectQuic: never,
      QuicEndpoint: function endpointOf() {
        return endpoint;
      },
    } as unknown as DenoQuic;
    const listener = await listenDenoQuic(
      {
        quic,
        settings: denoQuicSettings({}),
        maxConnections: 8,
        maxStreams: 1,
        earlyData: false,
        identity: await selfSigned(),
        onError: report,
      },
      loopback,
    );
    assert.match((await reported).message, /a native call failed/);
    while (refused === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    assert.equal(listener.counters?.caught, 1);
    await listener.close({ grace: 0 });
  });

  it("of a TCP socket ends that socket", limit, async () => {
    const { report, reported } = errorCollector();
    const socket = new EventEmitter();
    let destroyed = false;
    Object.assign(socket, {
      destroyed: false,
      writableEnded: false,
      writableLength: 0,
      pause: fault,
      isPaused: fault,
      resetAndDestroy: () => {
        destroyed = true;
      },
    });
    const stream = new SocketStream(socket as Socket, new Guard({ onError: report }));
    socket.emit("data", new Uint8Array(1024 * 1024));
    assert.match((await reported).message, /a native call failed/);
    assert.equal(destroyed, true);
    assert.equal(stream.failure?.code, "Internal");
    socket.emit("error", new Error("later"));
  });

  it("of node:http2 ends its session, and the server continues", limit, async () => {
    const { report, reported } = errorCollector();
    const server = Object.assign(new EventEmitter(), { address: () => ({ port: 1 }) });
    const settings = serverSettings({ onError: report }, portableRuntime);
    const grpc = new GrpcServer(server as unknown as Http2Server, loopback, new Map(), settings);
    let destroyed = 0;
    const session = Object.defineProperty({ destroy: () => destroyed++ }, "socket", { get: fault });
    server.emit("session", session);
    assert.match((await reported).message, /a native call failed/);
    assert.deepEqual([destroyed, grpc.counters.caught], [1, 1]);
    server.emit("close");
  });
});

/** Returns a callback for errors, and a promise of the first one. */
function errorCollector(): {
  report(error: VortexError): void;
  readonly reported: Promise<VortexError>;
} {
  let report: (error: VortexError) => void = () => {};
  const reported = new Promise<VortexError>((resolve) => {
    report = resolve;
  });
  return { report: (error) => report(error), reported };
}

/** Makes the first call of `accept` throw. */
function faultyAccept(): (quiche: Quiche) => Quiche {
  return replacingFirst(fault);
}

/** Makes the `timeout` calls of the first connection throw. */
function faultyTimeout(): (quiche: Quiche) => Quiche {
  return replacingFirst((native) => Object.defineProperty(native, "timeout", { value: fault }));
}

/** Wraps the binding to replace the first accepted connection. */
function replacingFirst(
  replace: (native: NativeConnection) => NativeConnection,
): (quiche: Quiche) => Quiche {
  let first = true;
  return (quiche) => {
    const accept = (...args: Parameters<Quiche["Connection"]["accept"]>): NativeConnection => {
      const native = quiche.Connection.accept(...args);
      if (!first) return native;
      first = false;
      return replace(native);
    };
    // Native properties are read-only, so they are shadowed.
    const Connection: unknown = Object.create(quiche.Connection, { accept: { value: accept } });
    return Object.create(quiche, { Connection: { value: Connection } }) as Quiche;
  };
}
