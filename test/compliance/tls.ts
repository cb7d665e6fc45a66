/**
 * What `src/transport/tls.ts` promises, as tests: whom a client accepts, whom a server accepts, in which words each refuses, and
 * that a certificate can be changed while it is in use. Each binding passes them by supplying a fixture; what it cannot do
 * it names in `gaps`, by the name of the test.
 *
 * Over TLS 1.3 a client's handshake is over before the server has looked at its certificate (RFC 8446, section 4.4.2.4), so
 * a refusal may show when dialling or at the first exchange.
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

/** What a binding supplies to be tested. */
export interface TlsFixture {
  /** Listens on any free port of 127.0.0.1, and answers whoever it accepts. */
  listen(tls: TlsServerOptions): Promise<TlsServer>;
  /** Dials. Any name stands for an address without a listener, then 127.0.0.1. */
  dial(remote: Address, tls: TlsClientOptions): Promise<TlsSession>;
  /** Tests that this binding cannot pass, by name, and why. Printed as skips. */
  readonly gaps?: Readonly<Record<string, string>>;
}

/** A server that listens. */
export interface TlsServer extends Pick<Listener, "address" | "fingerprint" | "setIdentity"> {
  close(): Promise<void>;
}

/** A connection to a server. */
export interface TlsSession {
  /** Sends something, and has it answered. */
  exchange(): Promise<void>;
  close(): Promise<void>;
}

/** The fixture of a {@link Transport}. */
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
      const signal = AbortSignal.timeout(PATIENCE);
      const connection = await (await transport({ tls })).dial(remote, { signal });
      return {
        exchange: () => exchangeOn(connection, signal),
        close: () => connection.close({ grace: 0 }),
      };
    },
  };
}

/** Milliseconds after which a dial that hangs is a failure. */
const PATIENCE = 30_000;

