import process from "node:process";
import { quicheTransport } from "../../adapters/quiche/transport.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { memoryFixture, type TransportFixture } from "./fixture.ts";

/** Which runtime the tests run in. */
export const runtimeName: "node" | "bun" | "deno" =
  "bun" in process.versions ? "bun" : "deno" in process.versions ? "deno" : "node";

const noCredit = "TCP has no stream credit: each stream is a socket of its own";
const oneReset = "TCP knows one kind of reset: a connection that is aborted and a stream that is look the same";
const hangup = "libuv reports a reset that finds unread bytes as a clean end (uv__stream_io, POLLHUP)";

const onSockets = "bytes between sockets take real time, which the fake clock does not wait for";

/** TCP on node:net, over loopback. */
export const tcpFixture: TransportFixture = {
  transport: async () => tcpTransport,
  listenAddress: { host: "127.0.0.1", port: 0 },
  gaps: {
    "cancel by a reader whose own direction is open is StreamReset for the writer":
      "TCP cannot refuse one direction and keep the other: what comes is dropped unread",
    "a stream beyond the credit waits until another has ended": noCredit,
    "an abort ends the wait for credit at once, and takes no credit with it": noCredit,
    "a wait for stream credit ends with the connection": noCredit,
    "the accepting side opens a stream too": "over TCP a server opens no streams to its clients",
    "an abrupt end by the accepting side: ConnectionLost there, Closed here": oneReset,
    "an abrupt end by the dialling side: ConnectionLost there, Closed here": oneReset,
    "a lost connection is ConnectionLost": oneReset,
    "closed resolves on both sides, and says which one ended it":
      "what is dialled over TCP is a peer, not a socket: it ends on its own side only",
    "bytes take no real time": onSockets,
    ...(runtimeName === "node" && {
      "a reset is told from an end": hangup,
      "a stream whose reader does not read does not hold its neighbour": hangup,
      "abort by the writer after bytes is never a clean end for the reader": hangup,
      "writes after abort are Closed, and so is the one that waits": hangup,
    }),
  },
};

const quiche: TransportFixture = {
  transport: () => quicheTransport({ tls: { verify: false } }),
  listenAddress: { host: "127.0.0.1", port: 0 },
  overUdp: true,
  gaps: {
    "the accepting side opens a stream too": "peers open no streams towards a client: it grants none",
    "bytes take no real time": onSockets,
  },
};

/** QUIC on quiche, over loopback; undefined in Deno, which has its own QUIC. */
export const quicheFixture: TransportFixture | undefined = runtimeName === "deno" ? undefined : quiche;

/** The transports that the tests of client and server run over, by name. */
export const fixtures: Readonly<Record<string, TransportFixture>> = {
  memory: memoryFixture,
  tcp: tcpFixture,
  ...(quicheFixture && { quiche: quicheFixture }),
};
