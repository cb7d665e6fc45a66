/**
 * Compliance tests for the contract in `src/transport/tls.ts`: accepted and refused certificates on
 * both sides, the messages of refusals, and replacing a certificate in use. A binding supplies a
 * fixture. Tests that it cannot pass are listed in its `gaps`, by name.
 *
 * With TLS 1.3 a client's handshake completes before the server has checked its certificate
 * (RFC 8446, section 4.4.2.4). A refusal may therefore show when dialling or at the first exchange.
 */
import assert from "node:assert/strict";
import { describe } from "node:test";
import { fingerprintOf } from "../../adapters/shared/tls.ts";
import { VortexError } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import type { TlsClientOptions, TlsIdentity, TlsServerOptions } from "../../src/transport/tls.ts";
import type { Connection, Listener, Transport } from "../../src/transport/transport.ts";
import { type Authority, authority, selfSignedCertificate } from "../support/certificates.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { itUnlessGap } from "../support/fixture.ts";

/** Binding under test. */
export interface TlsFixture {
  /** Listens on a free port of 127.0.0.1 and answers all accepted clients. */
  listen(tls: TlsServerOptions): Promise<TlsServer>;
  /** Dials. Every host name resolves to an address without a listener, then 127.0.0.1. */
  dial(remote: Address, tls: TlsClientOptions): Promise<TlsSession>;
  /** Reasons why this binding cannot pass certain tests, by test name. Printed as skips. */
  readonly gaps?: Readonly<Record<string, string>>;
}

/** A listening server. */
export interface TlsServer extends Pick<Listener, "address" | "fingerprint" | "setIdentity"> {
  close(): Promise<void>;
}

/** A connection to a server. */
export interface TlsSession {
  /** Sends a request and checks the answer. */
  exchange(): Promise<void>;
  close(): Promise<void>;
}

/** Creates the fixture of a {@link Transport}. */
export function tlsOver(
  transport: (options: {
    readonly tls?: TlsClientOptions;
    readonly serverTls?: TlsServerOptions;
  }) => Promise<Transport>,
  gaps: Readonly<Record<string, string>> = {},
): TlsFixture {
  return {
    gaps,
    async listen(serverTls) {
      const listener = await (await transport({ serverTls })).listen({
        host: "127.0.0.1",
        port: 0,
      });
      const answering = answerAll(listener);
      return {
        address: listener.address,
        get fingerprint() {
          return listener.fingerprint;
        },
        setIdentity: (identity) => listener.setIdentity(identity),
        async close() {
          await listener.close({ grace: 0 });
          await answering;
        },
      };
    },
    async dial(remote, tls) {
      const signal = AbortSignal.timeout(DIAL_TIMEOUT_MS);
      const connection = await (await transport({ tls })).dial(remote, { signal });
      return {
        exchange: () => exchangeOn(connection, signal),
        close: () => connection.close({ grace: 0 }),
      };
    },
  };
}

/** Timeout of a dial in ms. */
const DIAL_TIMEOUT_MS = 30_000;

