/**
 * Runs README's samples unchanged, except addresses, file names and ids. CI and `demo.test.ts` run
 * the two commands for a fresh clone.
 */
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { tcpTransport } from "../../adapters/tcp/transport.ts";
import { portableRuntime } from "../../src/runtime.ts";
import { VortexServer } from "../../src/server/vortex-server.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { seededBytes } from "../support/random.ts";
import { root, runner, runToEnd } from "../support/run.ts";
import { inTempDir, sampleUnder, writeProgram } from "../support/samples.ts";

const taskId = "ab".repeat(32);
const content = seededBytes(11, 4_200_000);

describe("README", () => {
  it("fetch a piece", () =>
    withPeer(async (addr) => {
      const code = (await sample("Fetch a piece", "ts"))
        .replace("10.0.0.7:4005", addr)
        .replace(/[0-9a-f]{64}/, taskId);
      const { code: status, out, err } = await runSample(code);
      assert.deepEqual([status, err], [0, ""]);
      assert.match(out, /^piece 0: 4194304 bytes at 0, crc32:\d+\n$/);
    }));

  it("fetch a task", () =>
    withPeer((addr) =>
      inTempDir(async (directory) => {
        const file = join(directory, "model.safetensors");
        const code = (await sample("Fetch a task", "ts"))
          .replace('"10.0.0.7:4005", "10.0.0.8:4005"', JSON.stringify(addr))
          .replace('"model.safetensors"', JSON.stringify(file))
          .replace(/[0-9a-f]{64}/, taskId);
        const { code: status, out, err } = await runSample(code);
        assert.deepEqual([status, err, out], [0, "", "4200000 bytes in 2 pieces\n"]);
        assert.deepEqual(new Uint8Array(await readFile(file)), content);
      }),
    ));

  it("serve a file", () =>
    inTempDir(async (directory) => {
      const file = join(directory, "model.safetensors");
      await writeFile(file, content);
      const code = (await sample("Serve a file", "ts"))
        .replace('"model.safetensors"', JSON.stringify(file))
        .replace("{ store,", '{ store, host: "127.0.0.1",')
        .replaceAll(/port: 40\d\d/g, "port: 0");
      const {
        code: status,
        out,
        err,
      } = await runSample(`${code}\nawait server.close();\nawait store.close();\n`);
      assert.deepEqual([status, err], [0, ""]);
      assert.match(out, /^task [0-9a-f]{64}, pin ([0-9A-F]{2}:){31}[0-9A-F]{2}\n$/);
    }));

  it("one configuration file", () =>
    inTempDir(async (directory) => {
      const file = join(directory, "dfdaemon.yaml");
      await writeFile(
        file,
        (await sample("One configuration file", "yaml")).replace("…", "00".repeat(32)),
      );
      const code = await sample("One configuration file", "ts");
      const shown = "console.log(config.config.download.protocol);\nawait downloader.close();";
      const named = `import process from "node:process";\nprocess.env.VORTEX_PEER_CONFIG = ${JSON.stringify(file)};`;
      const { code: status, out, err } = await runSample(`${named}\n${code}\n${shown}\n`);
      assert.deepEqual([status, out, err], [0, "quic\n", ""]);
    }));

  it("command line", () =>
    withPeer((addr) =>
      inTempDir(async (directory) => {
        const [serve = "", get = "", piece = ""] = (await sample("Command line", "sh"))
          .trim()
          .split("\n");
        const concrete = (line: string): string[] =>
          line
            .replace("10.0.0.7:4005", addr)
            .replace(" ID ", ` ${taskId} `)
            .split(" ")
            .slice(1)
            .map((word) => (/\.(safetensors|bin)$/.test(word) ? join(directory, word) : word));
        const command = [...runner, join(root, "cli/main.ts")];
        // With explicit lengths, because a stat needs gRPC, which this peer does not serve.
        const got = await runToEnd([
          ...command,
          ...concrete(get),
          "--content-length",
          String(content.length),
        ]);
        assert.equal(got.code, 0, got.err);
        assert.deepEqual(
          new Uint8Array(await readFile(join(directory, "model.safetensors"))),
          content,
        );
        const one = await runToEnd([...command, ...concrete(piece)]);
        assert.deepEqual([one.code, one.err], [0, ""]);
        assert.equal((await readFile(join(directory, "piece.bin"))).length, 4_194_304);
        // `serve` runs until interrupted. A missing file shows that its arguments are accepted.
        const served = await runToEnd([
          ...command,
          ...concrete(serve).map((word) => word.replace("model", "missing")),
        ]);
        assert.equal(served.code, 7, served.err);
      }),
    ));
});

function sample(heading: string, language: string): Promise<string> {
  return sampleUnder("README.md", heading, language);
}

function runSample(code: string): ReturnType<typeof runToEnd> {
  return inTempDir(async (directory) =>
    runToEnd([...runner, await writeProgram(directory, "sample.mts", code)]),
  );
}

async function withPeer(use: (addr: string) => Promise<void>): Promise<void> {
  const store = new MemoryPieceStore();
  store.putTask(taskId, content);
  const server = await VortexServer.listen(
    tcpTransport,
    { host: "127.0.0.1", port: 0 },
    store,
    portableRuntime,
  );
  try {
    await use(formatAddress(server.address));
  } finally {
    await server.close();
  }
}
