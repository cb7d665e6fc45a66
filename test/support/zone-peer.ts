/**
 * Test program: one side of a connection between link-local addresses, in a separate network
 * namespace.
 *
 * ```text
 * zone-peer.ts BINDING serve IDENTITY           prints its port, serves one byte per stream,
 *                                               and exits when its standard input ends
 * zone-peer.ts BINDING dial IDENTITY HOST PORT  dials, trusts only the server's certificate,
 *                                               and prints "served" or the failure
 * ```
 *
 * BINDING is `quiche`, `node-quic` or `deno-quic`. IDENTITY is the server's certificate and key, in
 * JSON.
 */
import process from "node:process";
import { denoQuicTransport } from "../../adapters/deno-quic/lazy-transport.ts";
import { nodeQuicTransport } from "../../adapters/node-quic/lazy-transport.ts";
import { quicheTransport } from "../../adapters/quiche/lazy-transport.ts";
import { VortexError } from "../../src/errors.ts";
import type { TlsIdentity } from "../../src/transport/tls.ts";
import type { Listener, Transport } from "../../src/transport/transport.ts";

const [, , name = "", role = "", identityJson = "{}", host = "", port = ""] = process.argv;
const identity = JSON.parse(identityJson) as TlsIdentity;
const make = {
  quiche: quicheTransport,
  "node-quic": nodeQuicTransport,
  "deno-quic": denoQuicTransport,
}[name];
if (make === undefined) throw new Error(`unknown QUIC binding: ${name}`);
const transport = await make({ tls: { ca: identity.cert }, serverTls: identity });
if (role === "serve") await serve(await transport.listen({ host: "::", port: 0 }));
else console.log(await dial(transport).catch(wordsOf));
process.exit(0);

async function serve(listener: Listener): Promise<void> {
  console.log(listener.address.port);
  const ended = new Promise((resolve) => process.stdin.resume().once("end", resolve));
  void (async () => {
    for await (const connection of listener.accept()) {
      void (async () => {
        for await (const { writer } of connection.accept())
          await writer.end(Uint8Array.of(7)).catch(() => {});
      })();
    }
  })();
  await ended;
}

async function dial(from: Transport): Promise<string> {
  const signal = AbortSignal.timeout(10_000);
  const connection = await from.dial({ host, port: Number(port) }, { signal });
  const { reader, writer } = await connection.openStream({ signal });
  await writer.end(Uint8Array.of(1));
  const answer = await reader.read();
  return answer?.[0] === 7 ? "served" : `got ${answer}`;
}

function wordsOf(error: unknown): string {
  return error instanceof VortexError ? `${error.code}: ${error.message}` : String(error);
}
