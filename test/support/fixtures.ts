import process from "node:process";
import { denoQuicTransportWith } from "../../adapters/deno-quic/transport.ts";
import { nodeQuicTransportWith } from "../../adapters/node-quic/transport.ts";
import { quicheTransportWith } from "../../adapters/quiche/transport.ts";
import type { Resolver } from "../../adapters/shared/resolve.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { tcpTransportWith } from "../../adapters/tcp/transport.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import { memoryFixture, type TransportFixture, type TransportTuning } from "./fixture.ts";

/** JavaScript runtime that executes the tests. */
export const runtimeName: "node" | "bun" | "deno" =
  "bun" in process.versions ? "bun" : "deno" in process.versions ? "deno" : "node";

/**
 * Returns a resolver for the `addresses` of a transport tuning. Returns undefined, for the system's
 * resolver, if the tuning has no addresses.
 */
export function resolverOf({ addresses }: TransportTuning = {}): Resolver | undefined {
  return addresses && (async () => addresses);
}

/** Returns the defined timeouts of a transport tuning, without its addresses. */
function timeoutsOf({
  idleTimeout,
  keepAlive,
}: TransportTuning = {}): Omit<TransportTuning, "addresses"> {
  return {
    ...(idleTimeout !== undefined && { idleTimeout }),
    ...(keepAlive !== undefined && { keepAlive }),
  };
}

const noCredit = "TCP has no stream credit: each stream is a separate socket";
const oneReset =
  "TCP has one kind of reset: an aborted connection and an aborted stream look the same";
const pollhup =
  "libuv reports a reset that finds unread bytes as a clean end (uv__stream_io, POLLHUP)";

const noIdle = "an idle socket is kept while its peer exists; requests have separate deadlines";
const cleanKill =
  "the kernel closes the sockets of a killed process cleanly, as if the program had done so";

const onSockets = "bytes between sockets take real time, which the fake clock does not wait for";

/** Fixture of the TCP transport on node:net, over loopback. */
export const tcpFixture: TransportFixture = {
  transport: async (tuning) => tcpTransportWith(resolverOf(tuning)),
  listenAddress: { host: "127.0.0.1", port: 0 },
  resolvesNames: true,
  gaps: {
    "cancel by a reader whose sending direction is open is StreamReset for the writer":
      "TCP cannot refuse one direction and keep the other: incoming data is dropped unread",
    "an empty write sends nothing, and rejects with StreamReset once the peer has cancelled":
      "over TCP only a write of bytes shows that a peer with an ended direction has disconnected",
    "a stream beyond the credit waits until another has ended": noCredit,
    "an abort ends the wait for credit at once, and uses no credit": noCredit,
    "a wait for stream credit ends with the connection": noCredit,
    "the accepting side can open a stream": "over TCP a server opens no streams to its clients",
    "an abort by the accepting side is Closed locally and ConnectionLost at the peer": oneReset,
    "an abort by the dialling side is Closed locally and ConnectionLost at the peer": oneReset,
    "a lost connection is ConnectionLost": oneReset,
    "closed resolves on both sides, and reports which side ended the connection":
      "a dialled connection over TCP is a peer, not a socket: it ends on this side only",
    "after the server is killed, all pending operations of its client reject with ConnectionLost":
      cleanKill,
    "after a client is killed, all pending operations of the server reject with ConnectionLost":
      cleanKill,
    "an idle connection is ConnectionLost on both sides after the idle timeout": noIdle,
    "keep-alive keeps an idle connection open for several idle timeouts": noIdle,
    "bytes take no real time": onSockets,
    ...(runtimeName === "node" && {
      "a reset differs from a clean end": pollhup,
      "a blocked stream does not block another stream": pollhup,
      "abort by the writer after data never looks like a clean end to the reader": pollhup,
      "abort rejects the pending write and later writes with Closed": pollhup,
    }),
  },
};

const noClientCredit = "a client grants its peer no stream credit";

const slowRetransmits =
  "BUG: quiche 0.18 retransmits data of the old path two packets at a time, doubling the wait each time";

