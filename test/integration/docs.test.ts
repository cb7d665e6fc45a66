/**
 * Documentation for users: docstrings are complete, and samples and examples type-check. This does
 * not depend on the runtime, so it is tested on Node only.
 *
 * `readme.test.ts` runs README's samples on each runtime. `examples.test.ts` runs each example on
 * the runtime that it is written for.
 */
import assert from "node:assert/strict";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { describe, it } from "node:test";
import { pathToFileURL } from "node:url";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { exitCodeOf } from "../../cli/exit-codes.ts";
import { startServer } from "../../entry/node.ts";
import { type ConfigKey, configKeys, keys, ownSection } from "../../src/config/keys.ts";
import { errorCodes, VortexError } from "../../src/errors.ts";
import { taskIdOfUrl } from "../../src/ids.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
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

/** Lists the source file of each subpath of the package. */
async function entries(): Promise<string[]> {
  const { exports } = JSON.parse(await readFile(join(root, "deno.json"), "utf8")) as {
    readonly exports: Readonly<Record<string, string>>;
  };
  return [...new Set(Object.values(exports))].map((file) => file.replace("./", ""));
}

/** Exports used by nearly every program; each needs an example. */
const mostUsed = [
  "createDownloader",
  "startServer",
  "Downloader.downloadPiece",
  "Downloader.downloadTask",
  "Downloader.streamTask",
  "FilePieceStore",
  "MemoryPieceStore",
  "fileSink",
  "memorySink",
  "VortexError",
  "loadConfig",
  "parseConfig",
  "StorageClient",
];

/** Settings types, and the options types whose members document theirs. */
const documentedBy: Readonly<Record<string, string>> = {
  DownloaderSettings: "TransferOptions",
  ServerSettings: "ServerOptions",
};

/**
 * Samples of each page that are run, as `heading: language`. README's are run by `readme.test.ts`
 * and `demo.test.ts`; its npm commands by CI and `npm run test:package`. All others are run below.
 */
const samplesThatRun: Readonly<Record<string, readonly string[]>> = {
  "README.md": [
    "See it: sh",
    "See it: sh",
    "Install: sh",
    "Fetch a piece: ts",
    "Fetch a task: ts",
    "Serve a file: ts",
    "Command line: sh",
    "One configuration file: yaml",
    "One configuration file: ts",
  ],
  "docs/dragonfly-cluster.md": [
    "Fetch a task from dfdaemon: ts",
    "Be a parent in a cluster: ts",
    "TLS: ts",
  ],
  "docs/errors.md": ["Errors: ts", "In logs: json"],
  "docs/from-rust.md": ["Fetching pieces: ts", "Configuration: ts"],
  "docs/tasks.md": [
    "Watch and pause a download: ts",
    "Read a task in order: ts",
    "Answer an HTTP request with a task: ts",
    "OpenTelemetry: ts",
  ],
  "docs/tuning.md": ["Tuning: ts"],
};

