/** Servers in processes that a signal ends: their clients learn of the end at once. */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { denoQuicTransportWith } from "../../adapters/deno-quic/transport.ts";
import { grpcBinding } from "../../adapters/grpc/client.ts";
import { quicheTransportWith } from "../../adapters/quiche/transport.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { parseAddress } from "../../src/transport/address.ts";
import type { CloseInfo } from "../../src/transport/transport.ts";
import { runtimeName } from "../support/fixtures.ts";
import { type Program, root, runner, startProgram } from "../support/run.ts";

const testOptions = { timeout: 120_000 };
const identity = await selfSigned();
const signals = ["SIGTERM", "SIGINT"] as const;

/** Dials a server over QUIC. Resolves to a promise of the end of the connection. */
async function dialled(addr: string): Promise<{ readonly closed: Promise<CloseInfo> }> {
  const options = { tls: { ca: identity.cert } };
  const transport = await (runtimeName === "deno"
    ? denoQuicTransportWith(undefined, options)
    : quicheTransportWith(undefined, options));
  const connection = await transport.dial(parseAddress(addr), {
    signal: AbortSignal.timeout(60_000),
  });
  return { closed: connection.closed.finally(() => transport.close?.()) };
}

/** Asserts that the peer has closed the connection: the idle timeout would be an error of time. */
async function assertClosed(closed: Promise<CloseInfo>): Promise<void> {
  const { remote, error } = await closed;
  assert.equal(remote, true, error.message);
  assert.equal(error.code, "ConnectionLost");
  assert.doesNotMatch(error.message, /idle|timeout/);
}

/** Runs `use` with a program, which is killed afterwards if it still runs. */
async function withProgram(
  words: readonly string[],
  use: (program: Program) => Promise<void>,
): Promise<void> {
  const program = startProgram([...runner, ...words]);
  try {
    await use(program);
  } finally {
    program.kill();
  }
}

function withPeer(mode: string, use: (program: Program) => Promise<void>): Promise<void> {
  const program = join(root, "test/support/signal-peer.ts");
  return withProgram([program, runtimeName, JSON.stringify(identity), mode], use);
}

describe("the option closeOnSignals", () => {
  for (const signal of signals) {
    it(`closes all servers at ${signal}, which then ends the process`, testOptions, () =>
      withPeer("", async (program) => {
        const { closed } = await dialled(await program.line());
        const grpc = await grpcBinding().dial(parseAddress(await program.line()), {
          maxMessageLength: 1000,
        });
        program.kill(signal);
        await assertClosed(closed);
        await grpc.closed;
        // The signal itself ends the process, so there is no exit code.
        const { code, err } = await program.ended;
        assert.deepEqual([code, err], [null, ""]);
      }),
    );
  }

  it("leaves the end of the process to a handler of the program", testOptions, () =>
    withPeer("own-handler", async (program) => {
      const { closed } = await dialled(await program.line());
      await program.line();
      program.kill("SIGTERM");
      await assertClosed(closed);
      assert.equal(await program.line(), "handled");
      assert.equal((await program.ended).code, 7);
    }),
  );

  it("has no effect once the servers are closed", testOptions, () =>
    withPeer("closed", async (program) => {
      for (const expected of [/:\d+$/, /:\d+$/, /^closed$/])
        assert.match(await program.line(), expected);
      program.kill("SIGTERM");
      assert.equal((await program.ended).code, null);
    }),
  );
});

describe("the command serve", () => {
  for (const signal of signals) {
    it(`closes its connections at ${signal}`, testOptions, async () => {
      const directory = await mkdtemp(join(tmpdir(), "vortex-peer-signal-"));
      const path = (name: string): string => join(directory, name);
      const words = [
        ...[join(root, "cli/main.ts"), "serve", path("source"), "--json", "--host", "127.0.0.1"],
        ...["--quic-port", "0", "--no-tcp", "--no-grpc"],
        ...["--cert", path("cert"), "--key", path("key")],
      ];
      try {
        await writeFile(path("source"), "content");
        await writeFile(path("cert"), identity.cert);
        await writeFile(path("key"), identity.key);
        await withProgram(words, async (program) => {
          const ready = JSON.parse(await program.line()) as { addresses: { quic: string } };
          const { closed } = await dialled(ready.addresses.quic);
          program.kill(signal);
          await assertClosed(closed);
          const { code, err } = await program.ended;
          assert.deepEqual([code, err], [0, ""]);
        });
      } finally {
        await rm(directory, { recursive: true, force: true });
      }
    });
  }
});