const quiche: TransportFixture = {
  transport: (tuning) =>
    quicheTransportWith(resolverOf(tuning), { tls: { verify: false }, ...timeoutsOf(tuning) }),
  listenAddress: { host: "127.0.0.1", port: 0 },
  resolvesNames: true,
  overUdp: true,
  gaps: {
    "the accepting side can open a stream": noClientCredit,
    "bytes take no real time": onSockets,
    "repeated rebinding during a transfer loses no bytes in either direction": slowRetransmits,
  },
};

/**
 * Fixture of QUIC on quiche, over loopback. Undefined on Deno, which has a QUIC implementation
 * itself.
 */
export const quicheFixture: TransportFixture | undefined =
  runtimeName === "deno" ? undefined : quiche;

const noReset =
  "Deno 2.9 cannot reset a stream: quinn finishes a dropped one, which looks like an end";

const noIcmp = "Deno does not report ICMP errors: the dial ends by its signal";

const IDENTITY = "VORTEX_PEER_TEST_IDENTITY";

/**
 * Returns a certificate that both sides use, also in child processes. Clients must trust a known
 * certificate, because Deno cannot disable verification.
 */
async function sharedIdentity(): Promise<TlsIdentity> {
  const inherited = process.env[IDENTITY];
  if (inherited !== undefined) return JSON.parse(inherited) as TlsIdentity;
  const identity = await selfSigned();
  process.env[IDENTITY] = JSON.stringify(identity);
  return identity;
}

/** Creates the fixture of Deno's QUIC implementation, over loopback. */
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
    "the accepting side can open a stream": noClientCredit,
    "an empty write sends nothing, and rejects with StreamReset once the peer has cancelled":
      "Deno 2.9 reports it only on a write of bytes",
    "bytes take no real time": onSockets,
    "a reset differs from a clean end": noReset,
    "streams beyond the limit wait until others have ended":
      "Deno 2.9 sends STOP_SENDING when more bytes arrive, not before: a pending read cannot be cancelled",
    "a server that rejects early data receives the request after the handshake":
      "Deno's servers always accept early data; rejecting it means reading it only after the handshake",
    "dialling a closed port rejects with ConnectionRefused": noIcmp,
    "when all addresses fail, the error names each": noIcmp,
    "abort by the writer rejects the pending read and the next one with StreamReset": noReset,
    "abort by the writer after data never looks like a clean end to the reader": noReset,
    "abort rejects the pending write and later writes with Closed": noReset,
  },
});

/** Fixture of Deno's QUIC implementation, over loopback. Undefined on other runtimes. */
export const denoQuicFixture: TransportFixture | undefined =
  runtimeName === "deno" ? denoQuic(await sharedIdentity()) : undefined;

const noBackpressure =
  "Bun's node:quic buffers everything: a slow reader does not slow the sender down";

const nodeQuic: TransportFixture = {
  transport: (tuning) =>
    nodeQuicTransportWith(resolverOf(tuning), { tls: { verify: false }, ...timeoutsOf(tuning) }),
  listenAddress: { host: "127.0.0.1", port: 0 },
  resolvesNames: true,
  overUdp: true,
  gaps: {
    "a reader that stops blocks the writer, and loses nothing": noBackpressure,
    "a blocked stream does not block another stream": noBackpressure,
    "the accepting side can open a stream": noClientCredit,
    "bytes take no real time": onSockets,
  },
};

/** Fixture of the runtime's node:quic, over loopback. Undefined on runtimes other than Bun. */
export const nodeQuicFixture: TransportFixture | undefined =
  runtimeName === "bun" ? nodeQuic : undefined;

/** Fixtures of all transports for the tests of client and server, by name. */
export const fixtures: Readonly<Record<string, TransportFixture>> = {
  memory: memoryFixture,
  tcp: tcpFixture,
  ...(quicheFixture && { quiche: quicheFixture }),
  ...(nodeQuicFixture && { "node-quic": nodeQuicFixture }),
  ...(denoQuicFixture && { "deno-quic": denoQuicFixture }),
};