if (runtimeName === "node") {
  describe("docs", () => {
    let exported: Promise<Documented[]> | undefined;
    const docs = (): Promise<Documented[]> => {
      exported ??= entries().then(exportedDocs);
      return exported;
    };

    it("every exported symbol and public member has a docstring", async () => {
      const all = await docs();
      const documented = new Set(all.filter((one) => one.documented).map(({ name }) => name));
      const without = all.filter(({ name }) => {
        const [type = "", member] = name.split(".");
        return !documented.has(name) && !documented.has(`${documentedBy[type]}.${member}`);
      });
      assert.equal(without.map(({ name, at }) => `${at} ${name}`).join("\n"), "");
    });

    it("the most used exports have an example in their docstring", async () => {
      const withExample = new Set(
        (await docs()).filter(({ examples }) => examples.length > 0).map(({ name }) => name),
      );
      assert.equal(mostUsed.filter((name) => !withExample.has(name)).join("\n"), "");
    });

    it("`npm run docs` creates a page for each exported symbol", () =>
      inTempDir(async (directory) => {
        const { code, err } = await runToEnd(["node", join(root, "scripts/docs.mjs"), directory]);
        assert.equal(code, 0, err);
        const files = await readdir(directory, { recursive: true });
        const made = new Set(files.map((path) => basename(path, ".html")));
        const symbols = (await docs())
          .map(({ name }) => name)
          .filter((name) => !name.includes("."));
        assert.ok(symbols.length > 100);
        assert.equal(symbols.filter((name) => !made.has(name)).join("\n"), "");
      }));

    it("samples of README, docs and docstrings, and the examples, type-check", async () => {
      const samples: Sample[] = (await docs()).flatMap(({ examples }) => examples);
      for (const page of await pages()) samples.push(...(await samplesOf(page)));
      for (const { page, line, language } of samples)
        assert.ok(
          language === "ts" || page.endsWith(".md"),
          `${page}:${line}: a docstring's sample is in TypeScript`,
        );
      const programs = (await readdir(join(root, "examples"))).filter((name) =>
        /^(?!deno-).*\.ts$/.test(name),
      );
      const typed = samples.filter(({ language }) => language === "ts");
      const files = programs.map((name) => `examples/${name}`);
      assert.equal((await typeErrors(typed, files)).join("\n"), "");
    });

    it("every sample of README and docs is run by a test", async () => {
      for (const page of await pages()) {
        const names = (await samplesOf(page)).map(
          ({ heading, language }) => `${heading}: ${language}`,
        );
        assert.deepEqual(names, samplesThatRun[page] ?? [], page);
      }
    });

    it("docs/errors.md: an error in JSON has the form of the sample", async () => {
      const sample = JSON.parse(await sampleUnder("docs/errors.md", "In logs", "json"));
      const { code, message, addr } = sample;
      const cause = Object.assign(new Error(sample.cause.message), { code: sample.cause.code });
      const error = new VortexError(code, message, { addr, cause });
      assert.deepEqual(JSON.parse(JSON.stringify(error)), sample);
    });

    it("the samples of docs that need one peer or none run", () =>
      withPeer(
        "ab".repeat(32),
        ({ tcp }) =>
          inTempDir(async (directory) => {
            const { cert, key } = await selfSigned();
            const files = {
              "ca.pem": cert,
              "client.pem": cert,
              "client-key.pem": key,
              "model.safetensors": content,
            };
            for (const [name, text] of Object.entries(files))
              await writeFile(join(directory, name), text);
            const samples = [
              ["docs/tasks.md", "Watch and pause a download"],
              ["docs/tasks.md", "Read a task in order"],
              ["docs/tasks.md", "Answer an HTTP request with a task"],
              ["docs/tasks.md", "OpenTelemetry"],
              ["docs/errors.md", "Errors"],
              ["docs/tuning.md", "Tuning"],
              ["docs/dragonfly-cluster.md", "TLS"],
              ["docs/dragonfly-cluster.md", "Be a parent in a cluster"],
              ["docs/from-rust.md", "Fetching pieces"],
            ] as const;
            // One process runs all of them in sequence.
            const programs: string[] = [];
            for (const [page, heading] of samples) {
              const code = (await sampleUnder(page, heading, "ts"))
                .replace('"10.0.0.7:4005", "10.0.0.8:4005"', JSON.stringify(tcp))
                .replaceAll("10.0.0.7:4005", tcp)
                .replace(/7b1a[0-9a-f]{60}/, "ab".repeat(32))
                .replace(/"([\w-]+\.(?:pem|safetensors))"/g, (_, name) =>
                  JSON.stringify(join(directory, name)),
                )
                .replace("{ store,", '{ store, host: "127.0.0.1",')
                .replaceAll(/port: 40\d\d/g, "port: 0");
              programs.push(await writeProgram(directory, `sample-${programs.length}.mts`, code));
            }
            const all = programs
              .map((file) => `await import(${JSON.stringify(pathToFileURL(file).href)});\n`)
              .join("");
            const {
              code: status,
              out,
              err,
            } = await runToEnd([...runner, await writeProgram(directory, "all.mts", all)]);
            assert.equal(status, 0, err);
            assert.match(err, /^4200000 of 4200000 bytes, \d+ a second, /m);
            assert.deepEqual(
              out
                .replace(/crc32:\d+/, "crc32:…")
                .trim()
                .split("\n")
                .sort(),
              [
                "0 crc32:… 4194304",
                "4194304 bytes",
                "4200000 bytes; from each parent: 4200000",
                "500000 bytes",
                "NotFound (remote)",
                `piece 0 from ${tcp}`,
                `piece 1 from ${tcp}`,
              ],
            );
          }),
        seededBytes(42, 4_200_000),
      ));

    it("docs/errors.md lists every code, kind and exit code of src/errors.ts and the command", async () => {
      const source = await readFile(join(root, "src/errors.ts"), "utf8");
      const described = [...source.matchAll(/\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\s+\| "(\w+)"/g)].map(
        ([, docstring = "", code]) => [code, docstring.replace(/\s*\n\s*\*?\s*/g, " ").trim()],
      );
      const codes = errorCodes.map((code) => [
        `\`${code}\``,
        `\`${new VortexError(code, "").kind}\``,
      ]);
      assert.deepEqual(
        await rowsUnder("docs/errors.md", "Codes"),
        codes.map((cells, index) => [...cells, described[index]?.[1]]),
      );
      assert.deepEqual(
        described.map(([code]) => code),
        errorCodes,
      );

      const kinds = [...source.matchAll(/^ \* - (`\w+`): (.*?)\. (.*)\.$/gm)].map(
        ([, ...cells]) => cells,
      );
      const exitCode = (kind = ""): string => {
        const code = errorCodes.find((one) => `\`${new VortexError(one, "").kind}\`` === kind);
        assert.ok(code !== undefined, kind);
        return String(exitCodeOf(new VortexError(code, "")));
      };
      assert.deepEqual(
        await rowsUnder("docs/errors.md", "Kinds"),
        kinds.map((cells) => [...cells, exitCode(cells[0])]),
      );
      assert.equal(
        kinds.length,
        new Set(errorCodes.map((code) => new VortexError(code, "").kind)).size,
      );
    });

    it("docs/tuning.md lists every option of QUIC and of the pool", async () => {
      const members = (type: string): Promise<string[]> =>
        docs().then((all) =>
          all
            .flatMap(({ name }) =>
              name.startsWith(`${type}.`) ? [name.slice(type.length + 1)] : [],
            )
            .sort(),
        );
      const options = async (heading: string): Promise<string[]> =>
        (await rowsUnder("docs/tuning.md", heading))
          .map(([option = ""]) => option.replaceAll("`", ""))
          .sort();
      assert.deepEqual(await options("QUIC"), await members("QuicTuning"));
      assert.deepEqual(await options("Connections"), await members("PoolOptions"));
    });

    it("docs/tasks.md lists every event", async () => {
      const source = await readFile(join(root, "src/task/task.ts"), "utf8");
      const types = [
        ...source
          .slice(source.indexOf("export type TaskEvent"))
          .matchAll(/readonly type: "(.*?)"/g),
      ];
      const listed = (await rowsUnder("docs/tasks.md", "Watch and pause a download")).map(
        ([name = ""]) => name,
      );
      for (const [, type] of types) assert.ok(listed.includes(`\`${type}\``), type);
      assert.ok(types.length > 0);
    });

    it("docs/tuning.md and docs/from-rust.md list every configuration key with its default", async () => {
      const own = await rowsUnder("docs/tuning.md", "In a configuration file");
      const defaults = configKeys
        .filter((key) => key.startsWith(`${ownSection}.`))
        .map((key) => [`\`${key}\``, defaultOf(key) === "" ? "–" : `\`${defaultOf(key)}\``]);
      assert.deepEqual(own, defaults);

      // In docs/from-rust.md, keys of one section share a row: `upload.server.caCert`, `cert`,
      // `key`.
      const shared = (await rowsUnder("docs/from-rust.md", "Configuration")).flatMap(
        ([names = ""]) => {
          const [first = "", ...others] = names.replaceAll("`", "").split(", ");
          const section = first.slice(0, first.lastIndexOf(".") + 1);
          return [first, ...others.map((name) => (name.includes(".") ? name : section + name))];
        },
      );
      const stock = configKeys.filter((key) => !key.startsWith(`${ownSection}.`));
      assert.deepEqual(shared.sort(), [...stock].sort());
    });

    it("docs/dragonfly-cluster.md: the sample fetches a task from parents that announce its pieces", () =>
      withPeer(taskIdOfUrl({ url: "https://example.com/model.safetensors" }), ({ grpc }) =>
        inTempDir(async (directory) => {
          const file = join(directory, "model.safetensors");
          const code = (
            await sampleUnder("docs/dragonfly-cluster.md", "Fetch a task from dfdaemon", "ts")
          )
            .replaceAll(/10\.0\.0\.[78]:4000/g, grpc)
            .replace('"model.safetensors"', JSON.stringify(file));
          await runSample(code);
          assert.deepEqual(new Uint8Array(await readFile(file)), content);
        }),
      ));

    it("docs/from-rust.md: the sample runs with an unchanged dfdaemon.yaml", () =>
      inTempDir(async (directory) => {
        const file = join(directory, "dfdaemon.yaml");
        const ports =
          "storage:\n  server:\n    ip: 127.0.0.1\n    tcpPort: 0\n    quicPort: 0\nupload:\n  server:\n    port: 0\n";
        await writeFile(file, `${ports}log:\n  level: info\n`);
        const code = await sampleUnder("docs/from-rust.md", "Configuration", "ts");
        assert.equal(await runSample(code.replace('"dfdaemon.yaml"', JSON.stringify(file))), "");
      }));

    it("Deno's example type-checks with Deno's types", () =>
      inTempDir(async (directory) => {
        const [deno = ""] = runners.deno;
        const file = await writeExample(directory, "examples/deno-fetch-piece.ts", "deno");
        const { code, err } = await runToEnd([
          deno,
          "check",
          "--quiet",
          "--config",
          join(root, "deno.json"),
          file,
        ]);
        assert.equal(code, 0, err);
      }));
  });
}

