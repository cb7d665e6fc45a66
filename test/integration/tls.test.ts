/**
 * TLS through the runtime's entry point: creating, storing and rotating the server's certificate.
 */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { describe, it } from "node:test";
import { fileIdentityStore } from "../../adapters/files/identity-store.ts";
import { fingerprintOf, serverIdentity } from "../../adapters/shared/tls.ts";
import type { RuntimeApi } from "../../entry/runtime-api.ts";
import type { PieceDownloader } from "../../src/client/downloader.ts";
import type { StorageServer, StorageServerOptions } from "../../src/server/storage-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import type { IdentityStore, TlsClientOptions, TlsIdentity } from "../../src/transport/tls.ts";
import { authority, selfSignedCertificate } from "../support/certificates.ts";
import { assertRejects } from "../support/failures.ts";
import { runtimeName } from "../support/fixtures.ts";

const entries = {
  node: (): Promise<RuntimeApi> => import("../../entry/node.ts"),
  bun: (): Promise<RuntimeApi> => import("../../entry/bun.ts"),
  deno: (): Promise<RuntimeApi> => import("../../entry/deno.ts"),
};
const entry = await entries[runtimeName]();
/**
 * Protocols tested. Deno's QUIC has fewer ways to authenticate, see `test/compliance/tls.test.ts`.
 */
const tlsProtocols: readonly TlsProtocol[] = runtimeName === "deno" ? ["grpc"] : ["quic", "grpc"];
type TlsProtocol = "quic" | "grpc";

const testOptions = { timeout: 60_000 };
const taskId = "ab".repeat(32);
const store = new MemoryPieceStore();
store.putTask(taskId, Uint8Array.of(1, 2, 3), { pieceLength: 3 });

describe("a server over TLS", () => {
  it("presents one certificate over every protocol, and exposes its fingerprint", testOptions, () =>
    withServer({}, async (server) => {
      const { fingerprint = "" } = server;
      assert.match(fingerprint, /^([0-9A-F]{2}:){31}[0-9A-F]{2}$/);
      for (const protocol of tlsProtocols)
        await fetchOver(protocol, server, { fingerprints: [fingerprint] });
      const addr = addressOf("grpc", server);
      const stat = await entry.statTask(addr, taskId, { tls: { fingerprints: [fingerprint] } });
      assert.deepEqual(stat, { contentLength: 3, pieceLength: 3 });
      await assertRejects(
        entry.statTask(addr, taskId, { tls: { fingerprints: ["00".repeat(32)] } }),
        "HandshakeFailed",
      );
    }),
  );

  it(
    "presents a given certificate, and requests client certificates, over every protocol",
    testOptions,
    async () => {
      const ca = await authority("authority");
      const client = { ca: ca.cert, ...(await ca.issue()) };
      await withServer({ tls: { ...(await ca.issue()), clientCa: ca.cert } }, async (server) => {
        for (const protocol of tlsProtocols) {
          await fetchOver(protocol, server, client);
          await assertRejects(fetchOver(protocol, server, { ca: ca.cert }), "HandshakeFailed");
        }
        await entry.statTask(addressOf("grpc", server), taskId, { tls: client });
      });
    },
  );

  it("serves gRPC in cleartext by default", testOptions, async () => {
    const grpc = { port: 0 };
    await withServer({ grpc }, async (server) => {
      await entry.statTask(addressOf("grpc", server), taskId);
      assert.equal(server.fingerprint === undefined, !tlsProtocols.includes("quic"));
    });
  });

  it(
    "rotates its certificate for new connections over every protocol, and keeps existing ones",
    testOptions,
    () =>
      withServer({}, async (server) => {
        const first = server.fingerprint ?? "";
        const downloaders = tlsProtocols.map(
          (protocol) =>
            [
              protocol,
              entry.createDownloader({ protocol, tls: { fingerprints: [first] } }),
            ] as const,
        );
        for (const [protocol, downloader] of downloaders)
          await fetchBy(downloader, addressOf(protocol, server));
        const second = await server.rotateCertificate();
        assert.notEqual(second, first);
        assert.equal(server.fingerprint, second);
        for (const [protocol, downloader] of downloaders) {
          await fetchBy(downloader, addressOf(protocol, server));
          await downloader.close();
          await assertRejects(
            fetchOver(protocol, server, { fingerprints: [first] }),
            "HandshakeFailed",
          );
          await fetchOver(protocol, server, { fingerprints: [second] });
        }
        const given = await selfSignedCertificate();
        assert.equal(await server.rotateCertificate(given), fingerprintOf(given.cert));
        for (const protocol of tlsProtocols) await fetchOver(protocol, server, { ca: given.cert });
      }),
  );

  it("serializes concurrent rotations", testOptions, () =>
    withServer({}, async (server) => {
      const prints = await Promise.all([1, 2, 3].map(() => server.rotateCertificate()));
      assert.equal(new Set(prints).size, 3);
      assert.equal(server.fingerprint, prints[2]);
      for (const protocol of tlsProtocols)
        await fetchOver(protocol, server, { fingerprints: [prints[2] ?? ""] });
    }),
  );

  it(
    "keeps the certificate when the new one is invalid or cannot be stored",
    testOptions,
    async () => {
      const kept = new MemoryIdentityStore();
      await withServer({ tls: { identityStore: kept } }, async (server) => {
        const { fingerprint = "" } = server;
        const { cert } = await selfSignedCertificate();
        const { key } = await selfSignedCertificate();
        await assertRejects(server.rotateCertificate({ cert, key }), "InvalidArgument");
        kept.failure = new Error("the disk is gone");
        await assert.rejects(server.rotateCertificate(), kept.failure);
        assert.equal(server.fingerprint, fingerprint);
        for (const protocol of tlsProtocols)
          await fetchOver(protocol, server, { fingerprints: [fingerprint] });
      });
    },
  );

  it("does not replace a given certificate by a generated one", testOptions, async () => {
    const given = await selfSignedCertificate();
    await withServer({ tls: given }, async (server) => {
      await assertRejects(server.rotateCertificate(), "InvalidArgument");
      assert.equal(server.fingerprint, fingerprintOf(given.cert));
      const next = await selfSignedCertificate();
      assert.equal(await server.rotateCertificate(next), fingerprintOf(next.cert));
    });
  });

  it("refuses to rotate when it serves nothing over TLS", testOptions, async () => {
    const server = await entry.startServer({
      store,
      host: "127.0.0.1",
      tcp: { port: 0 },
      grpc: { port: 0 },
    });
    try {
      await assertRejects(server.rotateCertificate(), "Unavailable");
    } finally {
      await server.close();
    }
  });
});