/** Registers the tests for one binding. */
export function tlsCompliance(name: string, fixture: TlsFixture): void {
  const it = (test: string, run: () => Promise<void>): void => itUnlessGap(fixture, test, run);

  /** Asserts that each of `clients` can connect to `server`. */
  const accepts = (server: TlsServerOptions, ...clients: TlsClientOptions[]): Promise<void> =>
    withServer(fixture, server, async (listener) => {
      for (const client of clients) await connectOnce(fixture, listener, client);
    });

  /**
   * Asserts that `client` fails with a message that matches `words`. A `welcome` client connects
   * before and after it.
   */
  const refuses = (
    server: TlsServerOptions,
    client: TlsClientOptions,
    words: RegExp,
    welcome?: TlsClientOptions,
  ): Promise<void> =>
    withServer(fixture, server, async (listener) => {
      if (welcome !== undefined) await connectOnce(fixture, listener, welcome);
      const error = await rejectionOf(connectOnce(fixture, listener, client));
      assert.equal(error.code, "HandshakeFailed", error.message);
      assert.match(error.message, words);
      if (welcome !== undefined) await connectOnce(fixture, listener, welcome);
    });

  describe(`${name}: certificates a client accepts`, () => {
    it("accepts a certificate of the configured authority for the dialled address", async () => {
      const { ca, server } = await sharedCertificates();
      await accepts(server, { ca: ca.cert });
    });

    it("accepts a certificate of the configured authority for the configured server name", async () => {
      const { ca } = await sharedCertificates();
      const named = await ca.issue({ names: ["peer.example"] });
      await accepts(named, { ca: ca.cert, serverName: "peer.example" });
    });

    it("accepts a certificate for the dialled name at any address", async () => {
      const { ca } = await sharedCertificates();
      await withServer(fixture, await ca.issue({ names: ["peer.example"] }), async (listener) => {
        const remote = { host: "peer.example", port: listener.address.port };
        await connectOnce(fixture, { address: remote }, { ca: ca.cert });
      });
    });

    it("accepts a certificate of one of several configured authorities", async () => {
      const { ca, otherCa, server } = await sharedCertificates();
      await accepts(server, { ca: otherCa.cert + ca.cert });
    });

    it("accepts a chain of authorities to a configured root", async () => {
      const { ca } = await sharedCertificates();
      await accepts(await (await ca.intermediate("intermediate")).issue(), { ca: ca.cert });
    });

    it("accepts a self-signed certificate configured as an authority", async () => {
      const own = await selfSignedCertificate();
      await accepts(own, { ca: own.cert });
    });

    it("accepts a pinned certificate in any spelling, also as one of several", () =>
      withServer(fixture, {}, async (listener) => {
        const pin = listener.fingerprint ?? "";
        const bare = pin.replaceAll(":", "").toLowerCase();
        for (const fingerprints of [[pin], [bare], ["00".repeat(32), pin]]) {
          await connectOnce(fixture, listener, { fingerprints });
        }
      }));

    it("accepts a pinned certificate with another name and past dates", async () => {
      const { ca } = await sharedCertificates();
      await withServer(
        fixture,
        await ca.issue({ names: ["other.example"], from: -30, to: -2 }),
        async (listener) => {
          await connectOnce(fixture, listener, { fingerprints: [listener.fingerprint ?? ""] });
        },
      );
    });

    it("accepts any certificate with verify: false", async () => {
      const { ca } = await sharedCertificates();
      await accepts({}, { verify: false });
      await accepts(await ca.issue({ names: ["other.example"], from: -30, to: -2 }), {
        verify: false,
      });
    });
  });

  describe(`${name}: certificates a client refuses, with distinct messages`, () => {
    it("refuses a certificate of an unknown authority by default", async () => {
      const { ca, server } = await sharedCertificates();
      await refuses(server, {}, /authority/, { ca: ca.cert });
    });

    it("refuses a certificate of another authority", async () => {
      const { ca, otherCa, server } = await sharedCertificates();
      await refuses(server, { ca: otherCa.cert }, /authority/, { ca: ca.cert });
    });

    it("refuses a certificate for another address", async () => {
      const { ca } = await sharedCertificates();
      const server = await ca.issue({ names: ["127.0.0.2", "localhost"] });
      await refuses(
        server,
        { ca: ca.cert },
        /is for .*127\.0\.0\.2.*, not for 127\.0\.0\.1/,
        pinOf(server),
      );
    });

    it("refuses a certificate for an address of the dialled name", async () => {
      const { ca, server } = await sharedCertificates();
      await withServer(fixture, server, async (listener) => {
        const remote = { host: "peer.example", port: listener.address.port };
        const error = await rejectionOf(connectOnce(fixture, { address: remote }, { ca: ca.cert }));
        assert.equal(error.code, "HandshakeFailed", error.message);
        assert.match(error.message, /is for .*localhost.*, not for peer\.example/);
        await connectOnce(fixture, listener, { ca: ca.cert });
      });
    });

    it("refuses a certificate for another name", async () => {
      const { ca, server } = await sharedCertificates();
      const client = { ca: ca.cert, serverName: "peer.example" };
      await refuses(server, client, /is for .*localhost.*, not for peer\.example/, { ca: ca.cert });
    });

    it("refuses a certificate for two thousand other names with a short message", async () => {
      const { ca } = await sharedCertificates();
      const names = Array.from({ length: 2000 }, (_, index) => `peer-${index}.of-many.example`);
      await withServer(fixture, await ca.issue({ names }), async (listener) => {
        const error = await rejectionOf(connectOnce(fixture, listener, { ca: ca.cert }));
        assert.equal(error.code, "HandshakeFailed", error.message);
        assert.ok(error.message.length < 2048, `${error.message.length} characters`);
      });
    });

    it("refuses an expired certificate", async () => {
      const { ca } = await sharedCertificates();
      await refuses(
        await ca.issue({ from: -30, to: -2 }),
        { ca: ca.cert },
        /has expired|expired on \d{4}-\d{2}-\d{2}/,
      );
    });

    it("refuses a certificate that is not valid yet", async () => {
      const { ca } = await sharedCertificates();
      await refuses(
        await ca.issue({ from: 2, to: 30 }),
        { ca: ca.cert },
        /not valid yet|valid only from \d{4}-\d{2}-\d{2}/,
      );
    });

    it("refuses a certificate that is not pinned, and reports its fingerprint", async () => {
      const { ca, server } = await sharedCertificates();
      const [found = ""] = pinOf(server).fingerprints;
      const words = new RegExp(`fingerprint ${found} is not pinned`, "i");
      await refuses(server, { fingerprints: ["00".repeat(32)] }, words, { ca: ca.cert });
    });

    it("refuses a certificate that is not pinned, even of a configured authority", async () => {
      const { ca, server } = await sharedCertificates();
      await refuses(server, { ca: ca.cert, fingerprints: ["00".repeat(32)] }, /not pinned/, {
        ca: ca.cert,
      });
    });
  });

  describe(`${name}: clients a server accepts and refuses`, () => {
    it("accepts a client certificate of the configured authority", async () => {
      const { ca, server, client } = await sharedCertificates();
      await accepts({ ...server, clientCa: ca.cert }, { ca: ca.cert, ...client });
    });

    it("refuses a client without a certificate", async () => {
      const { ca, server, client } = await sharedCertificates();
      const welcome = { ca: ca.cert, ...client };
      await refuses(
        { ...server, clientCa: ca.cert },
        { ca: ca.cert },
        /requires a client certificate/,
        welcome,
      );
    });

    it("refuses a client certificate of another authority", async () => {
      const { ca, otherCa, server, client } = await sharedCertificates();
      const stranger = { ca: ca.cert, ...(await otherCa.issue()) };
      await refuses({ ...server, clientCa: ca.cert }, stranger, notAccepted, {
        ca: ca.cert,
        ...client,
      });
    });

    it("refuses an expired client certificate", async () => {
      const { ca, server, client } = await sharedCertificates();
      const late = { ca: ca.cert, ...(await ca.issue({ from: -30, to: -2 })) };
      await refuses({ ...server, clientCa: ca.cert }, late, notAccepted, {
        ca: ca.cert,
        ...client,
      });
    });

    it("ignores an unrequested client certificate", async () => {
      const { ca, server, client } = await sharedCertificates();
      await accepts(server, { ca: ca.cert, ...client });
    });
  });

  describe(`${name}: replacing a certificate`, () => {
    it("new connections see the new certificate, and existing ones continue", () =>
      withServer(fixture, {}, async (listener) => {
        const before = { fingerprints: [listener.fingerprint ?? ""] };
        const next = await selfSignedCertificate();
        const session = await fixture.dial(listener.address, before);
        try {
          await session.exchange();
          await listener.setIdentity(next);
          assert.equal(listener.fingerprint, fingerprintOf(next.cert));
          await connectOnce(fixture, listener, pinOf(next));
          await assertRejects(connectOnce(fixture, listener, before), "HandshakeFailed");
          await session.exchange();
        } finally {
          await session.close();
        }
      }));

    it("client certificates stay required after a change", async () => {
      const { ca, server, client } = await sharedCertificates();
      await withServer(fixture, { ...server, clientCa: ca.cert }, async (listener) => {
        await listener.setIdentity(await ca.issue());
        await connectOnce(fixture, listener, { ca: ca.cert, ...client });
        await assertRejects(connectOnce(fixture, listener, { ca: ca.cert }), "HandshakeFailed");
      });
    });

    it("an invalid certificate or key is InvalidArgument, and changes nothing", async () => {
      const { ca, server, client } = await sharedCertificates();
      await withServer(fixture, server, async (listener) => {
        const wrong = [
          { cert: "no certificate", key: server.key },
          { cert: server.cert, key: "no key" },
          { cert: server.cert, key: client.key },
        ];
        for (const identity of wrong)
          await assertRejects(listener.setIdentity(identity), "InvalidArgument");
        assert.equal(listener.fingerprint, fingerprintOf(server.cert));
        await connectOnce(fixture, listener, { ca: ca.cert });
      });
    });
  });

  describe(`${name}: invalid options`, () => {
    it("invalid client options reject with InvalidArgument", async () => {
      const { server, client } = await sharedCertificates();
      const wrong: TlsClientOptions[] = [
        { fingerprints: [] },
        { fingerprints: ["12"] },
        { cert: client.cert },
        { key: client.key },
        { cert: client.cert, key: server.key },
        { ca: "no PEM" },
      ];
      for (const tls of wrong) {
        await assertRejects(fixture.dial({ host: "127.0.0.1", port: 9 }, tls), "InvalidArgument");
      }
    });

    it("invalid server options reject with InvalidArgument", async () => {
      const { server, client } = await sharedCertificates();
      const wrong: TlsServerOptions[] = [
        { cert: server.cert },
        { key: server.key },
        { cert: server.cert, key: client.key },
        { cert: "no PEM", key: server.key },
        { ...server, clientCa: "no PEM" },
      ];
      for (const tls of wrong) await assertRejects(fixture.listen(tls), "InvalidArgument");
    });
  });
}

