/** gRPC as a program has it that takes Connect's transport and server with their defaults: gzip, and HTTP/2's own windows. */
import { createServer } from "node:http2";
import { createClient } from "@connectrpc/connect";
import { connectNodeAdapter, createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { DfdaemonUpload } from "../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import type { Client, Serving, Subject } from "../subject.ts";

export const grpcShipped: Subject = {
  async serve({ bytes }, host): Promise<Serving> {
    const server = createServer(
      connectNodeAdapter({
        routes: (router) =>
          router.service(DfdaemonUpload, {
            // The task's id is the length of its pieces.
            downloadPiece({ taskId, pieceNumber: number }) {
              const length = Number(taskId);
              const offset = number * length;
              const content = bytes.subarray(offset, offset + length);
              return { piece: { number, offset: BigInt(offset), length: BigInt(length), content } };
            },
          }),
      }),
    );
    const port = await new Promise<number>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host, port: 0 }, () => {
        const address = server.address();
        resolve(typeof address === "object" && address !== null ? address.port : 0);
      });
    });
    return {
      peer: { host, port },
      // Sessions are ended by their clients.
      close: async () => {
        server.close();
      },
    };
  },

  async dial({ host, port }): Promise<Client> {
    const baseUrl = `http://${host}:${port}`;
    const sessionManager = new Http2SessionManager(baseUrl);
    const client = createClient(DfdaemonUpload, createGrpcTransport({ baseUrl, sessionManager }));
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
      close: async () => sessionManager.abort(),
    };
  },
};