describe("a stored certificate", () => {
  it("is the same after a restart, and a rotation is permanent", testOptions, () =>
    inTempDir(async (dir) => {
      const identityStore = fileIdentityStore(join(dir, "state", "identity.pem"));
      const prints: (string | undefined)[] = [];
      for (let run = 0; run < 3; run++) {
        await withServer({ tls: { identityStore } }, async (server) => {
          prints.push(server.fingerprint);
          if (run === 1) prints.push(await server.rotateCertificate());
        });
      }
      const [first, second, third, fourth] = prints;
      assert.equal(first, second);
      assert.notEqual(second, third);
      assert.equal(third, fourth);
    }),
  );

  it(
    "is shared by servers that start at once, and the losers' files are removed",
    testOptions,
    () =>
      inTempDir(async (dir) => {
        const path = join(dir, "state", "identity.pem");
        const starting = Array.from({ length: 8 }, () =>
          serverIdentity({ identityStore: fileIdentityStore(path) }),
        );
        const shown = await Promise.all(starting);
        for (const identity of shown)
          assert.deepEqual(identity, await fileIdentityStore(path).load());
        assert.deepEqual(await readdir(join(dir, "state")), ["identity.pem"]);
      }),
  );

  it("is readable by its owner only, and replaced atomically", testOptions, () =>
    inTempDir(async (dir) => {
      const path = join(dir, "identity.pem");
      const identityStore = fileIdentityStore(path);
      assert.equal(await identityStore.load(), undefined);
      const all = await Promise.all([1, 2, 3, 4].map(() => selfSignedCertificate()));
      const seen: (TlsIdentity | undefined)[] = [];
      await Promise.all([
        ...all.map((identity) => identityStore.save(identity)),
        ...all.map(async () => seen.push(await identityStore.load())),
      ]);
      seen.push(await identityStore.load());
      for (const identity of seen) {
        if (identity !== undefined)
          assert.ok(all.some(({ cert, key }) => same({ cert, key }, identity)));
      }
      assert.deepEqual(await readdir(dir), ["identity.pem"]);
      if (process.platform !== "win32") assert.equal((await stat(path)).mode & 0o777, 0o600);
    }),
  );

  it("keeps a certificate chain in order", testOptions, () =>
    inTempDir(async (dir) => {
      const identityStore = fileIdentityStore(join(dir, "identity.pem"));
      const identity = await (await (await authority("root")).intermediate("intermediate")).issue();
      await identityStore.save(identity);
      assert.deepEqual(await identityStore.load(), identity);
    }),
  );

  it(
    "is regenerated once it has expired or expires within a day, and not before",
    testOptions,
    async () => {
      for (const [to, kept] of [
        [-1, false],
        [0.9, false],
        [1.1, true],
      ] as const) {
        const identityStore = new MemoryIdentityStore();
        identityStore.identity = await selfSignedCertificate({ from: -30, to });
        const before = identityStore.identity;
        const found = await serverIdentity({ identityStore });
        assert.equal(same(found, before), kept, String(to));
        assert.ok(same(identityStore.identity, found));
      }
    },
  );

  it("causes StorageFailed, and keeps the file, when the file holds other data", testOptions, () =>
    inTempDir(async (dir) => {
      const path = join(dir, "identity.pem");
      const { cert } = await selfSignedCertificate();
      const { key } = await selfSignedCertificate();
      for (const text of ["", "no PEM", cert, key, `${key}${cert}`]) {
        await writeFile(path, text);
        const starting = entry.startServer({
          store,
          host: "127.0.0.1",
          grpc: { port: 0, tls: true },
          tls: { identityStore: fileIdentityStore(path) },
        });
        const error = await assertRejects(starting, "StorageFailed");
        assert.ok(error.message.includes(path), error.message);
        assert.equal(await readFile(path, "utf8"), text);
      }
    }),
  );

  it("causes StorageFailed when it can be neither read nor written", testOptions, () =>
    inTempDir(async (dir) => {
      const folder = join(dir, "folder");
      await mkdir(folder);
      await assertRejects(fileIdentityStore(folder).load(), "StorageFailed");
      await writeFile(join(dir, "file"), "");
      const below = fileIdentityStore(join(dir, "file", "identity.pem"));
      await assertRejects(below.save(await selfSignedCertificate()), "StorageFailed");
      const error = await assertRejects(
        fileIdentityStore(folder).save(await selfSignedCertificate()),
        "StorageFailed",
      );
      assert.ok(error.message.includes(folder), error.message);
      assert.deepEqual((await readdir(dir)).sort(), ["file", "folder"]);
    }),
  );

  it("cannot be combined with a given certificate", testOptions, async () => {
    const given = await selfSignedCertificate();
    const tls = { ...given, identityStore: new MemoryIdentityStore() };
    await assertRejects(serverIdentity(tls), "InvalidArgument");
  });
});

