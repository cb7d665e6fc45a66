/**
 * Node: serves files to Dragonfly peers over QUIC, TCP and gRPC.
 *
 *     node examples/node-seeder.ts model.safetensors tokenizer.json
 *
 * SIGHUP reads the files again: changed ones become new tasks, and when one cannot be read, everything stays as it was.
 * (Node 22.18 and later run TypeScript as it is; before, `npx tsx examples/node-seeder.ts`.)
 */
import process from "node:process";
import { parseArgs } from "node:util";
import {
  FilePieceStore,
  fileIdentityStore,
  formatAddress,
  startServer,
  VortexError,
} from "vortex-peer";

const { values: options, positionals: paths } = parseArgs({
  allowPositionals: true,
  options: {
    host: { type: "string", default: "0.0.0.0" },
    // The ports of stock Dragonfly; 0 takes any free one.
    quic: { type: "string", default: "4006" },
    tcp: { type: "string", default: "4005" },
    grpc: { type: "string", default: "4000" },
    /** Keeps the certificate, so that clients that pinned it know this server again after a restart. */
    identity: { type: "string", default: "seeder-identity.pem" },
  },
});

try {
  await seed();
} catch (error) {
  tell(error);
  process.exitCode = 1;
}

async function seed(): Promise<void> {
  let files = await indexFiles();
  const server = await startServer({
    // Not `files` itself, which a reload replaces.
    store: {
      getPiece: (request) => files.getPiece(request),
      getTask: (taskId) => files.getTask(taskId),
    },
    host: options.host,
    quic: { port: Number(options.quic) },
    tcp: { port: Number(options.tcp) },
    grpc: { port: Number(options.grpc) },
    tls: { identityStore: fileIdentityStore(options.identity) },
    onError: tell,
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
      // Whoever is reading a piece of the old ones has it fail, and asks again.
      await old.close();
      console.log("reloaded");
    } catch (error) {
      tell(error);
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

/** Reads all files through, for the digests of their pieces, and prints what they are from now on. */
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

function tell(error: unknown): void {
  console.error(error instanceof VortexError ? `${error.code}: ${error.message}` : error);
}
