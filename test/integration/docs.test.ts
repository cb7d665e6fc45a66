/**
 * What is written for users: docstrings are complete, samples and examples fit the types. None of this depends on the runtime,
 * so it is tested on Node. README's samples are run by `readme.test.ts` on each runtime, the examples by `examples.test.ts` on
 * theirs.
 */
import assert from "node:assert/strict";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { describe, it } from "node:test";
import { startServer } from "../../adapters/node.ts";
import { taskIdOfUrl } from "../../src/ids.ts";
import { MemoryPieceStore } from "../../src/server/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { type Documented, exportedDocs } from "../support/docstrings.ts";
import { runtimeName } from "../support/fixtures.ts";
import { seededBytes } from "../support/random.ts";
import { root, runner, runners, runToEnd } from "../support/run.ts";
import {
  inTempDir,
  pages,
  type Sample,
  samplesOf,
  sampleUnder,
  writeExample,
  writeProgram,
} from "../support/samples.ts";
import { typeErrors } from "../support/type-check.ts";

const content = seededBytes(41, 300_000);

const faces = ["node", "bun", "deno", "workers"].map((face) => `adapters/${face}.ts`);

/** What nearly every program uses; each shows how. */
const mostUsed = [
  "createDownloader",
  "startServer",
  "Downloader.downloadPiece",
  "TaskDownloader.downloadTask",
  "TaskDownloader.streamTask",
  "FilePieceStore",
  "MemoryPieceStore",
  "fileSink",
  "memorySink",
  "VortexError",
  "loadConfig",
  "parseConfig",
  "StorageClient",
];

/** Types that are others with every default filled in: what a member means stands there. */
const filledIn: Readonly<Record<string, string>> = {
  DownloaderSettings: "DownloaderOptions",
  ServerSettings: "ServerOptions",
};

/** Samples of README that `readme.test.ts`, `demo.test.ts` and CI run, by heading and language. */
const samplesThatRun = ["See it: sh", "Command line: sh", "One configuration file: yaml"];

