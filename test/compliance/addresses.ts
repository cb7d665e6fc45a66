/** Hosts with several addresses: Happy Eyeballs (RFC 8305). */
import assert from "node:assert/strict";
import { describe } from "node:test";
import { type Address, formatAddress } from "../../src/transport/address.ts";
import type { Connection } from "../../src/transport/transport.ts";
import { assertRejects } from "../support/failures.ts";
import { skipped } from "../support/fixture.ts";
import { readAll } from "../support/hostile.ts";
import { silentTcpHost, silentUdpHost } from "../support/silent-host.ts";
import { loopback6 } from "./dialling.ts";
import { echo, type Peers, type Suite, text, writeAll } from "./peers.ts";

/** Host name in the certificates of the fixtures. */
const NAME = "localhost";

/** Registers the tests for a transport that resolves host names. */
export function addressesCompliance({ name, it, withPeers, fixture }: Suite): void {
  describe(`${name}: a host with several addresses`, () => {
    it("dialling skips an address without a listener, for later streams too", () =>
      withPeers(assertReached, { tuning: { addresses: ["127.0.0.2", "127.0.0.1"] } }));

    for (const [dead, alive] of [
      ["::1", "127.0.0.1"],
      // Not 127.0.0.1, where another test may listen at the same port.
      ["127.0.0.2", "::1"],
    ] as const) {
      const test = `dialling skips ${dead} without a listener and reaches ${alive}`;
      const run = (): Promise<void> =>
        withPeers(assertReached, {
          tuning: { addresses: [dead, alive] },
          local: { host: alive, port: 0 },
        });
      if (loopback6) it(test, run);
      else skipped(test, "this machine has no IPv6", run);
    }

    it("a silent address does not delay the next one", async () => {
      const silent = await (fixture.overUdp === true ? silentUdpHost : silentTcpHost)("127.0.0.2");
      try {
        const local = { host: "127.0.0.1", port: silent.address.port };
        await withPeers(assertReached, {
          tuning: { addresses: ["127.0.0.2", "127.0.0.1"] },
          local,
        });
      } finally {
        await silent.close();
      }
    });

    it("when all addresses fail, the error names each", () =>
      withPeers(
        async ({ transport, listener }) => {
          await listener.close();
          const remote = named(listener.address);
          const error = await assertRejects(transport.dial(remote), "ConnectionRefused");
          const { message, addr, cause } = error;
          assert.equal(addr, formatAddress(remote));
          assert.match(message, /cannot connect to any of 2 addresses of localhost:\d+: /);
          for (const address of ["127.0.0.2", "127.0.0.1"]) {
            assert.ok(message.includes(address), message);
          }
          assert.ok(cause instanceof AggregateError);
          assert.deepEqual(
            cause.errors.map(({ code }) => code),
            ["ConnectionRefused", "ConnectionRefused"],
          );
        },
        { tuning: { addresses: ["127.0.0.2", "127.0.0.1"] } },
      ));

    it("a name without an address is Unreachable, and an IP address is not resolved", () =>
      withPeers(
        async ({ transport, address }) => {
          await assertRejects(transport.dial(named(address)), "Unreachable");
          (await transport.dial(address)).abort();
        },
        { tuning: { addresses: [] } },
      ));

    it("an abort while resolving or dialling rejects with Aborted", () =>
      withPeers(
        async ({ transport, address, open }) => {
          for (const turns of [0, 1, 2, 5]) {
            const abort = new AbortController();
            const dialling = transport.dial(named(address), { signal: abort.signal });
            dialling.catch(() => {});
            for (let turn = 0; turn < turns; turn++) await Promise.resolve();
            abort.abort(new Error("changed my mind"));
            await assertRejects(dialling, "Aborted");
          }
          await open();
        },
        { tuning: { addresses: ["127.0.0.2", "127.0.0.1"] } },
      ));
  });
}

/** Replaces the host of an address by {@link NAME}. */
function named({ port }: Address): Address {
  return { host: NAME, port };
}

/** Asserts that the listener is reached by its name, for several streams. */
async function assertReached({ transport, address, open }: Peers): Promise<void> {
  // Over TCP the connection of the suite is a stream, which has to arrive first.
  await open();
  const connection: Connection = await transport.dial(named(address));
  try {
    assert.deepEqual(connection.remote, named(address));
    for (const word of ["one", "two"]) {
      const [near, far] = await open(connection);
      await Promise.all([echo(far), writeAll(near, [text(word)])]);
      assert.deepEqual(await readAll(near), text(word));
    }
  } finally {
    connection.abort();
  }
}