/** Message for a refused client certificate, by a TLS alert or by a close after the handshake. */
const notAccepted = /(?:not accept|reject)(?:ed)? .*certificate/;

/** Authorities and certificates that the tests share. */
interface SharedCertificates {
  readonly ca: Authority;
  readonly otherCa: Authority;
  /** Server certificate issued by `ca`. */
  readonly server: TlsIdentity;
  /** Client certificate issued by `ca`. */
  readonly client: TlsIdentity;
}

let shared: Promise<SharedCertificates> | undefined;

/** Returns the shared certificates, which are created once. */
function sharedCertificates(): Promise<SharedCertificates> {
  shared ??= (async () => {
    const [ca, otherCa] = [await authority("authority"), await authority("another authority")];
    return {
      ca,
      otherCa,
      server: await ca.issue(),
      client: await ca.issue({ names: ["client.example"] }),
    };
  })();
  return shared;
}

async function withServer(
  fixture: TlsFixture,
  tls: TlsServerOptions,
  use: (server: TlsServer) => Promise<void>,
): Promise<void> {
  const server = await fixture.listen(tls);
  try {
    await use(server);
  } finally {
    await server.close();
  }
}

/** Dials, completes one exchange, and closes. */
async function connectOnce(
  fixture: TlsFixture,
  { address }: Pick<TlsServer, "address">,
  tls: TlsClientOptions,
): Promise<void> {
  const session = await fixture.dial(address, tls);
  try {
    await session.exchange();
  } finally {
    await session.close();
  }
}

function pinOf(identity: TlsIdentity): { readonly fingerprints: readonly string[] } {
  return { fingerprints: [fingerprintOf(identity.cert)] };
}

async function answerAll(listener: Listener): Promise<void> {
  for await (const connection of listener.accept()) void answerEach(connection);
}

async function answerEach(connection: Connection): Promise<void> {
  for await (const { reader, writer } of connection.accept()) {
    try {
      for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read())
        await writer.write(chunk);
      await writer.end();
    } catch (error) {
      // The client has disconnected.
      if (!(error instanceof VortexError)) throw error;
    }
  }
}

async function exchangeOn(connection: Connection, signal: AbortSignal): Promise<void> {
  const { reader, writer } = await connection.openStream({ signal });
  await writer.write(Uint8Array.of(1, 2, 3));
  await writer.end();
  const bytes: number[] = [];
  for (let chunk = await reader.read(); chunk !== undefined; chunk = await reader.read())
    bytes.push(...chunk);
  assert.deepEqual(bytes, [1, 2, 3]);
}
