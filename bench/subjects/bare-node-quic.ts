/** `node:quic` without this library: a stream for each request, nothing verified. */
import { createPrivateKey } from "node:crypto";
import {
  type ConnectConfig,
  drainable,
  loadNodeQuic,
  type NativeSession,
  type NativeStream,
} from "../../adapters/node-quic/native.ts";
import { nodeQuicSettings } from "../../adapters/node-quic/options.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { DEFAULT_MAX_STREAMS } from "../../src/transport/transport.ts";
import {
  answerTo,
  type Client,
  type Content,
  encodeRequest,
  type Serving,
  type Subject,
} from "../subject.ts";

export const bareNodeQuic: Subject = {
  async serve(content, host): Promise<Serving> {
    const quic = await loadNodeQuic();
    const { cert, key } = await selfSigned();
    const sessions = new Set<NativeSession>();
    const endpoint = await quic.listen(
      (session) => {
        sessions.add(session);
        session.onerror = () => {};
        const gone = (): void => {
          sessions.delete(session);
        };
        session.closed.then(gone, gone);
        session.onstream = (stream) => {
          answer(stream, content).catch(() => {});
        };
      },
      {
        endpoint: new quic.QuicEndpoint({ address: { address: host, port: 0, family: "ipv4" } }),
        alpn: [ALPN],
        sni: { "*": { keys: [createPrivateKey(key)], certs: [new TextEncoder().encode(cert)] } },
        verifyClient: false,
        ...common(DEFAULT_MAX_STREAMS),
      },
    );
    return {
      peer: { host, port: endpoint.address?.port ?? 0 },
      async close() {
        for (const session of sessions) session.destroy(undefined, CLOSE);
        await endpoint.destroy();
      },
    };
  },

  async dial({ host, port }): Promise<Client> {
    const quic = await loadNodeQuic();
    const remote = { address: host, port, family: "ipv4" } as const;
    const config: ConnectConfig = {
      endpoint: new quic.QuicEndpoint({ address: { address: "0.0.0.0", port: 0, family: "ipv4" } }),
      alpn: ALPN,
      keepAlive: settings.keepAlive,
      ...common(0),
    };
    const session = await quic.connect(remote, config);
    session.onerror = () => {};
    await session.opened;
    return {
      async fetch(piece, onFirstByte) {
        const stream = await session.createBidirectionalStream();
        stream.writer.writeSync(encodeRequest(piece));
        stream.writer.endSync();
        let length = 0;
        for await (const chunks of stream) {
          if (length === 0) onFirstByte?.();
          for (const chunk of chunks) length += chunk.length;
        }
        return length;
      },
      async close() {
        session.destroy(undefined, CLOSE);
        await config.endpoint.destroy();
      },
    };
  },
};

const ALPN = "bare";
const CLOSE = { code: 0, type: "application", reason: "" } as const;
const settings = nodeQuicSettings();

/** Returns the settings of the adapter for both sides. */
function common(maxStreams: number) {
  return {
    transportParams: {
      initialMaxStreamDataBidiLocal: settings.streamWindow,
      initialMaxStreamDataBidiRemote: settings.streamWindow,
      initialMaxData: settings.connectionWindow,
      initialMaxStreamsBidi: maxStreams,
      initialMaxStreamsUni: 0,
      maxIdleTimeout: settings.idleTimeout,
      maxDatagramFrameSize: 0,
    },
    handshakeTimeout: settings.handshakeTimeout,
    enableEarlyData: false,
    verifyPeer: "manual",
  } as const;
}

async function answer(stream: NativeStream, content: Content): Promise<void> {
  let request = new Uint8Array(0);
  for await (const chunks of stream) {
    for (const chunk of chunks) {
      const longer = new Uint8Array(request.length + chunk.length);
      longer.set(request);
      longer.set(chunk, request.length);
      request = longer;
    }
  }
  const { writer } = stream;
  let rest = answerTo(request, content);
  while (rest.length > 0) {
    const room = writer.desiredSize;
    if (room === null) return;
    const part = rest.subarray(0, room);
    if (part.length > 0 && writer.writeSync(part)) rest = rest.subarray(part.length);
    else await writer[drainable]?.();
  }
  while (writer.endSync() < 0 && writer.desiredSize !== null) await writer[drainable]?.();
}
