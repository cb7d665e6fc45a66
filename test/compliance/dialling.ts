/** Compliance tests of dialling, listening and addresses. */
import assert from "node:assert/strict";
import { networkInterfaces } from "node:os";
import { describe } from "node:test";
import { fingerprintOf, selfSigned } from "../../adapters/shared/tls.ts";
import { VortexError } from "../../src/errors.ts";
import { assertRejects, rejectionOf } from "../support/failures.ts";
import { dialAddressOf, skipped } from "../support/fixture.ts";
import { readAll } from "../support/hostile.ts";
import {
  count,
  echo,
  isServed,
  readExactly,
  readToFailure,
  type Suite,
  serveEchoes,
  text,
  tick,
  waitUntilStable,
  writeAll,
} from "./peers.ts";

/** True when this machine has IPv6, at least on loopback. */
export const loopback6: boolean = Object.values(networkInterfaces())
  .flat()
  .some((entry) => entry?.address === "::1");

/** Registers the tests for one transport. */
export function diallingCompliance({ name, it, withPeers, fixture }: Suite): void {
  describe(`${name}: dialling and listening`, () => {
    it("a second connection from the same side is independent of the first", async () => {
      await withPeers(async ({ transport, address, open, connection }) => {
        const [near, far, accepted] = await open();
        const second = await transport.dial(address);
        const [other, otherFar, otherAccepted] = await open(second);
        if (fixture.sharesSocket === true) assert.deepEqual(otherAccepted.remote, accepted.remote);
        connection.abort();
        await rejectionOf(readToFailure(near.reader));
        await rejectionOf(readToFailure(far.reader));
        await otherFar.writer.write(text("still here"));
        assert.deepEqual(await readExactly(other.reader, 10), text("still here"));
        second.abort();
      });
    });

    it("both sides report protocol and address, are ready, and have neither resumed nor sent early data", async () => {
      await withPeers(async ({ transport, address, open, connection }) => {
        const [, , accepted] = await open();
        assert.deepEqual(connection.remote, address);
        for (const one of [connection, accepted]) {
          assert.equal(one.protocol, transport.protocol);
          assert.deepEqual([one.resumed, one.earlyData], [false, "none"]);
          await one.ready;
        }
        assert.ok(accepted.remote.port > 0);
        assert.notEqual(accepted.remote.port, address.port);
      });
    });

    it("a first connection sends no early data, even if allowed", async () => {
      await withPeers(async ({ transport, address, open }) => {
        await open();
        const connection = await transport.dial(address, { earlyData: true });
        assert.equal(connection.earlyData, "none");
        await connection.ready;
        const [near, far] = await open(connection);
        await Promise.all([echo(far), writeAll(near, [text("hello")])]);
        assert.deepEqual(await readAll(near), text("hello"));
        connection.abort();
        // The handshake was complete, so `ready` stays resolved.
        await connection.ready;
      });
    });

    it("dialling a closed port rejects with ConnectionRefused", async () => {
      const transport = await fixture.transport();
      const listener = await transport.listen(fixture.listenAddress);
      const address = dialAddressOf(fixture, listener.address);
      await listener.close();
      await assertRejects(
        transport.dial(address, { signal: AbortSignal.timeout(20_000) }),
        "ConnectionRefused",
      );
    });

    // A peer may announce any address, so none may end the process or look like an internal error.
    it("dialling an unroutable address fails as a transport error or timeout, and affects no other connection", async () => {
      await withPeers(async ({ transport, open }) => {
        for (const host of ["255.255.255.255", ...(loopback6 ? ["ff02::1", "fe80::1"] : [])]) {
          const abort = new AbortController();
          const dialling = rejectionOf(
            transport.dial({ host, port: 4006 }, { signal: abort.signal }),
          );
          // Not every runtime reports that there is no route.
          const timer = setTimeout(
            () => abort.abort(new VortexError("ConnectTimeout", "no answer")),
            1000,
          );
          const { code, kind, message } = await dialling;
          clearTimeout(timer);
          assert.ok(kind === "transport" || kind === "timeout", `${host}: ${code}, ${message}`);
          assert.notEqual(code, "AddressInUse");
        }
        await open();
      });
    });

    it("an abort before dialling rejects with Aborted, or with the signal's VortexError", async () => {
      await withPeers(async ({ transport, address }) => {
        const cause = new Error("changed my mind");
        const error = await assertRejects(
          transport.dial(address, { signal: AbortSignal.abort(cause) }),
          "Aborted",
        );
        assert.equal(error.cause, cause);
        const own = new VortexError("ConnectTimeout", "too slow");
        assert.equal(
          await rejectionOf(transport.dial(address, { signal: AbortSignal.abort(own) })),
          own,
        );
      });
    });

    it("an abort during dialling rejects with Aborted, or with the signal's VortexError", async () => {
      await withPeers(async ({ transport, address, open }) => {
        for (const reason of [
          new Error("changed my mind"),
          new VortexError("ConnectTimeout", "too slow"),
        ]) {
          const abort = new AbortController();
          const dialling = transport.dial(address, { signal: abort.signal });
          abort.abort(reason);
          const error = await rejectionOf(dialling);
          if (reason instanceof VortexError) assert.equal(error, reason);
          else assert.deepEqual([error.code, error.cause], ["Aborted", reason]);
        }
        await open();
      });
    });

    it("an abort after dialling has no effect on the connection", async () => {
      await withPeers(async ({ transport, address, open, acceptStream }) => {
        await open();
        const abort = new AbortController();
        const connection = await transport.dial(address, { signal: abort.signal });
        abort.abort();
        const near = await connection.openStream();
        await near.writer.write(text("alive"));
        const [far] = await acceptStream();
        assert.deepEqual(await readExactly(far.reader, 5), text("alive"));
        connection.abort();
      });
    });

    if (loopback6) it("a listener on an IPv6 address accepts connections", onIpv6);
    else
      skipped(
        "a listener on an IPv6 address accepts connections",
        "this machine has no IPv6",
        onIpv6,
      );

    async function onIpv6(): Promise<void> {
      await withPeers(
        async ({ listener, open }) => {
          assert.equal(listener.address.host, "::1");
          const [near, far, accepted] = await open();
          assert.match(accepted.remote.host, /^::1$/);
          await Promise.all([echo(far), writeAll(near, [text("six")])]);
          assert.deepEqual(await readAll(near), text("six"));
        },
        { local: { host: "::1", port: 0 } },
      );
    }

    it("listening on an address in use rejects with AddressInUse, and the existing listener continues", async () => {
      await withPeers(async ({ transport, listener, open }) => {
        await assertRejects(transport.listen(listener.address), "AddressInUse");
        await open();
      });
    });

    it("port 0 selects a free port, different each time, which is free again after close", async () => {
      const transport = await fixture.transport();
      const one = await transport.listen({ ...fixture.listenAddress, port: 0 });
      const two = await transport.listen({ ...fixture.listenAddress, port: 0 });
      assert.ok(one.address.port > 0);
      assert.notEqual(one.address.port, two.address.port);
      await one.close();
      const again = await transport.listen(one.address);
      assert.deepEqual(again.address, one.address);
      await Promise.all([two.close(), again.close()]);
    });

    it("closing a listener ends its accept loops and connections, and refuses dials", async () => {
      const transport = await fixture.transport();
      const listener = await transport.listen(fixture.listenAddress);
      const address = dialAddressOf(fixture, listener.address);
      const loops = count(listener.accept(), (connection) => count(connection.accept()));
      const connection = await transport.dial(address);
      const stream = await connection.openStream();
      await stream.writer.write(text("x"));
      const reading = readAll(stream);
      reading.catch(() => {});
      await waitUntilStable(() => 0);
      await listener.close({ grace: 0 });
      await listener.close();
      assert.equal(await loops, 1);
      await rejectionOf(reading);
      await assertRejects(
        transport.dial(address, { signal: AbortSignal.timeout(20_000) }),
        "ConnectionRefused",
      );
      connection.abort();
    });

    it("a listener refuses connections beyond its limit, and accepts again after one ends", async () => {
      await withPeers(
        async (peers) => {
          const { transport, address, open, connection } = peers;
          const [near, far, accepted] = await open();
          const serving = serveEchoes(peers);
          assert.equal(await isServed(transport, address), false);
          await Promise.all([echo(far), writeAll(near, [text("honest")])]);
          assert.deepEqual(await readAll(near), text("honest"));
          await connection.close();
          await accepted.closed;
          let served = false;
          // The listener may notice the end a little later than the connection.
          for (let round = 0; !served && round < 1000; round++) {
            await tick();
            served = await isServed(transport, address);
          }
          assert.equal(served, true);
          await serving.stop();
        },
        { maxConnections: 1 },
      );
    });

    if (fixture.overUdp === true) {
      it("setIdentity changes the fingerprint, and existing connections continue", async () => {
        await withPeers(async ({ listener, open }) => {
          const [near, far] = await open();
          assert.match(listener.fingerprint ?? "", /^([0-9A-F]{2}:){31}[0-9A-F]{2}$/);
          const identity = await selfSigned();
          await listener.setIdentity(identity);
          assert.equal(listener.fingerprint, fingerprintOf(identity.cert));
          await assertRejects(
            listener.setIdentity({ cert: "none", key: identity.key }),
            "InvalidArgument",
          );
          assert.equal(listener.fingerprint, fingerprintOf(identity.cert));
          const [late, lateFar] = await open();
          for (const [here, there] of [[near, far] as const, [late, lateFar] as const]) {
            await Promise.all([echo(there), writeAll(here, [text("on it goes")])]);
            assert.deepEqual(await readAll(here), text("on it goes"));
          }
        });
      });
    } else {
      it("without TLS there is no fingerprint, and setIdentity rejects with Unavailable", async () => {
        await withPeers(async ({ listener, open }) => {
          assert.equal(listener.fingerprint, undefined);
          await assertRejects(listener.setIdentity(await selfSigned()), "Unavailable");
          await open();
        });
      });
    }
  });
}
