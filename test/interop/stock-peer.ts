/**
 * Test program that behaves like a stock dfdaemon. Its QUIC is quinn, which Deno embeds, without
 * ALPN and with a certificate for `d7y` created at start. Over TCP it keeps a connection for
 * further requests, like 1.5.7 and later. With `--close` it closes it after one response, like
 * 1.5.6 and older. Runs on Deno:
 *
 *     deno run --allow-all --unstable-net stock-peer.ts [--survive] [--close]
 *
 * It exits with code 101 when a QUIC handshake fails, like dfdaemon 1.1.0 to 1.4.8. With
 * `--survive` it keeps running, like 1.4.9 and later. It prints a {@link StockPeer} as JSON and
 * ends with its standard input. For any task id it serves {@link STOCK_PIECES} pieces of {@link
 * stockPiece}.
 */
import { createHash, X509Certificate } from "node:crypto";
import { createServer } from "node:net";
import process from "node:process";
import { generate } from "selfsigned";
import { denoQuic, type NativeConn, type NativeStream } from "../../adapters/deno-quic/native.ts";
import {
  readRequest,
  STOCK_PIECE_LENGTH,
  STOCK_PIECES,
  stockAnswer,
  stockNotFound,
  stockPiece,
} from "./stock-wire.ts";

/** Ports and certificate of a stock peer, as printed. */
export interface StockPeer {
  readonly quic: number;
  readonly tcp: number;
  /** SHA-256 of the certificate, in hex without colons. */
  readonly fingerprint: string;
  readonly cert: string;
}

const REQUEST_LENGTH = 74;

function answerTo(packet: Uint8Array): Uint8Array[] {
  const request = readRequest(packet);
  if (request === undefined || request.number >= STOCK_PIECES)
    return [stockNotFound(request?.id ?? 0)];
  const content = stockPiece(request.number);
  return [
    stockAnswer(request.id, request.number, request.number * STOCK_PIECE_LENGTH, content),
    content,
  ];
}

async function serveStream({ readable, writable }: NativeStream): Promise<void> {
  let request = new Uint8Array(0);
  for await (const chunk of readable) request = Uint8Array.of(...request, ...chunk);
  const writer = writable.getWriter();
  for (const part of answerTo(request)) await writer.write(part);
  await writer.close();
}

/** Waits for a handshake to end. Rejects if it fails. */
async function handshakeOf(connection: NativeConn): Promise<void> {
  let failure: unknown;
  connection.closed.catch((error: unknown) => {
    failure = error;
  });
  // `handshake` resolves even if the handshake failed; the failure shows one turn later.
  await connection.handshake;
  await new Promise((resolve) => setTimeout(resolve));
  if (failure !== undefined) throw failure;
}

function dieOf(failure: unknown): void {
  if (process.argv.includes("--survive")) return;
  console.error(`handshake failed: ${String(failure)}`);
  process.exit(101);
}

async function startQuic(identity: { cert: string; key: string }): Promise<number> {
  const endpoint = new (denoQuic().QuicEndpoint)({ hostname: "127.0.0.1", port: 0 });
  const listener = endpoint.listen({
    ...identity,
    alpnProtocols: [],
    maxIdleTimeout: 60_000,
    maxConcurrentBidirectionalStreams: 100,
    maxConcurrentUnidirectionalStreams: 100,
    congestionControl: "low-latency",
  });
  void (async () => {
    for (;;) {
      const incoming = await listener.incoming();
      void (async () => {
        let connection: NativeConn;
        try {
          // Throws synchronously if the client offers ALPN.
          connection = incoming.accept({ zeroRtt: true });
        } catch (error) {
          dieOf(error);
          return;
        }
        handshakeOf(connection).catch(dieOf);
        for await (const stream of connection.incomingBidirectionalStreams)
          serveStream(stream).catch(() => {});
      })().catch(() => {});
    }
  })();
  return endpoint.addr.port;
}

async function startTcp(): Promise<number> {
  const server = createServer((socket) => {
    let request = new Uint8Array(0);
    socket.on("error", () => {});
    socket.on("data", (chunk: Uint8Array) => {
      request = Uint8Array.of(...request, ...chunk);
      if (request.length < REQUEST_LENGTH) return;
      for (const part of answerTo(request)) socket.write(part);
      request = new Uint8Array(0);
      if (process.argv.includes("--close")) socket.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

const { cert, private: key } = await generate([{ name: "commonName", value: "d7y" }], {
  keyType: "ec",
  algorithm: "sha256",
  extensions: [{ name: "subjectAltName", altNames: [{ type: 2, value: "d7y" }] }],
});
const fingerprint = createHash("sha256").update(new X509Certificate(cert).raw).digest("hex");
const peer: StockPeer = {
  quic: await startQuic({ cert, key }),
  tcp: await startTcp(),
  fingerprint,
  cert,
};
console.log(JSON.stringify(peer));
process.stdin.resume();
process.stdin.once("end", () => process.exit(0));
