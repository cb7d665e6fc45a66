import { denoQuicTransportWith } from "../../adapters/deno-quic/transport.ts";
import { grpcBindingWith } from "../../adapters/grpc/client.ts";
import { grpcServer } from "../../adapters/grpc/server.ts";
import { nodeQuicTransportWith } from "../../adapters/node-quic/transport.ts";
import { quicheTransportWith } from "../../adapters/quiche/transport.ts";
import type { Resolver } from "../../adapters/shared/resolve.ts";
import { downloaderSettings } from "../../src/client/call/settings.ts";
import { GrpcDownloader } from "../../src/client/grpc/downloader.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { serverSettings } from "../../src/server/admission/upload.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { runtimeName } from "../support/fixtures.ts";
import { type TlsFixture, tlsCompliance, tlsOver } from "./tls.ts";

/** For {@link TlsFixture.dial}. */
const resolver: Resolver = async () => ["127.0.0.2", "127.0.0.1"];

const taskId = "ab".repeat(32);

/** gRPC over TLS; an exchange is a call, on the same connection for as long as that lives. */
const grpcFixture: TlsFixture = {
  listen(tls) {
    const store = new MemoryPieceStore();
    store.putTask(taskId, new Uint8Array(10), { pieceLength: 10 });
    const local = { host: "127.0.0.1", port: 0 };
    return grpcServer(local, store, serverSettings({}, portableRuntime), { tls });
  },
  async dial(remote, tls) {
    // Generous: only a dial that hangs may end by it.
    const settings = downloaderSettings({ connectTimeout: 30_000 }, portableRuntime);
    const downloader = new GrpcDownloader(async () => grpcBindingWith(resolver, { tls }), settings);
    const exchange = async (): Promise<void> => {
      await downloader.statTask(formatAddress(remote), taskId);
    };
    try {
      await exchange();
    } catch (error) {
      await downloader.close();
      throw error;
    }
    return { exchange, close: () => downloader.close() };
  },
};

tlsCompliance("gRPC", grpcFixture);

// Deno has a QUIC of its own.
if (runtimeName !== "deno")
  tlsCompliance(
    "quiche",
    tlsOver((options) => quicheTransportWith(resolver, options)),
  );

if (runtimeName === "bun") {
  const fixed = "node:quic cannot change the certificate of a server that asks clients for theirs";
  tlsCompliance(
    "node-quic",
    tlsOver((options) => nodeQuicTransportWith(resolver, options), {
      "clients must show certificates after a change as before it": fixed,
    }),
  );
}

if (runtimeName === "deno") {
  const noClients = "Deno's QUIC cannot ask clients for certificates";
  tlsCompliance(
    "deno-quic",
    tlsOver((options) => denoQuicTransportWith(resolver, options), {
      "a pinned certificate, whatever else it says":
        "Deno looks at the dates of a pinned certificate too",
      "any certificate, with verify: false":
        "Deno needs a flag for that, see test/interop/stock-peer.test.ts",
      "a certificate that is not pinned, and names the one that was found":
        "Deno does not hand out what it refused",
      "a client certificate of the named authority is accepted": noClients,
      "a client without a certificate is refused": noClients,
      "a client with a certificate of another authority is refused": noClients,
      "a client with a certificate that has expired is refused": noClients,
      "clients must show certificates after a change as before it": noClients,
    }),
  );
}
