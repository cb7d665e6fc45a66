/**
 * Test program for permission tests: calls one function of the library, which USE names. Prints
 * `done` or the error.
 *
 *     permission-use.ts USE ARGUMENT
 */
import process from "node:process";
import { fileIdentityStore } from "../../adapters/files/identity-store.ts";
import { loadConfig } from "../../adapters/files/load-config.ts";
import { fileSink } from "../../adapters/files/sink.ts";
import { FilePieceStore } from "../../adapters/files/store.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import { runtimeApi } from "../../entry/runtime-api.ts";
import { VortexError } from "../../src/errors.ts";
import type { TaskStreamOptions } from "../../src/task/task.ts";

const entry = runtimeApi(() => Promise.reject(new Error("no QUIC here")));

const uses: Readonly<Record<string, (argument: string) => Promise<unknown>>> = {
  async fileSink(argument) {
    const { request, path } = JSON.parse(argument) as {
      readonly request: TaskStreamOptions;
      readonly path: string;
    };
    await using downloader = entry.createDownloader({ protocol: "tcp" });
    await downloader.downloadTask({ ...request, to: fileSink(path) });
  },
  async openSink(path) {
    const lengths = { contentLength: 1, pieceLength: 1, longestPiece: 1, start: 0, length: 1 };
    const layout = { taskId: "a", kind: "standard", ...lengths, part: () => undefined } as const;
    const session = await fileSink(path).open(layout, {
      signal: new AbortController().signal,
      onLimitIncrease() {},
      onFailure() {},
    });
    await session.abort(new VortexError("Aborted", "enough"));
  },
  async fileStore(path) {
    await using store = new FilePieceStore();
    await store.addFile(path);
  },
  async listen(address) {
    const [host = "", port = ""] = address.split(" ");
    await using store = new FilePieceStore();
    const server = await entry.startServer({ store, host, tcp: { port: Number(port) } });
    await server.close();
  },
  identity: async (path) => fileIdentityStore(path).save(await selfSigned()),
  loadConfig: (path) => loadConfig(path || undefined),
};

const [use = "", argument = ""] = process.argv.slice(2);
try {
  await uses[use]?.(argument);
  console.log("done");
} catch (error) {
  const { code, message } = VortexError.from(error, "Internal");
  console.log(`${code}: ${message}`);
}
