/**
 * Node: serves files to Dragonfly peers over QUIC, TCP and gRPC.
 *
 *     node examples/node-seeder.ts model.safetensors tokenizer.json
 *
 * SIGHUP reads the files again. Changed files become new tasks. If a file cannot be read, nothing
 * changes.
 *
 * Node 22.18 and later run TypeScript directly. On earlier versions use `npx tsx
 * examples/node-seeder.ts`.
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { FilePieceStore, startServer, VortexError } from "vortex-peer";
import { formatAddress } from "vortex-peer/core";
import { fileIdentityStore } from "vortex-peer/files";

const { values: options, positionals: paths } = parseArgs({
  allowPositionals: true,
  options: {
    host: { type: "string", default: "0.0.0.0" },
    // Dragonfly's default ports; 0 takes any free port.
    quic: { type: "string", default: "4006" },
    tcp: { type: "string", default: "4005" },
    grpc: { type: "string", default: "4000" },
    /**
     * File with the certificate, so that clients that pinned it recognize this server after a
     * restart.
     */
    identity: { type: "string", default: "seeder-identity.pem" },
  },
});

try {
  await seed();
} catch (error) {
  report(error);
  process.exitCode = 1;
}

async function seed(): Promise<void> {
  let files = await indexFiles();
  const server = await startServer({
    // A wrapper, since a reload replaces `files`.
    store: {
      getPiece: (request) => files.getPiece(request),
      getTask: (taskId) => files.getTask(taskId),
    },
    host: options.host,
    quic: { port: Number(options.quic) },
    tcp: { port: Number(options.tcp) },
    grpc: { port: Number(options.grpc) },
    tls: { identityStore: fileIdentityStore(options.identity) },
    onError: report,
  });

  let reloads = Promise.resolve();
  process.on("SIGHUP", () => {
    reloads = reloads.then(reload);
  });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void stop());

  for (const [protocol, address] of Object.entries(server.addresses))
    console.log(protocol, formatAddress(address));
  console.log("certificate", server.fingerprint);
  console.log("ready");

  async function reload(): Promise<void> {
    const old = files;
    try {
      files = await indexFiles();
      // A client that reads a piece of the old store gets an error, and retries.
      await old.close();
      console.log("reloaded");
    } catch (error) {
      report(error);
      console.log("not reloaded");
    }
  }

  async function stop(): Promise<void> {
    await reloads;
    await server.close();
    await files.close();
    process.exit();
  }
}

/** Reads all files for the digests of their pieces, and prints the resulting tasks. */
async function indexFiles(): Promise<FilePieceStore> {
  const store = new FilePieceStore();
  try {
    for (const path of paths) {
      const { taskId, contentLength } = await store.addFile(path);
      console.log("task", taskId, contentLength, path);
    }
    return store;
  } catch (error) {
    await store.close();
    throw error;
  }
}

function report(error: unknown): void {
  console.error(error instanceof VortexError ? `${error.code}: ${error.message}` : error);
}
