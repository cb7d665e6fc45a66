/**
 * Deno's QUIC without this library: a stream for each request, with only the certificate verified.
 */
import { denoQuic, type NativeConn, type NativeStream } from "../../adapters/deno-quic/native.ts";
import { denoQuicSettings, nativeSettings } from "../../adapters/deno-quic/options.ts";
import { isLoopback } from "../../adapters/shared/local-address.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { DEFAULT_MAX_STREAMS } from "../../src/transport/transport.ts";
import {
  answerTo,
  type Client,
  type Content,
  encodeRequest,
  REQUEST_BYTES,
  type Serving,
  type Subject,
} from "../subject.ts";

export const bareDenoQuic: Subject = {
  async serve(content, host): Promise<Serving> {
    const { QuicEndpoint } = denoQuic();
    const { cert, key } = await selfSigned();
    const endpoint = new QuicEndpoint({ hostname: host, port: 0 });
    const listener = endpoint.listen({
      cert,
      key,
      alpnProtocols: [ALPN],
      ...nativeSettings(settings, DEFAULT_MAX_STREAMS, isLoopback(host)),
    });
    const accept = async (): Promise<void> => {
      for (;;) {
        const incoming = await listener.incoming();
        serveConnection(incoming.accept({ zeroRtt: true }), content).catch(() => {});
      }
    };
    // The loop ends with the endpoint.
    accept().catch(() => {});
    return {
      peer: { host, port: endpoint.addr.port, cert },
      close: async () => endpoint.close(CLOSE),
    };
  },

  async dial({ host, port, cert = "" }): Promise<Client> {
    const { QuicEndpoint, connectQuic } = denoQuic();
    const endpoint = new QuicEndpoint({ hostname: "0.0.0.0", port: 0 });
    const connection = await connectQuic({
      hostname: host,
      port,
      // Name in the certificate.
      serverName: "d7y",
      alpnProtocols: [ALPN],
      caCerts: [cert],
      endpoint,
      zeroRtt: false,
      keepAliveInterval: settings.keepAlive,
      ...nativeSettings(settings, 0, false),
    });
    return {
      async fetch(piece, onFirstByte) {
        const stream = await connection.createBidirectionalStream({ waitUntilAvailable: true });
        const writer = stream.writable.getWriter();
        writer.write(encodeRequest(piece)).catch(() => {});
        writer.close().catch(() => {});
        const reader = stream.readable.getReader({ mode: "byob" });
        let length = 0;
        let buffer = new Uint8Array(READ);
        for (;;) {
          const { value, done } = await reader.read(buffer);
          if (done || value === undefined) return length;
          if (length === 0) onFirstByte?.();
          length += value.length;
          buffer = new Uint8Array(value.buffer);
        }
      },
      async close() {
        connection.close(CLOSE);
        endpoint.close(CLOSE);
      },
    };
  },
};

const ALPN = "bare";
const CLOSE = { closeCode: 0, reason: "" };
const settings = denoQuicSettings();
const READ = 256 * 1024;

async function serveConnection(connection: NativeConn, content: Content): Promise<void> {
  for await (const stream of connection.incomingBidirectionalStreams)
    answer(stream, content).catch(() => {});
}

async function answer(stream: NativeStream, content: Content): Promise<void> {
  const reader = stream.readable.getReader({ mode: "byob" });
  let request = new Uint8Array(REQUEST_BYTES);
  for (let held = 0; held < REQUEST_BYTES; ) {
    const { value } = await reader.read(request.subarray(held));
    if (value === undefined) return;
    held += value.length;
    request = new Uint8Array(value.buffer);
  }
  // A stream whose end was not read keeps its credit until it is garbage-collected.
  const ended = reader.read(new Uint8Array(1));
  const writer = stream.writable.getWriter();
  await writer.write(answerTo(request, content));
  await writer.close();
  await ended;
}