/** Runs a sample and returns its output. Fails unless it exits with 0. */
function runSample(code: string): Promise<string> {
  return inTempDir(async (directory) => {
    const program = await writeProgram(directory, "sample.mts", code);
    const { code: status, out, err } = await runToEnd([...runner, program]);
    assert.deepEqual([status, err], [0, ""], out);
    return out;
  });
}

/** Returns the cells of each table row under a heading of a page, without the header rows. */
async function rowsUnder(page: string, heading: string): Promise<string[][]> {
  const text = await readFile(join(root, page), "utf8");
  const [, section = ""] = text.split(new RegExp(`^#+ ${heading}$`, "m"));
  const lines = section.split(/^#+ /m)[0]?.split("\n") ?? [];
  return lines
    .filter(
      (line, index) =>
        line.startsWith("| ") &&
        !line.startsWith("| ---") &&
        !lines[index + 1]?.startsWith("| ---"),
    )
    .map((line) => line.slice(2, -2).split(" | "));
}

/** The default of a key as a file would have it; empty without one. */
function defaultOf<Key extends ConfigKey>(key: Key): string {
  const { defaultValue, format } = keys[key];
  return format(defaultValue);
}

async function withPeer(
  taskId: string,
  use: (addresses: { readonly tcp: string; readonly grpc: string }) => Promise<void>,
  served: Uint8Array = content,
): Promise<void> {
  const store = new MemoryPieceStore();
  store.putTask(taskId, served);
  const server = await startServer({
    store,
    host: "127.0.0.1",
    tcp: { port: 0 },
    grpc: { port: 0 },
  });
  try {
    const { tcp, grpc } = server.addresses;
    assert.ok(tcp !== undefined && grpc !== undefined);
    await use({ tcp: formatAddress(tcp), grpc: formatAddress(grpc) });
  } finally {
    await server.close({ grace: 0 });
  }
}
