import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createRouterTransport } from "@connectrpc/connect";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { type AnnouncedPiece, GrpcDownloader } from "../../../src/client/grpc/downloader.ts";
import { DfdaemonUpload } from "../../../src/gen/dfdaemon/v2/dfdaemon_pb.ts";
import { portableRuntime } from "../../../src/runtime.ts";
import type { GrpcConnection } from "../../../src/transport/grpc.ts";
import { peerMarker } from "../../../src/transport/peer-marker.ts";

describe("the marker of this library's gRPC servers", () => {
  it("is reported with each announced piece, if its value is known", async () => {
    for (const [value, expected] of [
      [undefined, undefined],
      [peerMarker.value, true],
      ["2", undefined],
      ["", undefined],
    ] as const) {
      const connection: GrpcConnection = {
        open: true,
        closed: new Promise(() => {}),
        close: async () => {},
        transport: () =>
          createRouterTransport(({ service }) => {
            service(DfdaemonUpload, {
              async *syncPieces(_request, context) {
                if (value !== undefined) context.responseHeader.set(peerMarker.name, value);
                yield { number: 0, offset: 0n, length: 4n, ip: "10.0.0.7", quicPort: 4006 };
                yield { number: 1, offset: 4n, length: 4n, ip: "10.0.0.7", quicPort: 4006 };
              },
            });
          }),
      };
      await using downloader = new GrpcDownloader(
        async () => ({ dial: async () => connection }),
        downloaderSettings({}, portableRuntime),
      );
      const request = { taskId: "a1".repeat(32), hostId: "me", interestedPieceNumbers: [0, 1] };
      const pieces: AnnouncedPiece[] = [];
      for await (const piece of downloader.syncPieces("10.0.0.7:4000", request)) pieces.push(piece);
      assert.deepEqual(
        pieces.map(({ vortexPeer, quicAddr }) => ({ vortexPeer, quicAddr })),
        pieces.map(() => ({ vortexPeer: expected, quicAddr: "10.0.0.7:4006" })),
      );
      assert.equal(pieces.length, 2);
    }
  });
});
