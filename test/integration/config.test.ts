import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { VortexError } from "../../src/errors.ts";
import { seededBytes } from "../support/random.ts";
import { type Outcome, root, runner, runToEnd, startProgram } from "../support/run.ts";

/** Command line of `vortex-peer` on the current runtime. */
const command = [...runner, join(root, "cli/main.ts")];
/** Timeout in ms for a dozen processes in sequence on a busy machine. */
const testOptions = { timeout: 200_000 };

const content = seededBytes(11, 5_000_000);
const sha256 = createHash("sha256").update(content).digest("hex");
/** Configuration that serves at free ports of the loopback address. */
const freePorts =
  "storage: { server: { ip: 127.0.0.1, tcpPort: 0, quicPort: 0 } }\nupload: { server: { port: 0 } }\n";

describe("one configuration file", () => {
  it("selects the protocol by one line, with the same command line", testOptions, () =>
    inTempDir(async (dir) => {
      const file = join(dir, "client.yaml");
      const output = join(dir, "output");
      await using all = await serve(dir, "--no-identity");
      const get = async (
        server: Server,
        protocol: string,
        fingerprint = server.fingerprint,
      ): Promise<Outcome> => {
        await writeFile(file, clientFile(protocol, fingerprint));
        await rm(output, { force: true });
        return runToEnd([...command, ...server.get, "--config", file, "-o", output]);
      };
      for (const protocol of ["tcp", "quic", "grpc"]) {
        const { code, err } = await get(all, protocol);
        assert.equal(code, 0, err);
        assert.ok(content.length > 0 && Buffer.compare(content, await readFile(output)) === 0);
      }
      // The file selected the protocol: QUIC fails with an unknown fingerprint, and TCP fails at a
      // server with gRPC only.
      const stranger = await get(all, "quic", "00".repeat(32));
      assert.notEqual(stranger.code, 0);
      await using apiOnly = await serve(dir, "--no-tcp", "--no-quic");
      assert.equal((await get(apiOnly, "grpc")).code, 0);
      assert.notEqual((await get(apiOnly, "tcp")).code, 0);
    }),
  );

  it("makes an unchanged program fetch over each protocol, with the same output", testOptions, () =>
    inTempDir(async (dir) => {
      const file = join(dir, "client.yaml");
      await using server = await serve(dir, "--no-identity");
      for (const protocol of ["tcp", "quic", "grpc"]) {
        await writeFile(file, clientFile(protocol, server.fingerprint));
        const program = [
          ...runner,
          join(root, "test/support/config-client.ts"),
          server.api,
          server.taskId,
        ];
        const { code, out, err } = await runToEnd([
          "env",
          `VORTEX_PEER_CONFIG=${file}`,
          ...program,
        ]);
        assert.deepEqual([code, out], [0, `${protocol} ${sha256}\n`], err);
      }
    }),
  );

  it("is shown with the origin of each value, and errors name the origin", testOptions, () =>
    inTempDir(async (dir) => {
      const file = join(dir, "client.yaml");
      await writeFile(file, "download:\n  protocol: quic\n");
      const environment = ["env", `VORTEX_PEER_CONFIG=${file}`, ...command];
      const shown = await runToEnd([...environment, "config", "--json"]);
      assert.deepEqual(JSON.parse(shown.out)["download.protocol"], {
        value: "quic",
        source: `${file}:2`,
      });
      await writeFile(file, "download:\n  protocol: carrier-pigeon\n");
      const wrong = await runToEnd([...environment, "config"]);
      assert.deepEqual([wrong.code, wrong.out], [2, ""]);
      assert.match(
        wrong.err,
        /^\S+client\.yaml:2: download\.protocol: "carrier-pigeon": expected tcp, [^\n]*\n$/,
      );
    }),
  );
});

/** Server of {@link content} in a separate process. */
interface Server extends AsyncDisposable {
  readonly fingerprint: string;
  /** Address of the server's Dragonfly API. */
  readonly api: string;
  readonly taskId: string;
  /** Command line that fetches the task from the server, without a protocol. */
  readonly get: readonly string[];
}

async function serve(dir: string, ...more: string[]): Promise<Server> {
  const [file, source] = [join(dir, "server.yaml"), join(dir, "source")];
  await writeFile(file, freePorts);
  await writeFile(source, content);
  const program = startProgram([...command, "serve", source, "--config", file, "--json", ...more]);
  const ready = JSON.parse(await program.line());
  const [{ taskId }] = ready.tasks;
  const api: string = ready.addresses.grpc;
  if (typeof api !== "string")
    throw new VortexError("Internal", "the server has no address for the Dragonfly API");
  return {
    fingerprint: ready.fingerprint,
    api,
    taskId,
    get: ["get", "--peer", `api=${api}`, "--task-id", taskId],
    async [Symbol.asyncDispose]() {
      program.kill();
      await program.ended;
    },
  };
}

function clientFile(protocol: string, fingerprint: string | undefined): string {
  const trust =
    fingerprint === undefined ? "" : `vortexPeer: { quic: { fingerprints: ["${fingerprint}"] } }\n`;
  return `download:\n  protocol: ${protocol}\n${trust}`;
}

async function inTempDir(use: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), "vortex-peer-config-"));
  try {
    await use(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}
