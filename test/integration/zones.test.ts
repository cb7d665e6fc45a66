/** Servers answer and clients dial IPv6 link-local addresses with zones (RFC 4007). */
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { describe, it } from "node:test";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { isLinkLocal } from "../../adapters/shared/local-address.ts";
import { certificateFault } from "../../adapters/shared/tls-errors.ts";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { type Address, splitZone } from "../../src/transport/address.ts";
import { selfSignedCertificate } from "../support/certificates.ts";
import { rejectionOf } from "../support/failures.ts";
import { firstDatagram, unknownVersion } from "../support/first-datagram.ts";
import { fixtures, quicheFixture, runtimeName } from "../support/fixtures.ts";
import { LinkedHosts, noNamespaces } from "../support/namespaces.ts";
import { openQuicheListener } from "../support/quiche-listener.ts";
import { root, runner, startProgram } from "../support/run.ts";

const notHere =
  quicheFixture === undefined ? "quiche is for Node and Bun; Deno has a built-in QUIC" : undefined;

describe("addresses with zones", () => {
  it("are split into the address and the zone", () => {
    assert.deepEqual(splitZone("fe80::1%eth0"), ["fe80::1", "%eth0"]);
    assert.deepEqual(splitZone("fe80::1"), ["fe80::1", ""]);
    assert.deepEqual(splitZone("10.0.0.1"), ["10.0.0.1", ""]);
    assert.deepEqual(splitZone("peer%eth0"), ["peer%eth0", ""]);
    assert.deepEqual(["fe80::1", "febf::1", "fec0::1", "fd00::1", "10.0.0.1"].map(isLinkLocal), [
      true,
      true,
      false,
      false,
      false,
    ]);
  });

  it("are compared with certificates without the zone", async () => {
    const { cert } = await selfSignedCertificate({ names: ["fe80::1"] });
    const der = new Uint8Array(new X509Certificate(cert).raw);
    assert.equal(certificateFault(der, {}, "fe80::1%eth0"), undefined);
    assert.match(certificateFault(der, {}, "fe80::2%eth0") ?? "", /not for fe80::2/);
  });

  for (const [name, dial] of [
    ["TCP", tcpTransport.dial],
    ["gRPC", (remote: Address) => grpcBinding().dial(remote, { maxMessageLength: 1024 })],
  ] as const) {
    const outcome =
      runtimeName === "deno"
        ? "fail with InvalidArgument that names the zone"
        : "fail with Unreachable if the host lacks the zone";
    it(`dialled over ${name}, ${outcome}`, async () => {
      const error = await rejectionOf(dial({ host: "fe80::1%nowhere", port: 9 }));
      assert.equal(
        error.code,
        runtimeName === "deno" ? "InvalidArgument" : "Unreachable",
        error.message,
      );
      if (runtimeName === "deno") assert.match(error.message, /zone "nowhere"/);
    });
  }
});

describe("a datagram from a link-local address", () => {
  test("is answered by quiche in its zone, regardless of its content", notHere, async () => {
    if (quicheFixture === undefined) return;
    const initial = await firstDatagram(await quicheFixture.transport());
    const { listener, receive, sentTo } = await openQuicheListener({ host: "::", port: 0 });
    try {
      receive(unknownVersion(initial), { host: "fe80::1%nowhere", port: 1 });
      receive(initial, { host: "fe80::2%nowhere", port: 2 });
      // Answers are sent one turn after the datagrams were received.
      while (sentTo.length < 2) await new Promise((resolve) => setTimeout(resolve, 1));
      assert.deepEqual(sentTo.slice(0, 2), ["1 fe80::1%nowhere", "2 fe80::2%nowhere"]);
    } finally {
      await listener.close({ grace: 0 });
    }
  });

  for (const [name, fixture] of Object.entries(fixtures)) {
    if (fixture.overUdp !== true) continue;
    test(`starts a connection like any other, over ${name}`, noNamespaces, async () => {
      using hosts = LinkedHosts.make();
      const identity = await selfSignedCertificate({ names: [hosts.far.linkLocal] });
      const words = (role: string, ...rest: string[]) => [
        ...runner,
        `${root}test/support/zone-peer.ts`,
        name,
        role,
        JSON.stringify(identity),
        ...rest,
      ];
      const server = startProgram([...hosts.far.prefix, ...words("serve")]);
      const port = await server.line();
      const at = `${hosts.far.linkLocal}%${hosts.near.device}`;
      const client = startProgram([...hosts.near.prefix, ...words("dial", at, port)]);
      assert.equal(await client.line(), "served");
      await client.ended;
      server.end();
      assert.equal((await server.ended).err.replaceAll(/.*DANGER.*\n/g, ""), "");
    });
  }
});

/** Defines a test, or a skipped test with the reason in its name. */
function test(name: string, gap: string | undefined, run: () => Promise<void>): void {
  if (gap === undefined) it(name, { timeout: 60_000 }, run);
  else it(`${name} [gap: ${gap}]`, { skip: gap }, run);
}
