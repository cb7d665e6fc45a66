/** Runs each program of `examples` in a process on its runtime, with the seeder as its peer. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile, rm, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { describe, it } from "node:test";
import { Miniflare } from "miniflare";
import { runtimeApi } from "../../entry/runtime-api.ts";
import { MemoryPieceStore } from "../../src/store/memory-store.ts";
import { formatAddress } from "../../src/transport/address.ts";
import { bundleForEdge } from "../support/edge-peer.ts";
import { runtimeName } from "../support/fixtures.ts";
import { seededBytes } from "../support/random.ts";
import { type Program, runners, runToEnd, startProgram } from "../support/run.ts";
import { inTempDir, writeExample } from "../support/samples.ts";

const PIECE_LENGTH = 4 * 1024 * 1024;
/** Content of two full pieces and a shorter one. */
const content = seededBytes(31, 2 * PIECE_LENGTH + 54_321);
const sha256 = sha256Of(content);
const missing = "00".repeat(32);

if (runtimeName === "node") {
  describe("examples/node-seeder.ts", () => {
    it("serves the given files over every protocol", () =>
      withSeeder(async ({ addresses, fingerprint }) => {
        for (const [protocol, addr] of Object.entries(addresses)) {
          const tls = protocol === "quic" ? { fingerprints: [fingerprint] } : undefined;
          const { createDownloader } = await import("../../entry/node.ts");
          await using downloader = createDownloader({
            protocol: protocol as "tcp",
            ...(tls && { tls }),
          });
          const whole: Uint8Array[] = [];
          for (const number of [0, 1, 2]) {
            const piece = await downloader.downloadPiece({
              addr,
              hostId: "test",
              taskId: sha256,
              number,
            });
            whole.push(await piece.bytes());
          }
          assert.deepEqual(new Uint8Array(Buffer.concat(whole)), content, protocol);
        }
      }));

    it("reloads its files at SIGHUP, and keeps the old ones when a file is missing", () =>
      withSeeder(async ({ program, addresses, file }) => {
        const { createDownloader } = await import("../../entry/node.ts");
        await using downloader = createDownloader({ protocol: "tcp" });
        const fetchFirst = async (taskId: string): Promise<Uint8Array> => {
          const request = { addr: addresses.tcp, hostId: "test", taskId, number: 0 };
          return (await downloader.downloadPiece(request)).bytes();
        };
        const changed = seededBytes(32, 100_000);
        await writeFile(file, changed);
        program.kill("SIGHUP");
        assert.equal(await program.line(), `task ${sha256Of(changed)} 100000 ${file}`);
        assert.equal(await program.line(), "reloaded");
        assert.deepEqual(await fetchFirst(sha256Of(changed)), changed);
        await assert.rejects(fetchFirst(sha256), { code: "NotFound" });

        await rm(file);
        program.kill("SIGHUP");
        assert.equal(await program.line(), "not reloaded");
        assert.deepEqual(await fetchFirst(sha256Of(changed)), changed);
        program.kill("SIGTERM");
        const { code, err } = await program.ended;
        assert.equal(code, 0);
        assert.match(err, /^StorageFailed: .*\n$/);
      }));

    it("reports why it cannot serve, and fails", () =>
      inTempDir(async (directory) => {
        const file = await writeExample(directory, "examples/node-seeder.ts", "node");
        const { code, err } = await runToEnd([
          ...commandOf("node"),
          file,
          join(directory, "no-such-file"),
        ]);
        assert.equal(code, 1);
        assert.match(err, /^StorageFailed: .*no-such-file.*\n$/);
      }));
  });

  describe("examples/node-http.ts", () => {
    it("answers whole tasks, ranges, HEAD and missing tasks", () =>
      withModelServer(async (url) => {
        const whole = await answered(200, `${url}${sha256}`);
        const etag = whole.headers.get("etag") ?? "";
        assert.equal(etag, `"sha256:${sha256}"`);
        assert.equal(whole.headers.get("content-length"), String(content.length));
        assert.deepEqual(await bytesOf(whole), content);
        for (const condition of [{}, { "if-range": etag }]) {
          const headers = { range: "bytes=5-4194310", ...condition };
          const part = await answered(206, `${url}${sha256}`, { headers });
          assert.equal(part.headers.get("content-range"), `bytes 5-4194310/${content.length}`);
          assert.equal(part.headers.get("etag"), etag);
          assert.deepEqual(await bytesOf(part), content.subarray(5, 4_194_311));
        }
        const beyond = { range: `bytes=${content.length}-` };
        const none = await answered(416, `${url}${sha256}`, { headers: beyond });
        assert.equal(none.headers.get("content-range"), `bytes */${content.length}`);
        const head = await answered(200, `${url}${sha256}`, { method: "HEAD" });
        assert.equal(head.headers.get("content-length"), String(content.length));
        await answered(405, `${url}${sha256}`, { method: "POST" });
        await answered(404, `${url}${missing}`);
      }, "node"));

    it("cancels the download when the client leaves, and cuts the response off when all parents are gone", () =>
      withCountedParent(async ({ url, line, taskId, total, requested, close }) => {
        const socket = connect({ host: "127.0.0.1", port: Number(new URL(url).port) });
        socket.write(`GET /${taskId} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
        await firstBytes(socket);
        socket.pause();
        await requested(8);
        socket.destroy();
        assert.match(await line(), new RegExp(`^/${taskId}: `));

        const response = await fetch(`${url}${taskId}`);
        assert.equal(response.headers.get("content-length"), String(total));
        const reader = response.body?.getReader();
        assert.ok(reader !== undefined);
        await reader.read();
        await close();
        await assert.rejects(async () => {
          for (let next = await reader.read(); !next.done; next = await reader.read());
        });
        assert.match(await line(), new RegExp(`^/${taskId}: `));
      }, "node"));
  });

  describe("examples/edge-worker.ts", () => {
    it("serves pieces, whole and in ranges", () =>
      withEdgeWorker(async (url) => {
        const whole = await answered(200, `${url}${sha256}/0`);
        assert.match(whole.headers.get("etag") ?? "", /^"crc32:\d+"$/);
        assert.deepEqual(await bytesOf(whole), content.subarray(0, PIECE_LENGTH));
        const last = content.length - 2 * PIECE_LENGTH;
        for (const [range, start, end] of [
          ["bytes=0-0", 0, 1],
          ["bytes=1000-54320", 1000, last],
          ["bytes=1000-999999999", 1000, last],
          ["bytes=54000-", 54_000, last],
        ] as const) {
          const part = await answered(206, `${url}${sha256}/2`, { headers: { range } });
          assert.equal(part.headers.get("content-range"), `bytes ${start}-${end - 1}/${last}`);
          assert.deepEqual(
            await bytesOf(part),
            content.subarray(2 * PIECE_LENGTH + start, 2 * PIECE_LENGTH + end),
          );
        }
      }));

    it("answers an unavailable piece with the error's code", () =>
      withEdgeWorker(async (url, stopSeeder) => {
        for (const range of ["bytes=54321-", "bytes=999999999-"]) {
          await answered(416, `${url}${sha256}/2`, { headers: { range } });
        }
        await answered(404, `${url}elsewhere`);
        await answered(405, `${url}${sha256}/2`, { method: "POST" });
        const unknown = await answered(404, `${url}${missing}/0`);
        assert.match(await unknown.text(), /^NotFound: /);
        await stopSeeder();
        const gone = await answered(502, `${url}${sha256}/2`);
        assert.match(await gone.text(), /^ConnectionRefused: /);
      }));
  });
}

if (runtimeName === "deno") {
  describe("examples/deno-fetch-piece.ts", () => {
    it("fetches a piece with the permissions named in its header comment, by address or by name", () =>
      withSeeder(({ addresses }) =>
        inTempDir(async (directory) => {
          // On Deno, a permission for a host name does not include its addresses.
          for (const addr of [addresses.tcp, addresses.tcp.replace("127.0.0.1", "localhost")]) {
            const file = join(directory, "piece.bin");
            const { code, out, err } = await fetchPiece(directory, addr, sha256, "1", file);
            assert.deepEqual([code, err], [0, ""]);
            assert.match(out, /^piece 1: 4194304 bytes at 4194304, crc32:\d+\n$/);
            assert.deepEqual(
              new Uint8Array(await readFile(file)),
              content.subarray(PIECE_LENGTH, 2 * PIECE_LENGTH),
            );
            await rm(file);
          }
        }),
      ));

    it("reports the failure, and writes no file", () =>
      withSeeder(({ addresses }) =>
        inTempDir(async (directory) => {
          const file = join(directory, "piece.bin");
          const { code, err } = await fetchPiece(directory, addresses.tcp, missing, "0", file);
          assert.equal(code, 1);
          assert.match(err, /^NotFound \(remote\): .*\n$/);
          await assert.rejects(readFile(file), { code: "ENOENT" });
        }),
      ));
  });
}

if (runtimeName === "bun") {
  describe("examples/bun-model-server.ts", () => {
    it("streams a whole model", () =>
      withModelServer(async (url) => {
        const whole = await answered(200, `${url}${sha256}`);
        assert.equal(whole.headers.get("etag"), `"sha256:${sha256}"`);
        assert.deepEqual(await bytesOf(whole), content);
      }));

    it("answers ranges with 206 or 416, and unsupported ranges with the whole model", () =>
      withModelServer(async (url) => {
        const total = content.length;
        for (const [range, start, end] of [
          ["bytes=0-0", 0, 1],
          [`bytes=${PIECE_LENGTH - 5}-${PIECE_LENGTH + 4}`, PIECE_LENGTH - 5, PIECE_LENGTH + 5],
          [`bytes=${PIECE_LENGTH}-999999999`, PIECE_LENGTH, total],
          [`bytes=${total - 1}-`, total - 1, total],
          ["bytes=-10", total - 10, total],
          ["bytes=-999999999", 0, total],
        ] as const) {
          const part = await answered(206, `${url}${sha256}`, { headers: { range } });
          assert.equal(part.headers.get("content-range"), `bytes ${start}-${end - 1}/${total}`);
          assert.deepEqual(await bytesOf(part), content.subarray(start, end), range);
        }
        for (const range of [`bytes=${total}-`, "bytes=-0"]) {
          const none = await answered(416, `${url}${sha256}`, { headers: { range } });
          assert.equal(none.headers.get("content-range"), `bytes */${total}`);
        }
        for (const headers of [
          { range: "bytes=0-1,5-9" },
          { range: "bytes=9-5" },
          { range: "bytes=0-1", "if-range": '"other"' },
        ]) {
          const whole = await answered(200, `${url}${sha256}`, {
            headers: headers as Record<string, string>,
          });
          assert.equal((await bytesOf(whole)).length, total);
        }
      }));

    it("answers HEAD, If-None-Match and requests for missing models", () =>
      withModelServer(async (url) => {
        const head = await answered(200, `${url}${sha256}`, { method: "HEAD" });
        assert.equal(head.headers.get("content-length"), String(content.length));
        assert.equal(head.headers.get("accept-ranges"), "bytes");
        const headers = { "if-none-match": head.headers.get("etag") ?? "" };
        await answered(304, `${url}${sha256}`, { headers });
        await answered(405, `${url}${sha256}`, { method: "POST" });
        await answered(404, url);
        const unknown = await answered(404, `${url}${missing}`);
        assert.match(await unknown.text(), /^NotFound: /);
      }));

    it("aborts the response when all parents are gone, so that half a model does not look whole", () =>
      withCountedParent(async ({ url, line, taskId, total, close }) => {
        const response = await fetch(`${url}${taskId}`);
        const reader = response.body?.getReader();
        assert.ok(reader !== undefined);
        let read = (await reader.read()).value?.length ?? 0;
        await close();
        await assert.rejects(async () => {
          for (let next = await reader.read(); !next.done; next = await reader.read())
            read += next.value.length;
        });
        assert.ok(read < total);
        assert.match(await line(), new RegExp(`^${taskId}: [A-Z][A-Za-z]+: `));
      }));

    it("applies backpressure to the parents, and cancels the download when the client disconnects", () =>
      withCountedParent(async ({ url, line, taskId, total, requestCount, requested }) => {
        const socket = connect({ host: "127.0.0.1", port: Number(new URL(url).port) });
        socket.write(`GET /${taskId} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
        await firstBytes(socket);
        socket.pause();
        await requested(8);
        // Meanwhile another client reads everything, which leaves the first download time to run
        // ahead.
        assert.equal((await bytesOf(await fetch(`${url}${taskId}`))).length, total);
        const pieces = total / COUNTED_PIECE_LENGTH;
        const ahead = requestCount() - pieces;
        // 32 MiB in memory, 8 pieces in flight, and the buffers of sockets and HTTP server.
        assert.ok(
          ahead < 80,
          `${ahead} of ${pieces} pieces were fetched for a client that does not read`,
        );
        assert.equal(await line(), `${taskId}: ${total} bytes in ${pieces} pieces`);
        socket.destroy();
        assert.match(await line(), new RegExp(`^${taskId}: Aborted: `));
      }));
  });
}

/** Piece length of {@link withCountedParent}'s task, which far exceeds the read-ahead in memory. */
const COUNTED_PIECE_LENGTH = 1024 * 1024;

interface Seeder {
  readonly program: Program;
  readonly addresses: { readonly quic: string; readonly tcp: string; readonly grpc: string };
  readonly fingerprint: string;
  /** Path of the served file. */
  readonly file: string;
}

function withSeeder(use: (seeder: Seeder) => Promise<void>): Promise<void> {
  return inTempDir(async (directory) => {
    const file = join(directory, "model.bin");
    await writeFile(file, content);
    const ports = ["--host", "127.0.0.1", "--quic", "0", "--tcp", "0", "--grpc", "0"];
    const example = await writeExample(directory, "examples/node-seeder.ts", "node");
    const program = startProgram([
      ...commandOf("node"),
      example,
      ...ports,
      "--identity",
      join(directory, "identity.pem"),
      file,
    ]);
    try {
      assert.equal(await program.line(), `task ${sha256} ${content.length} ${file}`);
      const said = new Map<string, string>();
      for (let line = await program.line(); line !== "ready"; line = await program.line()) {
        const [name = "", value = ""] = line.split(" ");
        said.set(name, value);
      }
      const of = (name: string): string =>
        said.get(name) ?? assert.fail(`the seeder did not print its ${name}`);
      const addresses = { quic: of("quic"), tcp: of("tcp"), grpc: of("grpc") };
      await use({ program, addresses, fingerprint: of("certificate"), file });
    } finally {
      program.kill();
      await program.ended;
    }
  });
}

function withEdgeWorker(
  use: (url: string, stopSeeder: () => Promise<void>) => Promise<void>,
): Promise<void> {
  return withSeeder(async ({ program, addresses }) => {
    const { code } = await bundleForEdge("examples/edge-worker.ts");
    const miniflare = new Miniflare({
      modules: [{ type: "ESModule", path: "worker.js", contents: code }],
      bindings: { PEER: addresses.tcp },
      compatibilityDate: "2026-04-01",
      host: "127.0.0.1",
      port: 0,
      cf: false,
    });
    try {
      const url = await miniflare.ready;
      await use(url.href, async () => {
        program.kill();
        await program.ended;
      });
    } finally {
      await miniflare.dispose();
    }
  });
}

async function fetchPiece(
  directory: string,
  addr: string,
  taskId: string,
  number: string,
  file: string,
) {
  const example = await writeExample(directory, "examples/deno-fetch-piece.ts", "deno");
  const [deno = ""] = commandOf("deno");
  const permissions = [`--allow-net=${addr}`, `--allow-write=${file}`];
  const flags = [
    "run",
    "--no-prompt",
    "--no-check",
    "--config",
    join(import.meta.dirname ?? "", "../../deno.json"),
  ];
  return runToEnd([deno, ...flags, ...permissions, example, addr, taskId, number, file]);
}

/** Runs `use` with the HTTP service of the example for `runtime`, whose parent is the seeder. */
function withModelServer(
  use: (url: string) => Promise<void>,
  runtime: "bun" | "node" = "bun",
): Promise<void> {
  return withSeeder(({ addresses }) => startModelServer(addresses.grpc, use, runtime));
}

function startModelServer(
  parent: string,
  use: (url: string, line: () => Promise<string>) => Promise<void>,
  runtime: "bun" | "node",
): Promise<void> {
  return inTempDir(async (directory) => {
    const name = runtime === "bun" ? "bun-model-server" : "node-http";
    const example = await writeExample(directory, `examples/${name}.ts`, runtime);
    const args = [example, "--parent", parent, "--port", "0"];
    const program = startProgram([...commandOf(runtime), ...args]);
    try {
      const [, url] = /^listening on (http:.*)$/.exec(await program.line()) ?? [];
      await use(url ?? assert.fail("the server did not print its URL"), () => program.line());
    } finally {
      program.kill();
      await program.ended;
    }
  });
}

interface CountedParent {
  readonly url: string;
  /** Resolves with the next line printed by the model server. */
  line(): Promise<string>;
  readonly taskId: string;
  /** Length of the task in bytes. */
  readonly total: number;
  /** Returns the number of pieces requested so far. */
  requestCount(): number;
  /** Resolves once `pieces` pieces were requested. */
  requested(pieces: number): Promise<void>;
  close(): Promise<void>;
}

/** Runs `use` with a model server whose parent runs in this process. */
async function withCountedParent(
  use: (parent: CountedParent) => Promise<void>,
  runtime: "bun" | "node" = "bun",
): Promise<void> {
  const total = 128 * COUNTED_PIECE_LENGTH;
  const taskId = "c0".repeat(32);
  const whole = new MemoryPieceStore();
  whole.putTask(taskId, seededBytes(33, total), { pieceLength: COUNTED_PIECE_LENGTH });
  let asked = 0;
  let wake: () => void = () => {};
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  const server = await runtimeApi(() => Promise.reject(new Error("no QUIC here"))).startServer({
    host: "127.0.0.1",
    tcp: { port: 0 },
    grpc: { port: 0 },
    store: {
      getTask: (id) => whole.getTask(id),
      async getPiece(request) {
        asked++;
        wake();
        return whole.getPiece(request);
      },
    },
  });
  const { grpc } = server.addresses;
  assert.ok(grpc !== undefined);
  try {
    await startModelServer(
      formatAddress(grpc),
      (url, line) =>
        use({
          url,
          line,
          taskId,
          total,
          requestCount: () => asked,
          requested: (pieces) => until(() => asked >= pieces),
          close: () => server.close({ grace: 0 }),
        }),
      runtime,
    );
  } finally {
    await server.close({ grace: 0 });
  }
}

function firstBytes(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.once("data", () => resolve());
  });
}

/** Sends a request and returns the response. Fails unless it has `status`. */
async function answered(status: number, url: string, init: RequestInit = {}): Promise<Response> {
  const response = await fetch(url, init);
  const what = `${init.method ?? "GET"} ${url} ${JSON.stringify(init.headers ?? {})}`;
  if (response.status !== status)
    assert.fail(`${what}: ${response.status}, not ${status}: ${await response.text()}`);
  return response;
}

async function bytesOf(response: Response): Promise<Uint8Array> {
  return new Uint8Array(await response.arrayBuffer());
}

function commandOf(runtime: keyof typeof runners): readonly string[] {
  const words = runners[runtime];
  if (typeof words === "string") throw new Error(words);
  return words;
}

function sha256Of(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
