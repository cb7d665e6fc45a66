/**
 * gRPC by Connect alone, without this library: with its defaults, and tuned by its options and
 * those of node:http2.
 */
import {
  type ClientHttp2Session,
  connect,
  createServer,
  type Http2Session,
  type ServerOptions,
} from "node:http2";
import { createClient } from "@connectrpc/connect";
import {
  connectNodeAdapter,
  createGrpcTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import { DfdaemonUpload } from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import type { Client, Content, Serving, Subject } from "../subject.ts";

/** Connect's transport and server with their defaults: gzip, and HTTP/2's default windows. */
export const grpcShipped: Subject = {
  serve: (content, host) => serve(content, host, {}),
  async dial({ host, port }): Promise<Client> {
    const baseUrl = `http://${host}:${port}`;
    const sessionManager = new Http2SessionManager(baseUrl);
    const client = createClient(DfdaemonUpload, createGrpcTransport({ baseUrl, sessionManager }));
    return clientOf(client, async () => sessionManager.abort());
  },
};

/** No compression, and windows of 16 MiB on streams and connections. */
export const grpcTuned: Subject = {
  serve: (content, host) => serve(content, host, TUNED, widen),
  async dial({ host, port }): Promise<Client> {
    const baseUrl = `http://${host}:${port}`;
    const session = await sessionTo(baseUrl);
    const client = createClient(
      DfdaemonUpload,
      createGrpcTransport({
        baseUrl,
        acceptCompression: [],
        sessionManager: {
          authority: baseUrl,
          request: async (method, path, headers, options) =>
            session.request({ ...headers, ":method": method, ":path": path }, options),
          notifyResponseByteRead: () => {},
        },
      }),
    );
    return clientOf(client, async () => session.close());
  },
};

const WINDOW = 16 * 1024 * 1024;
/**
 * Node and Bun close a session that has queued more than its memory limit, 10 MB by default. A few
 * large answers exceed it.
 */
const TUNED: ServerOptions = { settings: { initialWindowSize: WINDOW }, maxSessionMemory: 1024 };

function sessionTo(baseUrl: string): Promise<ClientHttp2Session> {
  return new Promise((resolve, reject) => {
    const session = connect(baseUrl, {
      settings: { enablePush: false, initialWindowSize: WINDOW },
    });
    session.once("error", reject);
    session.once("connect", () => {
      widen(session);
      resolve(session);
    });
  });
}

function widen(session: Http2Session): void {
  // Bun applies that window to new streams too without announcing it, and the other side then waits
  // forever.
  if (!("Bun" in globalThis)) session.setLocalWindowSize(WINDOW);
}

async function serve(
  { bytes }: Content,
  host: string,
  options: ServerOptions,
  onSession: (session: Http2Session) => void = () => {},
): Promise<Serving> {
  const server = createServer(
    options,
    connectNodeAdapter({
      routes: (router) =>
        router.service(DfdaemonUpload, {
          // The task id is the length of its pieces.
          downloadPiece({ taskId, pieceNumber: number }) {
            const length = Number(taskId);
            const offset = number * length;
            const content = bytes.subarray(offset, offset + length);
            return { piece: { number, offset: BigInt(offset), length: BigInt(length), content } };
          },
        }),
    }),
  );
  server.on("session", onSession);
  const port = await new Promise<number>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port: 0 }, () => {
      const address = server.address();
      resolve(typeof address === "object" && address !== null ? address.port : 0);
    });
  });
  return {
    peer: { host, port },
    // Clients end their sessions.
    close: async () => {
      server.close();
    },
  };
}

function clientOf(
  client: ReturnType<typeof createClient<typeof DfdaemonUpload>>,
  close: () => Promise<void>,
): Client {
  return {
    async fetch({ pieceLength, number }, onFirstByte) {
      const { piece } = await client.downloadPiece({
        hostId: "bench",
        taskId: `${pieceLength}`,
        pieceNumber: number,
      });
      onFirstByte?.();
      return piece?.content?.length ?? 0;
    },
    close,
  };
}
