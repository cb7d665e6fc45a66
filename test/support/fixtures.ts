import process from "node:process";
import { denoQuicTransportWith } from "../../adapters/deno-quic/transport.ts";
import { nodeQuicTransportWith } from "../../adapters/node-quic/transport.ts";
import { quicheTransportWith } from "../../adapters/quiche/transport.ts";
import type { Resolver } from "../../adapters/shared/resolve.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { tcpTransportWith } from "../../adapters/tcp/transport.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { memoryFixture, type TransportFixture, type TransportTuning } from "./fixture.ts";

/** Which runtime the tests run in. */
export const runtimeName: "node" | "bun" | "deno" =
  "bun" in process.versions ? "bun" : "deno" in process.versions ? "deno" : "node";

/** Resolver of a fixture. */
export function resolverOf({ addresses }: TransportTuning = {}): Resolver | undefined {
  return addresses && (async () => addresses);
}

function timeoutsOf({
  idleTimeout,
  keepAlive,
}: TransportTuning = {}): Omit<TransportTuning, "addresses"> {
  return {
    ...(idleTimeout !== undefined && { idleTimeout }),
    ...(keepAlive !== undefined && { keepAlive }),
  };
}

const noCredit = "TCP has no stream credit: each stream is a socket of its own";
const oneReset =
  "TCP knows one kind of reset: a connection that is aborted and a stream that is look the same";
const hangup =
  "libuv reports a reset that finds unread bytes as a clean end (uv__stream_io, POLLHUP)";

const noIdle =
  "a socket without a word is kept as long as its peer is there; requests have deadlines of their own";
const fin =
  "TCP ends a killed process's sockets in good order: its kernel does, as if the program had";

const onSockets = "bytes between sockets take real time, which the fake clock does not wait for";

/** TCP on node:net, over loopback. */
export const tcpFixture: TransportFixture = {
  transport: async (tuning) => tcpTransportWith(resolverOf(tuning)),
  listenAddress: { host: "127.0.0.1", port: 0 },
  resolvesNames: true,
  gaps: {
    "cancel by a reader whose own direction is open is StreamReset for the writer":
      "TCP cannot refuse one direction and keep the other: what comes is dropped unread",
    "a write of nothing sends nothing, and is StreamReset once the other side has cancelled":
      "TCP shows only to a write of bytes that whoever has ended its side has gone",
    "a stream beyond the credit waits until another has ended": noCredit,
    "an abort ends the wait for credit at once, and takes no credit with it": noCredit,
    "a wait for stream credit ends with the connection": noCredit,
    "the accepting side opens a stream too": "over TCP a server opens no streams to its clients",
    "an abrupt end by the accepting side: ConnectionLost there, Closed here": oneReset,
    "an abrupt end by the dialling side: ConnectionLost there, Closed here": oneReset,
    "a lost connection is ConnectionLost": oneReset,
    "closed resolves on both sides, and says which one ended it":
      "what is dialled over TCP is a peer, not a socket: it ends on its own side only",
    "the peer's process is killed: ConnectionLost for all that waits": fin,
    "the client's process is killed: ConnectionLost for all that waits": fin,
    "a connection without a word is ConnectionLost after the idle timeout, on both sides": noIdle,
    "keep-alive holds a connection without a word through several idle timeouts": noIdle,
    "bytes take no real time": onSockets,
    ...(runtimeName === "node" && {
      "a reset is told from an end": hangup,
      "a stream whose reader does not read does not hold its neighbour": hangup,
      "abort by the writer after bytes is never a clean end for the reader": hangup,
      "writes after abort are Closed, and so is the one that waits": hangup,
    }),
  },
};

const grantsNone = "peers open no streams towards a client: it grants none";

const oldPath =
  "BUG: quiche 0.18 sends what was under way to the old port again two packets at a time, with twice the wait each time";

