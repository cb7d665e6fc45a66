/** The library and the command with exactly the permissions that docs/permissions.md lists, and without each of them. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, writeFileSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { after, describe, it } from "node:test";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { runtimeName } from "../support/fixtures.ts";
import { seededBytes } from "../support/random.ts";
import { type Outcome, root, runner, runToEnd, startProgram } from "../support/run.ts";
import { runtimeFace } from "../support/runtime-face.ts";

const content = seededBytes(17, 200_000);
const taskId = createHash("sha256").update(content).digest("hex");
const lengths = ["--task-id", taskId, "--content-length", String(content.length)];
/** A port to listen on that is hardly taken, since a permission names it. */
const port = 20_000 + (process.pid % 20_000);
const patience = { timeout: 110_000 };

/** What a use needs to be run. */
interface Setting {
  readonly folder: string;
  readonly file: string;
  readonly addresses: { readonly quic: string; readonly tcp: string; readonly grpc: string };
  readonly fingerprint: string;
}

/** A use that the page lists: the words of a program, and the address that it talks to or listens on. */
interface Use {
  readonly words: (setting: Setting) => readonly string[];
  readonly address?: (setting: Setting) => string;
  /** It listens until it is ended. */
  readonly serves?: true;
}

const main = "cli/main.ts";
const program = "test/support/permission-use.ts";
const local = `127.0.0.1:${port}`;
const anyPorts = ["--host", "127.0.0.1", "--json"];

/** The uses of a line of the page, by its first cell. */
const uses: Readonly<Record<string, readonly Use[]>> = {
  "`get` and `streamTask`, over TCP or gRPC": [
    {
      words: ({ addresses }) => [main, "get", "--peer", addresses.tcp, ...lengths],
      address: (s) => s.addresses.tcp,
    },
    {
      words: ({ addresses }) => [
        main,
        "get",
        "--peer",
        addresses.grpc,
        "--protocol",
        "grpc",
        "--task-id",
        taskId,
      ],
      address: (s) => s.addresses.grpc,
    },
  ],
  "`get` and `streamTask`, over QUIC": [
    {
      words: ({ addresses: { quic }, fingerprint }) => [
        ...[
          main,
          "get",
          "--peer",
          quic,
          "--protocol",
          "quic",
          "--fingerprint",
          fingerprint,
          ...lengths,
        ],
      ],
      address: (s) => s.addresses.quic,
    },
  ],
  "`get -o FILE` and `fileSink`": [
    {
      words: ({ addresses, folder }) => [
        ...[main, "get", "--peer", addresses.tcp, ...lengths, "-o", join(folder, "output")],
      ],
      address: (s) => s.addresses.tcp,
    },
    {
      words: ({ addresses, folder }) => {
        const request = {
          taskId,
          hostId: "test",
          parents: [addresses.tcp],
          contentLength: content.length,
        };
        return [program, "fileSink", JSON.stringify({ request, path: join(folder, "output") })];
      },
      address: (s) => s.addresses.tcp,
    },
  ],
  "`piece` and `downloadPiece`": [
    {
      words: ({ addresses }) => [
        main,
        "piece",
        "--peer",
        addresses.tcp,
        "--task-id",
        taskId,
        "--number",
        "0",
      ],
      address: (s) => s.addresses.tcp,
    },
  ],
  "`stat` and `statTask`": [
    {
      words: ({ addresses }) => [
        main,
        "stat",
        "--peer",
        addresses.grpc,
        "--task-id",
        taskId,
        "--listen",
        "10ms",
      ],
      address: (s) => s.addresses.grpc,
    },
  ],
  "`serve --no-quic` and `startServer` with a `FilePieceStore`": [
    {
      words: ({ file }) => [
        main,
        "serve",
        file,
        "--no-quic",
        "--no-grpc",
        "--tcp-port",
        String(port),
        ...anyPorts,
      ],
      address: () => local,
      serves: true,
    },
    {
      words: ({ file }) => [
        main,
        "serve",
        file,
        "--no-quic",
        "--no-tcp",
        "--grpc-port",
        String(port),
        ...anyPorts,
      ],
      address: () => local,
      serves: true,
    },
  ],
  "`serve --no-identity`, over QUIC": [
    {
      words: ({ file }) => [
        ...[
          main,
          "serve",
          file,
          "--no-tcp",
          "--no-grpc",
          "--quic-port",
          String(port),
          "--no-identity",
          ...anyPorts,
        ],
      ],
      address: () => local,
      serves: true,
    },
  ],
  "`serve --identity FOLDER/FILE` and `fileIdentityStore`": [
    {
      words: ({ file, folder }) => {
        const identity = join(folder, "identity.pem");
        const quic = ["--no-tcp", "--no-grpc", "--quic-port", String(port), "--identity", identity];
        return [main, "serve", file, ...quic, ...anyPorts];
      },
      address: () => local,
      serves: true,
    },
  ],
  "`id content FILE`": [{ words: ({ file }) => [main, "id", "content", file] }],
  "`id host`": [{ words: () => [main, "id", "host", "--ip", "10.0.0.1"] }],
  "`config --config FILE` and `loadConfig(FILE)` [1]": [
    { words: ({ file }) => [main, "config", "--config", `${file}.yaml`] },
    { words: ({ file }) => [program, "loadConfig", `${file}.yaml`] },
  ],
  "`loadConfig()`": [{ words: () => [program, "loadConfig", ""] }],
  "`--help`, `--version`, `config`": [
    { words: () => [main, "--help"] },
    { words: () => [main, "--version"] },
    { words: () => [main, "config"] },
  ],
};