/** Stores an identity in memory, or fails with `failure`. */
class MemoryIdentityStore implements IdentityStore {
  identity: TlsIdentity | undefined;
  failure: Error | undefined;

  async load(): Promise<TlsIdentity | undefined> {
    return this.identity;
  }

  async save(identity: TlsIdentity): Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    this.identity = identity;
  }
}

async function withServer(
  options: Partial<StorageServerOptions>,
  use: (server: StorageServer) => Promise<void>,
): Promise<void> {
  const quic = tlsProtocols.includes("quic") ? { quic: { port: 0 } } : {};
  const server = await entry.startServer({
    store,
    host: "127.0.0.1",
    ...quic,
    grpc: { port: 0, tls: true },
    ...options,
  });
  try {
    await use(server);
  } finally {
    await server.close({ grace: 0 });
  }
}

function addressOf(protocol: TlsProtocol, { addresses }: StorageServer): string {
  const address = addresses[protocol];
  assert.ok(address !== undefined);
  return formatAddress(address);
}

/** Fetches the piece over a new connection. */
async function fetchOver(
  protocol: TlsProtocol,
  server: StorageServer,
  tls: TlsClientOptions,
): Promise<void> {
  // Long enough that only a hanging dial reaches it.
  const downloader = entry.createDownloader({ protocol, tls, connectTimeout: 30_000 });
  try {
    await fetchBy(downloader, addressOf(protocol, server));
  } finally {
    await downloader.close();
  }
}

async function fetchBy(downloader: PieceDownloader, addr: string): Promise<void> {
  const piece = await downloader.downloadPiece({ addr, hostId: "host", taskId, number: 0 });
  assert.deepEqual([...(await piece.bytes())], [1, 2, 3]);
}

function same(one: TlsIdentity, other: TlsIdentity | undefined): boolean {
  return other !== undefined && one.cert === other.cert && one.key === other.key;
}

async function inTempDir(use: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), "vortex-peer-tls-"));
  try {
    await use(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}