if (runtimeName === "node") {
  describe("docs", () => {
    let exported: Promise<Documented[]> | undefined;
    const docs = (): Promise<Documented[]> => {
      exported ??= exportedDocs(faces);
      return exported;
    };

    it("every exported symbol and public member has a docstring", async () => {
      const all = await docs();
      const documented = new Set(all.filter((one) => one.documented).map(({ name }) => name));
      const without = all.filter(({ name }) => {
        const [type = "", member] = name.split(".");
        return !documented.has(name) && !documented.has(`${filledIn[type]}.${member}`);
      });
      assert.equal(without.map(({ name, at }) => `${at} ${name}`).join("\n"), "");
    });

    it("the most used exports have an example", async () => {
      const withExample = new Set((await docs()).filter(({ examples }) => examples.length > 0).map(({ name }) => name));
      assert.equal(mostUsed.filter((name) => !withExample.has(name)).join("\n"), "");
    });

    it("`npm run docs` makes a page for each exported symbol", () =>
      inTempDir(async (directory) => {
        const { code, err } = await runToEnd(["node", join(root, "scripts/docs.mjs"), directory]);
        assert.equal(code, 0, err);
        const files = await readdir(directory, { recursive: true });
        const made = new Set(files.map((path) => basename(path, ".html")));
        const symbols = (await docs()).map(({ name }) => name).filter((name) => !name.includes("."));
        assert.ok(symbols.length > 100);
        assert.equal(symbols.filter((name) => !made.has(name)).join("\n"), "");
      }));

    it("samples of README, docs and docstrings, and the examples, fit the types", async () => {
      const samples: Sample[] = (await docs()).flatMap(({ examples }) => examples);
      for (const page of await pages()) samples.push(...(await samplesOf(page)));
      for (const { page, line, heading, language } of samples) {
        const runs = page === "README.md" && samplesThatRun.includes(`${heading}: ${language}`);
        assert.ok(language === "ts" || runs, `${page}:${line}: a sample in "${language}" that nothing checks`);
      }
      const programs = (await readdir(join(root, "examples"))).filter((name) => /^(?!deno-).*\.ts$/.test(name));
      const typed = samples.filter(({ language }) => language === "ts");
      const files = programs.map((name) => `examples/${name}`);
      assert.equal((await typeErrors(typed, files)).join("\n"), "");
    });

    it("docs/dragonfly-cluster.md: a task comes from parents that tell where they serve it", () =>
      withPeer(taskIdOfUrl({ url: "https://example.com/model.safetensors" }), ({ grpc }) =>
        inTempDir(async (directory) => {
          const file = join(directory, "model.safetensors");
          const code = (await sampleUnder("docs/dragonfly-cluster.md", "Fetch a task from stock peers", "ts"))
            .replaceAll(/10\.0\.0\.[78]:4000/g, grpc)
            .replace('"model.safetensors"', JSON.stringify(file));
          await runSample(code);
          assert.deepEqual(new Uint8Array(await readFile(file)), content);
        }),
      ));

    it("docs/dragonfly-cluster.md: a parent starts and ends", () =>
      inTempDir(async (directory) => {
        const file = join(directory, "model.safetensors");
        await writeFile(file, content);
        const code = (await sampleUnder("docs/dragonfly-cluster.md", "Be a parent in a cluster", "ts"))
          .replace('"model.safetensors"', JSON.stringify(file))
          .replace("{ store,", '{ store, host: "127.0.0.1",')
          .replaceAll(/port: 40\d\d/g, "port: 0");
        assert.equal(await runSample(code), "");
      }));

    it("docs/from-rust.md: a dfdaemon.yaml as it is", () =>
      inTempDir(async (directory) => {
        const file = join(directory, "dfdaemon.yaml");
        const ports =
          "storage:\n  server:\n    ip: 127.0.0.1\n    tcpPort: 0\n    quicPort: 0\nupload:\n  server:\n    port: 0\n";
        await writeFile(file, `${ports}log:\n  level: info\n`);
        const code = await sampleUnder("docs/from-rust.md", "Configuration", "ts");
        assert.equal(await runSample(code.replace('"dfdaemon.yaml"', JSON.stringify(file))), "");
      }));

    it("docs/from-rust.md: a piece", () =>
      withPeer("ab".repeat(32), async ({ tcp }) => {
        const code = (await sampleUnder("docs/from-rust.md", "Fetching pieces", "ts"))
          .replace("10.0.0.7:4005", tcp)
          .replace(/[0-9a-f]{64}/, "ab".repeat(32));
        assert.match(await runSample(code), new RegExp(`^0 crc32:\\d+ ${content.length}\n$`));
      }));

    it("Deno's example fits Deno's types", () =>
      inTempDir(async (directory) => {
        const [deno = ""] = runners.deno;
        const file = await writeExample(directory, "examples/deno-fetch-piece.ts", "deno");
        const { code, err } = await runToEnd([deno, "check", "--quiet", "--config", join(root, "deno.json"), file]);
        assert.equal(code, 0, err);
      }));
  });
}

/** What a sample prints; it has to end well. */
function runSample(code: string): Promise<string> {
  return inTempDir(async (directory) => {
    const program = await writeProgram(directory, "sample.mts", code);
    const { code: status, out, err } = await runToEnd([...runner, program]);
    assert.deepEqual([status, err], [0, ""], out);
    return out;
  });
}

async function withPeer(
  taskId: string,
  use: (addresses: { readonly tcp: string; readonly grpc: string }) => Promise<void>,
): Promise<void> {
  const store = new MemoryPieceStore();
  store.putTask(taskId, content);
  const server = await startServer({ store, host: "127.0.0.1", tcp: { port: 0 }, grpc: { port: 0 } });
  try {
    const { tcp, grpc } = server.addresses;
    assert.ok(tcp !== undefined && grpc !== undefined);
    await use({ tcp: formatAddress(tcp), grpc: formatAddress(grpc) });
  } finally {
    await server.close({ grace: 0 });
  }
}