const table = (await readFile(join(root, "docs/permissions.md"), "utf8"))
  .split("\n")
  .flatMap((line) => {
    const [, use, flags] = /^\| (.*) \| (none|`--.*`) \|$/.exec(line) ?? [];
    return use === undefined || flags === undefined
      ? []
      : [{ use, flags: flags.replace("none", "").replaceAll("`", "") }];
  });

it("docs/permissions.md lists the uses that are tested here", () => {
  assert.deepEqual(
    table.map(({ use }) => use),
    Object.keys(uses),
  );
});

/** Deno under another name: its node:child_process gives all permissions to a program that is started by its own path. */
const disguised = join(mkdtempSync(join(tmpdir(), "vortex-permissions-")), "deno");
writeFileSync(disguised, `#!/bin/sh\nexec '${process.execPath}' "$@"\n`, { mode: 0o755 });
after(() => rm(dirname(disguised), { recursive: true }));

const noDeno = runtimeName === "deno" ? "" : " [gap: permissions of this form are Deno's]";

describe(`Deno's permissions${noDeno}`, { skip: noDeno !== "" }, () => {
  for (const { use, flags } of table) {
    it(`${use}: ${flags || "none"}`, patience, () =>
      withSetting(async (setting) => {
        for (const { words, address, serves } of uses[use] ?? []) {
          const given = flags
            .split(" ")
            .filter(Boolean)
            .map((flag) =>
              flag
                .replace("HOST:PORT", address?.(setting) ?? "")
                .replace("FOLDER", setting.folder)
                .replace("FILE", use.includes("--config") ? `${setting.file}.yaml` : setting.file),
            );
          const run = async (allowed: readonly string[]): Promise<Outcome> => {
            await rm(setting.folder, { recursive: true });
            await mkdir(setting.folder);
            return (serves ? untilReady : runToEnd)([...denoWith(allowed), ...words(setting)]);
          };
          const all = await run(given);
          assert.equal(all.code, 0, `${words(setting).join(" ")}: ${all.err}${all.out}`);
          assert.doesNotMatch(`${all.out}${all.err}`, /PermissionDenied|NotCapable/);
          for (const missing of given.filter((flag) => flag.startsWith("--allow-"))) {
            const [name = ""] = missing.split("=");
            const { out, err } = await run(given.filter((flag) => flag !== missing));
            const text = `${out}${err}`;
            assert.match(
              text,
              /^(vortex-peer: )?PermissionDenied: [^\n]*\n$/,
              `${words(setting).join(" ")} without ${missing}`,
            );
            assert.ok(text.includes(name), text);
          }
        }
      }),
    );
  }

  it("goes on without what is nice to know only", patience, () =>
    withSetting(async ({ folder }) => {
      const { code, out } = await runToEnd([
        ...denoWith([`--allow-read=${folder}`, `--allow-write=${folder}`]),
        ...[program, "openSink", join(folder, "output")],
      ]);
      assert.deepEqual([code, out], [0, "done\n"]);
    }),
  );

  it("leaves out a parent that may not be dialled, and fetches from another", patience, () =>
    withSetting(async ({ addresses }) => {
      const peers = ["--peer", "127.0.0.2:1", "--peer", addresses.tcp];
      const { code, err } = await runToEnd([
        ...denoWith([`--allow-net=${addresses.tcp}`]),
        ...[main, "get", ...peers, ...lengths, "--verbose"],
      ]);
      assert.equal(code, 0, err);
      assert.match(err, /127\.0\.0\.2:1 is left out: PermissionDenied/);
    }),
  );

  it(
    "listening at a name asks for its address too, and does not end the process",
    patience,
    async () => {
      for (const [flags, expected] of [
        [[], /^PermissionDenied: .*--allow-net=localhost\n$/],
        [[`--allow-net=localhost:${port}`], /^PermissionDenied: .*--allow-net=(127|\[::1)\S+\n$/],
        [[`--allow-net=localhost:${port},127.0.0.1:${port},[::1]:${port}`], /^done\n$/],
      ] as const) {
        const { code, out, err } = await runToEnd([
          ...denoWith(flags),
          program,
          "listen",
          `localhost ${port}`,
        ]);
        assert.deepEqual([code, err], [0, ""]);
        assert.match(out, expected);
      }
    },
  );
});

const noModel = runtimeName === "node" ? "" : " [gap: permissions of this form are Node's]";

it(
  `Node's permissions: a refused file is PermissionDenied, with the flag${noModel}`,
  { ...patience, skip: noModel !== "" },
  () =>
    withSetting(async ({ folder, file }) => {
      const model = process.allowedNodeEnvironmentFlags.has("--permission")
        ? "--permission"
        : "--experimental-permission";
      const [node = "", ...words] = runner;
      const run = async (flags: readonly string[], ...use: string[]): Promise<string> =>
        (await runToEnd([node, model, "--allow-worker", ...flags, ...words, program, ...use])).out;
      const path = join(folder, "output");
      assert.match(
        await run(["--allow-fs-read=*"], "openSink", path),
        /^PermissionDenied: .*: run again with --allow-fs-write\n$/,
      );
      const both = ["--allow-fs-read=*", `--allow-fs-write=${folder}/*`];
      assert.equal(await run(both, "openSink", path), "done\n");
      const code = [`--allow-fs-read=${root}*`];
      const unread = await run(code, "fileStore", file);
      assert.match(
        unread,
        /^PermissionDenied: \S+ cannot be opened: .*: run again with --allow-fs-read\n$/,
      );
    }),
);

/** The words that run a program on Deno with some permissions and no others, and without a question. */
function denoWith(flags: readonly string[]): string[] {
  return [disguised, "run", "--no-prompt", "--no-check", "--config", `${root}deno.json`, ...flags];
}

/** Runs a server until it has printed a line; one that does not get as far ends by itself. */
async function untilReady(command: readonly string[]): Promise<Outcome> {
  const server = startProgram(command);
  const line = await server.line().catch(() => undefined);
  if (line === undefined || line.includes('"failed"')) {
    const { out, ...outcome } = await server.ended;
    const { code, message } = JSON.parse(out) as {
      readonly code: string;
      readonly message: string;
    };
    return { ...outcome, out: `${code}: ${message}\n` };
  }
  server.kill("SIGTERM");
  const { code, err } = await server.ended;
  return { code, out: "", err };
}

/** Runs a test with a peer of each protocol, a folder to write in, and files to read. */
async function withSetting(use: (setting: Setting) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-permissions-"));
  const store = new MemoryPieceStore(nativeHashers);
  store.putTask(taskId, content);
  const { startServer } = await runtimeFace();
  const host = "127.0.0.1";
  const quic = runtimeName === "deno" && { quic: { port: 0 } };
  const server = await startServer({ store, host, tcp: { port: 0 }, grpc: { port: 0 }, ...quic });
  try {
    const folder = join(directory, "folder");
    await mkdir(folder);
    const file = join(directory, "file");
    await writeFile(file, content);
    await writeFile(`${file}.yaml`, "download:\n  protocol: tcp\n");
    const none = { host, port: 1 };
    const { quic: quicAddress = none, tcp = none, grpc = none } = server.addresses;
    const addresses = {
      quic: formatAddress(quicAddress),
      tcp: formatAddress(tcp),
      grpc: formatAddress(grpc),
    };
    await use({ folder, file, addresses, fingerprint: server.fingerprint ?? "" });
  } finally {
    await server.close();
    await rm(directory, { recursive: true });
  }
}
