import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type QuicBinding, withFallback } from "../../../adapters/shared/fallback.ts";
import { tcpTransport } from "../../../adapters/tcp/transport.ts";
import { runtimeApi } from "../../../entry/runtime-api.ts";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { QuicDownloader } from "../../../src/client/vortex/downloader.ts";
import { VortexError } from "../../../src/errors.ts";
import { VortexServer } from "../../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../../src/store/memory-store.ts";
import { formatAddress } from "../../../src/transport/address.ts";
import { MemoryTransport } from "../../../src/transport/memory.ts";
import { assertRejects } from "../../support/failures.ts";
import { fakeRuntime } from "../../support/fake-clock.ts";
import { seededBytes } from "../../support/random.ts";

const missing: QuicBinding = () =>
  Promise.reject(new VortexError("Unavailable", "no QUIC here: run with --more"));

describe("QUIC with fallbacks", () => {
  it("uses the first available binding without a warning", async () => {
    const [quic, warnings] = [new MemoryTransport("quic"), [] as string[]];
    const binding = withFallback(
      [["its own", async () => quic]],
      new MemoryTransport("tcp"),
      (line) => warnings.push(line),
    );
    assert.equal(await binding({}), quic);
    assert.deepEqual(warnings, []);
  });

  it("uses the next binding when the first is unavailable, with a warning and a remedy", async () => {
    const [quic, warnings] = [new MemoryTransport("quic"), [] as string[]];
    const bindings = [["its own", missing] as const, ["quiche", async () => quic] as const];
    assert.equal(
      await withFallback(bindings, new MemoryTransport("tcp"), (line) => warnings.push(line))({}),
      quic,
    );
    assert.equal(warnings.length, 1);
    assert.match(warnings[0] ?? "", /run with --more.*quiche/);
  });

  it("uses TCP when all bindings are unavailable, and a QuicDownloader fetches over it", async () => {
    const [tcp, warnings, runtime] = [new MemoryTransport("tcp"), [] as string[], fakeRuntime()];
    const binding = withFallback([["its own", missing]], tcp, (line) => warnings.push(line));
    const transport = await binding({ tls: { verify: false } });
    assert.match(warnings.join(), /run with --more.*using TCP instead of QUIC/);
    const store = new MemoryPieceStore();
    const content = seededBytes(1, 1000);
    store.putTask("ab".repeat(32), content);
    await using server = await VortexServer.listen(tcp, { host: "peer", port: 1 }, store, runtime);
    await using downloader = new QuicDownloader(
      async () => transport,
      downloaderSettings({}, runtime),
    );
    const request = {
      addr: formatAddress(server.address),
      hostId: "h",
      taskId: "ab".repeat(32),
      number: 0,
    };
    assert.deepEqual(await (await downloader.downloadPiece(request)).bytes(), content);
    const refused = await assertRejects(
      downloader.downloadPiece({ ...request, addr: "peer:2" }),
      "ConnectionRefused",
    );
    assert.match(refused.message, /over TCP instead of QUIC.*run with --more/);
  });

  it("never listens over TCP: clients would dial the address over QUIC", async () => {
    const warnings: string[] = [];
    const tcp = new MemoryTransport("tcp");
    const binding = withFallback([["its own", missing]], tcp, (line) => warnings.push(line));
    for (const serverTls of [{}, { clientCa: "PEM" }]) {
      const { message } = await assertRejects(binding({ serverTls }), "Unavailable");
      assert.equal(message, "no QUIC here: run with --more");
    }
    assert.deepEqual(warnings, []);
    const substitute = await binding({ tls: { verify: false } });
    const listening = substitute.listen({ host: "peer", port: 1 });
    assert.match((await assertRejects(listening, "Unavailable")).message, /run with --more/);
  });

  it("startServer rejects with Unavailable and serves without quic", async () => {
    const face = runtimeApi(withFallback([["its own", missing]], tcpTransport), assert.fail);
    const store = new MemoryPieceStore();
    const host = "127.0.0.1";
    const { message } = await assertRejects(
      face.startServer({ store, host, quic: { port: 0 }, tcp: { port: 0 }, grpc: { port: 0 } }),
      "Unavailable",
    );
    assert.match(message, /run with --more/);
    await using server = await face.startServer({ store, host, tcp: { port: 0 } });
    assert.deepEqual(Object.keys(server.addresses), ["tcp"]);
  });

  for (const [what, options] of [
    ["a certificate authority", { tls: { ca: "PEM" } }],
    ["a fingerprint", { tls: { fingerprints: ["ab"] } }],
    ["a client certificate", { tls: { cert: "PEM", key: "PEM" } }],
  ] as const) {
    it(`rejects with Unavailable instead of using TCP when ${what} is required`, async () => {
      const binding = withFallback([["its own", missing]], new MemoryTransport("tcp"), () =>
        assert.fail("warned"),
      );
      assert.match(
        (await assertRejects(binding(options), "Unavailable")).message,
        /run with --more.*no TLS/,
      );
    });
  }

  it("passes other errors of a binding through", async () => {
    const wrong: QuicBinding = () =>
      Promise.reject(new VortexError("InvalidArgument", "idleTimeout"));
    const binding = withFallback([["its own", wrong]], new MemoryTransport("tcp"));
    await assertRejects(binding({}), "InvalidArgument");
  });
});
