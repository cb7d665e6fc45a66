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

/** Resolver for {@link TlsFixture.dial}. */
const resolver: Resolver = async () => ["127.0.0.2", "127.0.0.1"];

const taskId = "ab".repeat(32);

/** Fixture of gRPC over TLS. An exchange is a call, on the same connection while it lives. */
const grpcFixture: TlsFixture = {
  listen(tls) {
    const store = new MemoryPieceStore();
    store.putTask(taskId, new Uint8Array(10), { pieceLength: 10 });
    const local = { host: "127.0.0.1", port: 0 };
    return grpcServer(local, store, serverSettings({}, portableRuntime), { tls });
  },
  async dial(remote, tls) {
    // Long, so that only a hanging dial times out.
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

// Deno has a separate QUIC implementation.
if (runtimeName !== "deno")
  tlsCompliance(
    "quiche",
    tlsOver((options) => quicheTransportWith(resolver, options)),
  );

if (runtimeName === "bun") {
  const fixedIdentity =
    "node:quic cannot change the certificate of a server that requires client certificates";
  tlsCompliance(
    "node-quic",
    tlsOver((options) => nodeQuicTransportWith(resolver, options), {
      "client certificates stay required after a change": fixedIdentity,
    }),
  );
}

if (runtimeName === "deno") {
  const noClientCertificates = "Deno's QUIC cannot request client certificates";
  tlsCompliance(
    "deno-quic",
    tlsOver((options) => denoQuicTransportWith(resolver, options), {
      "accepts a pinned certificate with another name and past dates":
        "Deno checks the dates of a pinned certificate too",
      "accepts any certificate with verify: false":
        "Deno requires a flag for it, see test/interop/stock-peer.test.ts",
      "refuses a certificate that is not pinned, and reports its fingerprint":
        "Deno does not expose a certificate that it refused",
      "accepts a client certificate of the configured authority": noClientCertificates,
      "refuses a client without a certificate": noClientCertificates,
      "refuses a client certificate of another authority": noClientCertificates,
      "refuses an expired client certificate": noClientCertificates,
      "client certificates stay required after a change": noClientCertificates,
    }),
  );
}
