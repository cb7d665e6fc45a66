/**
 * Runs the library and the command with exactly the permissions of docs/permissions.md, and without
 * each one.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, writeFileSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { after, describe, it } from "node:test";
import { nativeHashers } from "../../adapters/shared/native-hashers.ts";
import { memoryPieceStoreWith } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { runtimeName } from "../support/fixtures.ts";
import { seededBytes } from "../support/random.ts";
import { type Outcome, root, runner, runToEnd, startProgram } from "../support/run.ts";
import { runtimeEntry } from "../support/runtime-entry.ts";

const content = seededBytes(17, 200_000);
const taskId = createHash("sha256").update(content).digest("hex");
const lengths = ["--task-id", taskId, "--content-length", String(content.length)];
/** Fixed port to listen on, because a permission names it; unlikely to be taken. */
const port = 20_000 + (process.pid % 20_000);
const testOptions = { timeout: 110_000 };

/** Files and addresses available to a use. */
interface TestFiles {
  readonly folder: string;
  readonly file: string;
  readonly addresses: { readonly quic: string; readonly tcp: string; readonly grpc: string };
  readonly fingerprint: string;
}

/** Use listed in the page: a command line, and the address that it dials or listens on. */
interface Use {
  readonly command: (setting: TestFiles) => readonly string[];
  readonly address?: (setting: TestFiles) => string;
  /** Set if the program serves until it is ended. */
  readonly serves?: true;
}

const main = "cli/main.ts";
const program = "test/support/permission-use.ts";
const local = `127.0.0.1:${port}`;
const anyPorts = ["--host", "127.0.0.1", "--json"];

/** Uses of each table row of the page, by the row's first cell. */
const uses: Readonly<Record<string, readonly Use[]>> = {
  "`get` and `streamTask`, over TCP or gRPC": [
    {
      command: ({ addresses }) => [main, "get", "--peer", addresses.tcp, ...lengths],
      address: (s) => s.addresses.tcp,
    },
    {
      command: ({ addresses }) => [
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
      command: ({ addresses: { quic }, fingerprint }) => [
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
      command: ({ addresses, folder }) => [
        ...[main, "get", "--peer", addresses.tcp, ...lengths, "-o", join(folder, "output")],
      ],
      address: (s) => s.addresses.tcp,
    },
    {
      command: ({ addresses, folder }) => {
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
      command: ({ addresses }) => [
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
      command: ({ addresses }) => [
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
      command: ({ file }) => [
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
      command: ({ file }) => [
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
      command: ({ file }) => [
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
      command: ({ file, folder }) => {
        const identity = join(folder, "identity.pem");
        const quic = ["--no-tcp", "--no-grpc", "--quic-port", String(port), "--identity", identity];
        return [main, "serve", file, ...quic, ...anyPorts];
      },
      address: () => local,
      serves: true,
    },
  ],
  "`id content FILE`": [{ command: ({ file }) => [main, "id", "content", file] }],
  "`id host`": [{ command: () => [main, "id", "host", "--ip", "10.0.0.1"] }],
  "`config --config FILE` and `loadConfig(FILE)` [1]": [
    { command: ({ file }) => [main, "config", "--config", `${file}.yaml`] },
    { command: ({ file }) => [program, "loadConfig", `${file}.yaml`] },
  ],
  "`loadConfig()`": [{ command: () => [program, "loadConfig", ""] }],
  "`--help`, `--version`, `config`": [
    { command: () => [main, "--help"] },
    { command: () => [main, "--version"] },
    { command: () => [main, "config"] },
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

it("docs/permissions.md lists exactly the uses tested here", () => {
  assert.deepEqual(
    table.map(({ use }) => use),
    Object.keys(uses),
  );
});

/**
 * Wrapper script for Deno: its node:child_process grants all permissions to a child at Deno's own
 * path.
 */
const denoWrapper = join(mkdtempSync(join(tmpdir(), "vortex-permissions-")), "deno");
writeFileSync(denoWrapper, `#!/bin/sh\nexec '${process.execPath}' "$@"\n`, { mode: 0o755 });
after(() => rm(dirname(denoWrapper), { recursive: true }));

const noDeno = runtimeName === "deno" ? "" : " [gap: permissions of this form are Deno's]";

describe(`Deno's permissions${noDeno}`, { skip: noDeno !== "" }, () => {
  for (const { use, flags } of table) {
    it(`${use}: ${flags || "none"}`, testOptions, () =>
      withTestFiles(async (setting) => {
        for (const { command, address, serves } of uses[use] ?? []) {
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
            return (serves ? untilReady : runToEnd)([...denoWith(allowed), ...command(setting)]);
          };
          const all = await run(given);
          assert.equal(all.code, 0, `${command(setting).join(" ")}: ${all.err}${all.out}`);
          assert.doesNotMatch(`${all.out}${all.err}`, /PermissionDenied|NotCapable/);
          for (const missing of given.filter((flag) => flag.startsWith("--allow-"))) {
            const [name = ""] = missing.split("=");
            const { out, err } = await run(given.filter((flag) => flag !== missing));
            const text = `${out}${err}`;
            assert.match(
              text,
              /^(vortex-peer: )?PermissionDenied: [^\n]*\n$/,
              `${command(setting).join(" ")} without ${missing}`,
            );
            assert.ok(text.includes(name), text);
          }
        }
      }),
    );
  }

  it("works without the optional permissions", testOptions, () =>
    withTestFiles(async ({ folder }) => {
      const { code, out } = await runToEnd([
        ...denoWith([`--allow-read=${folder}`, `--allow-write=${folder}`]),
        ...[program, "openSink", join(folder, "output")],
      ]);
      assert.deepEqual([code, out], [0, "done\n"]);
    }),
  );

  it("skips a parent without a permission to dial it, and fetches from another", testOptions, () =>
    withTestFiles(async ({ addresses }) => {
      const peers = ["--peer", "127.0.0.2:1", "--peer", addresses.tcp];
      const { code, err } = await runToEnd([
        ...denoWith([`--allow-net=${addresses.tcp}`]),
        ...[main, "get", ...peers, ...lengths, "--verbose"],
      ]);
      assert.equal(code, 0, err);
      assert.match(err, /excluding 127\.0\.0\.2:1: PermissionDenied/);
    }),
  );

  it(
    "listening at a host name also needs a permission for its address, and fails without a crash",
    testOptions,
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

const noNodePermissions =
  runtimeName === "node" ? "" : " [gap: permissions of this form are Node's]";

it(
  `Node's permissions: a refused file causes PermissionDenied that names the flag${noNodePermissions}`,
  { ...testOptions, skip: noNodePermissions !== "" },
  () =>
    withTestFiles(async ({ folder, file }) => {
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
        /^PermissionDenied: cannot open \S+: .*: run again with --allow-fs-read\n$/,
      );
    }),
);

/** Command prefix that runs a program on Deno with only the given permissions, without prompts. */
function denoWith(flags: readonly string[]): string[] {
  return [
    denoWrapper,
    "run",
    "--no-prompt",
    "--no-check",
    "--config",
    `${root}deno.json`,
    ...flags,
  ];
}

/** Runs a server until it prints a line or exits, and returns its outcome. */
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

/** Runs `use` with a peer for each protocol, a writable folder and files to read. */
async function withTestFiles(use: (setting: TestFiles) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "vortex-permissions-"));
  const store = memoryPieceStoreWith(nativeHashers);
  store.putTask(taskId, content);
  const { startServer } = await runtimeEntry();
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