const quiche: TransportFixture = {
  transport: (tuning) =>
    quicheTransportWith(resolverOf(tuning), { tls: { verify: false }, ...timeoutsOf(tuning) }),
  listenAddress: { host: "127.0.0.1", port: 0 },
  resolvesNames: true,
  overUdp: true,
  gaps: {
    "the accepting side opens a stream too": grantsNone,
    "bytes take no real time": onSockets,
    "a path that changes again and again in the middle of a transfer loses no byte, in either direction":
      oldPath,
  },
};

/** QUIC on quiche, over loopback; undefined in Deno, which has its own QUIC. */
export const quicheFixture: TransportFixture | undefined =
  runtimeName === "deno" ? undefined : quiche;

const noReset =
  "Deno 2.9 cannot reset a stream: one that is dropped unfinished is finished by quinn, and looks ended";

const noIcmp = "Deno does not tell that a datagram came back (ICMP): the dial ends by its signal";

const IDENTITY = "VORTEX_PEER_TEST_IDENTITY";

/** Deno cannot leave a peer unverified, so both sides know this certificate, also in the processes that tests start. */
async function sharedIdentity(): Promise<TlsIdentity> {
  const inherited = process.env[IDENTITY];
  if (inherited !== undefined) return JSON.parse(inherited) as TlsIdentity;
  const identity = await selfSigned();
  process.env[IDENTITY] = JSON.stringify(identity);
  return identity;
}

const denoQuic = (identity: TlsIdentity): TransportFixture => ({
  transport: (tuning) =>
    denoQuicTransportWith(resolverOf(tuning), {
      tls: { ca: identity.cert },
      serverTls: identity,
      ...timeoutsOf(tuning),
    }),
  listenAddress: { host: "127.0.0.1", port: 0 },
  resolvesNames: true,
  overUdp: true,
  endsWithEarlyData: true,
  gaps: {
    "the accepting side opens a stream too": grantsNone,
    "a write of nothing sends nothing, and is StreamReset once the other side has cancelled":
      "Deno 2.9 tells of it only to a write of bytes",
    "bytes take no real time": onSockets,
    "a reset is told from an end": noReset,
    "streams beyond the limit wait until others have ended":
      "Deno 2.9 asks a sender to stop when more bytes come, not before: a read that waits cannot be called off",
    "a server that takes none is asked after the handshake":
      "Deno's servers always accept early data; not taking any is to look at it after the handshake only",
    "a port where nobody listens: ConnectionRefused": noIcmp,
    "when all addresses fail, the error names each": noIcmp,
    "abort by the writer is StreamReset for a reader that waits, and for its next read": noReset,
    "abort by the writer after bytes is never a clean end for the reader": noReset,
    "writes after abort are Closed, and so is the one that waits": noReset,
  },
});

/** QUIC by Deno itself, over loopback; undefined elsewhere. */
export const denoQuicFixture: TransportFixture | undefined =
  runtimeName === "deno" ? denoQuic(await sharedIdentity()) : undefined;

const noHold =
  "Bun's node:quic takes in whatever comes: it has no means to hold a sender whose reader is slow";

const nodeQuic: TransportFixture = {
  transport: (tuning) =>
    nodeQuicTransportWith(resolverOf(tuning), { tls: { verify: false }, ...timeoutsOf(tuning) }),
  listenAddress: { host: "127.0.0.1", port: 0 },
  resolvesNames: true,
  overUdp: true,
  gaps: {
    "a reader that does not read holds the writer, and loses nothing": noHold,
    "a stream whose reader does not read does not hold its neighbour": noHold,
    "the accepting side opens a stream too": grantsNone,
    "bytes take no real time": onSockets,
  },
};

/** QUIC by the runtime's own node:quic, over loopback; undefined where there is none. */
export const nodeQuicFixture: TransportFixture | undefined =
  runtimeName === "bun" ? nodeQuic : undefined;

/** The transports that the tests of client and server run over, by name. */
export const fixtures: Readonly<Record<string, TransportFixture>> = {
  memory: memoryFixture,
  tcp: tcpFixture,
  ...(quicheFixture && { quiche: quicheFixture }),
  ...(nodeQuicFixture && { "node-quic": nodeQuicFixture }),
  ...(denoQuicFixture && { "deno-quic": denoQuicFixture }),
};
