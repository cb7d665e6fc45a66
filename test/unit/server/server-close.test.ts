/** Servers that are closed while a read of their store hangs: `close` takes a bounded time. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { grpcBinding } from "../../../adapters/grpc/client.ts";
import { grpcServer } from "../../../adapters/grpc/server.ts";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { GrpcDownloader } from "../../../src/client/grpc/downloader.ts";
import { VortexDownloader } from "../../../src/client/vortex/downloader.ts";
import { serverSettings } from "../../../src/server/admission/upload.ts";
import { VortexServer } from "../../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import type { PieceStore } from "../../../src/store/store.ts";
import { MemoryTransport } from "../../../src/transport/memory.ts";
import { rejectionOf } from "../../support/failures.ts";
import { type FakeClock, fakeRuntime } from "../../support/fake-clock.ts";

const taskId = "ab".repeat(32);
const local = { host: "127.0.0.1", port: 0 };
const never = new Promise<never>(() => {});

/** Stores that hang, by the operation that does. `begun` resolves when a request has reached it. */
const stuck: Readonly<Record<string, (begun: () => void) => PieceStore>> = {
  "a lookup of a piece": (begun) => ({
    getTask: () => never,
    getPiece: () => {
      begun();
      return never;
    },
  }),
  "a read, after some content": (begun) => {
    const stored = new MemoryPieceStore();
    stored.putTask(taskId, new Uint8Array(1000), { pieceLength: 1000 });
    return {
      getTask: (id) => stored.getTask(id),
      async getPiece(request) {
        const piece = await stored.getPiece(request);
        return (
          piece && {
            metadata: piece.metadata,
            async *read() {
              yield new Uint8Array(10);
              begun();
              await never;
            },
          }
        );
      },
    };
  },
};

/** Starts a server, and a client of it. */
interface Pair {
  readonly addr: string;
  readonly close: (options: { readonly grace?: number }) => Promise<void>;
  readonly downloader: VortexDownloader | GrpcDownloader;
}

const protocols: Readonly<Record<string, (store: PieceStore, clock: FakeClock) => Promise<Pair>>> =
  {
    Vortex: async (store, clock) => {
      const runtime = fakeRuntime(clock);
      const transport = new MemoryTransport();
      const server = await VortexServer.listen(transport, local, store, runtime);
      const downloader = new VortexDownloader(
        async () => transport,
        downloaderSettings({}, fakeRuntime()),
      );
      return {
        addr: `127.0.0.1:${server.address.port}`,
        close: (options) => server.close(options),
        downloader,
      };
    },
    gRPC: async (store, clock) => {
      const server = await grpcServer(local, store, serverSettings({}, fakeRuntime(clock)));
      const downloader = new GrpcDownloader(
        async () => grpcBinding(),
        downloaderSettings({}, fakeRuntime()),
      );
      return {
        addr: `127.0.0.1:${server.address.port}`,
        close: (options) => server.close(options),
        downloader,
      };
    },
  };

for (const [protocol, start] of Object.entries(protocols)) {
  describe(`closing a server: ${protocol}`, () => {
    for (const [what, store] of Object.entries(stuck)) {
      it(`${what} never settles: close takes at most a second more than its grace`, {
        timeout: 60_000,
      }, async () => {
        for (const [options, grace] of [
          [{}, 5000],
          [{ grace: 200 }, 200],
          [{ grace: 0 }, 0],
        ] as const) {
          const { clock } = fakeRuntime();
          let begin: () => void = () => {};
          const begun = new Promise<void>((resolve) => {
            begin = resolve;
          });
          const { addr, close, downloader } = await start(store(begin), clock);
          const request = { addr, hostId: "host", taskId, number: 0 };
          const failure = rejectionOf(
            downloader.downloadPiece(request).then((piece) => piece.bytes()),
          );
          await begun;
          const closing = close(options);
          const took = await clock.advanceUntil(closing, grace + 1000, 100);
          await closing;
          assert.ok(took >= grace, `answers under way have ${grace} ms; closed after ${took}`);
          assert.match(
            (await failure).code,
            /^(ConnectionLost|StreamReset|TruncatedContent|Remote.*)$/,
          );
          await downloader.close();
        }
      });
    }
  });
}