/** Registers the tests of one binding. */
export function tlsCompliance(name: string, fixture: TlsFixture): void {
  const it = (test: string, run: () => Promise<void>): void => itUnlessGap(fixture, test, run);

  /** Serves with `server`, and shows that a client with `client` is accepted and accepts. */
  const accepts = (server: TlsServerOptions, ...clients: TlsClientOptions[]): Promise<void> =>
    withServer(fixture, server, async (listener) => {
      for (const client of clients) await meet(fixture, listener, client);
    });

  /**
   * Serves with `server`, and shows that `client` fails in these words, and nobody else for it: `welcome` is accepted
   * before and after.
   */
  const refuses = (
    server: TlsServerOptions,
    client: TlsClientOptions,
    words: RegExp,
    welcome?: TlsClientOptions,
  ): Promise<void> =>
    withServer(fixture, server, async (listener) => {
      if (welcome !== undefined) await meet(fixture, listener, welcome);
      const error = await rejectionOf(meet(fixture, listener, client));
      assert.equal(error.code, "HandshakeFailed", error.message);
      assert.match(error.message, words);
      if (welcome !== undefined) await meet(fixture, listener, welcome);
    });

  describe(`${name}: whom a client accepts`, () => {
    it("a certificate of the named authority, for the address that is dialled", async () => {
      const { ca, server } = await scene();
      await accepts(server, { ca: ca.cert });
    });

    it("a certificate of the named authority, for the name that is asked for", async () => {
      const { ca } = await scene();
      const named = await ca.issue({ names: ["peer.example"] });
      await accepts(named, { ca: ca.cert, serverName: "peer.example" });
    });

    it("a certificate for the name that is dialled, at whatever address it is served", async () => {
      const { ca } = await scene();
      await withServer(fixture, await ca.issue({ names: ["peer.example"] }), async (listener) => {
        const remote = { host: "peer.example", port: listener.address.port };
        await meet(fixture, { address: remote }, { ca: ca.cert });
      });
    });

    it("a certificate of one of several named authorities", async () => {
      const { ca, otherCa, server } = await scene();
      await accepts(server, { ca: otherCa.cert + ca.cert });
    });

    it("a chain of authorities, of which the client knows the root", async () => {
      const { ca } = await scene();
      await accepts(await (await ca.intermediate("intermediate")).issue(), { ca: ca.cert });
    });

    it("a self-signed certificate that is named as an authority", async () => {
      const own = await selfSignedCertificate();
      await accepts(own, { ca: own.cert });
    });

    it("a pinned certificate, in any spelling, and one of several", () =>
      withServer(fixture, {}, async (listener) => {
        const pin = listener.fingerprint ?? "";
        const bare = pin.replaceAll(":", "").toLowerCase();
        for (const fingerprints of [[pin], [bare], ["00".repeat(32), pin]]) {
          await meet(fixture, listener, { fingerprints });
        }
      }));

    it("a pinned certificate, whatever else it says", async () => {
      const { ca } = await scene();
      await withServer(
        fixture,
        await ca.issue({ names: ["other.example"], from: -30, to: -2 }),
        async (listener) => {
          await meet(fixture, listener, { fingerprints: [listener.fingerprint ?? ""] });
        },
      );
    });

    it("any certificate, with verify: false", async () => {
      const { ca } = await scene();
      await accepts({}, { verify: false });
      await accepts(await ca.issue({ names: ["other.example"], from: -30, to: -2 }), {
        verify: false,
      });
    });
  });

  describe(`${name}: whom a client refuses, each in its own words`, () => {
    it("by default, a certificate of an authority that nobody knows", async () => {
      const { ca, server } = await scene();
      await refuses(server, {}, /authority/, { ca: ca.cert });
    });

    it("a certificate of another authority", async () => {
      const { ca, otherCa, server } = await scene();
      await refuses(server, { ca: otherCa.cert }, /authority/, { ca: ca.cert });
    });

    it("a certificate for another address", async () => {
      const { ca } = await scene();
      const server = await ca.issue({ names: ["127.0.0.2", "localhost"] });
      await refuses(
        server,
        { ca: ca.cert },
        /is for .*127\.0\.0\.2.*, not for 127\.0\.0\.1/,
        pinOf(server),
      );
    });

    it("a certificate for an address of the name that is dialled", async () => {
      const { ca, server } = await scene();
      await withServer(fixture, server, async (listener) => {
        const remote = { host: "peer.example", port: listener.address.port };
        const error = await rejectionOf(meet(fixture, { address: remote }, { ca: ca.cert }));
        assert.equal(error.code, "HandshakeFailed", error.message);
        assert.match(error.message, /is for .*localhost.*, not for peer\.example/);
        await meet(fixture, listener, { ca: ca.cert });
      });
    });

    it("a certificate for another name", async () => {
      const { ca, server } = await scene();
      const client = { ca: ca.cert, serverName: "peer.example" };
      await refuses(server, client, /is for .*localhost.*, not for peer\.example/, { ca: ca.cert });
    });

    it("a certificate for two thousand other names, in a few words", async () => {
      const { ca } = await scene();
      const names = Array.from({ length: 2000 }, (_, index) => `peer-${index}.of-many.example`);
      await withServer(fixture, await ca.issue({ names }), async (listener) => {
        const error = await rejectionOf(meet(fixture, listener, { ca: ca.cert }));
        assert.equal(error.code, "HandshakeFailed", error.message);
        assert.ok(error.message.length < 2048, `${error.message.length} characters`);
      });
    });

    it("a certificate that has expired", async () => {
      const { ca } = await scene();
      await refuses(
        await ca.issue({ from: -30, to: -2 }),
        { ca: ca.cert },
        /has expired|expired on \d{4}-\d{2}-\d{2}/,
      );
    });

    it("a certificate that is not valid yet", async () => {
      const { ca } = await scene();
      await refuses(
        await ca.issue({ from: 2, to: 30 }),
        { ca: ca.cert },
        /not valid yet|valid only from \d{4}-\d{2}-\d{2}/,
      );
    });

    it("a certificate that is not pinned, and names the one that was found", async () => {
      const { ca, server } = await scene();
      const [found = ""] = pinOf(server).fingerprints;
      const words = new RegExp(`fingerprint ${found}, which is not pinned`, "i");
      await refuses(server, { fingerprints: ["00".repeat(32)] }, words, { ca: ca.cert });
    });

    it("a certificate that is not pinned, even of a named authority", async () => {
      const { ca, server } = await scene();
      await refuses(server, { ca: ca.cert, fingerprints: ["00".repeat(32)] }, /not pinned/, {
        ca: ca.cert,
      });
    });
  });

  describe(`${name}: whom a server accepts and refuses`, () => {
    it("a client certificate of the named authority is accepted", async () => {
      const { ca, server, client } = await scene();
      await accepts({ ...server, clientCa: ca.cert }, { ca: ca.cert, ...client });
    });

    it("a client without a certificate is refused", async () => {
      const { ca, server, client } = await scene();
      const welcome = { ca: ca.cert, ...client };
      await refuses(
        { ...server, clientCa: ca.cert },
        { ca: ca.cert },
        /requires a client certificate/,
        welcome,
      );
    });

    it("a client with a certificate of another authority is refused", async () => {
      const { ca, otherCa, server, client } = await scene();
      const stranger = { ca: ca.cert, ...(await otherCa.issue()) };
      await refuses({ ...server, clientCa: ca.cert }, stranger, notAccepted, {
        ca: ca.cert,
        ...client,
      });
    });

    it("a client with a certificate that has expired is refused", async () => {
      const { ca, server, client } = await scene();
      const late = { ca: ca.cert, ...(await ca.issue({ from: -30, to: -2 })) };
      await refuses({ ...server, clientCa: ca.cert }, late, notAccepted, {
        ca: ca.cert,
        ...client,
      });
    });

    it("a client certificate that nobody asked for does no harm", async () => {
      const { ca, server, client } = await scene();
      await accepts(server, { ca: ca.cert, ...client });
    });
  });

  describe(`${name}: a certificate that changes`, () => {
    it("new connections are shown the new certificate, and old ones go on", () =>
      withServer(fixture, {}, async (listener) => {
        const before = { fingerprints: [listener.fingerprint ?? ""] };
        const next = await selfSignedCertificate();
        const session = await fixture.dial(listener.address, before);
        try {
          await session.exchange();
          await listener.setIdentity(next);
          assert.equal(listener.fingerprint, fingerprintOf(next.cert));
          await meet(fixture, listener, pinOf(next));
          await assertRejects(meet(fixture, listener, before), "HandshakeFailed");
          await session.exchange();
        } finally {
          await session.close();
        }
      }));

    it("clients must show certificates after a change as before it", async () => {
      const { ca, server, client } = await scene();
      await withServer(fixture, { ...server, clientCa: ca.cert }, async (listener) => {
        await listener.setIdentity(await ca.issue());
        await meet(fixture, listener, { ca: ca.cert, ...client });
        await assertRejects(meet(fixture, listener, { ca: ca.cert }), "HandshakeFailed");
      });
    });

    it("one that is none, or without its key, is InvalidArgument and changes nothing", async () => {
      const { ca, server, client } = await scene();
      await withServer(fixture, server, async (listener) => {
        const wrong = [
          { cert: "no certificate", key: server.key },
          { cert: server.cert, key: "no key" },
          { cert: server.cert, key: client.key },
        ];
        for (const identity of wrong)
          await assertRejects(listener.setIdentity(identity), "InvalidArgument");
        assert.equal(listener.fingerprint, fingerprintOf(server.cert));
        await meet(fixture, listener, { ca: ca.cert });
      });
    });
  });

  describe(`${name}: options that cannot be`, () => {
    it("of a client, are InvalidArgument", async () => {
      const { server, client } = await scene();
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

    it("of a server, are InvalidArgument", async () => {
      const { server, client } = await scene();
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

/** What a client is told of its certificate: by an alert, or by a server that ends the connection after the handshake. */
const notAccepted = /not accept(ed)? .*certificate/;

interface Scene {
  readonly ca: Authority;
  readonly otherCa: Authority;
  /** Certificates of `ca`. */
  readonly server: TlsIdentity;
  readonly client: TlsIdentity;
}

let made: Promise<Scene> | undefined;

/** Two authorities and what the first has signed, made once. */
function scene(): Promise<Scene> {
  made ??= (async () => {
    const [ca, otherCa] = [await authority("authority"), await authority("another authority")];
    return {
      ca,
      otherCa,
      server: await ca.issue(),
      client: await ca.issue({ names: ["client.example"] }),
    };
  })();
  return made;
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

/** Dials, has something answered, and closes. */
async function meet(
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
      // The client has gone.
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
