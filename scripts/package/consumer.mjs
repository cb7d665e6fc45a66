// Runs on each runtime in a project with the installed package. Imports it by its names and fetches
// a piece over each protocol. Prints one line of JSON with the value of each table column.
import { Buffer } from "node:buffer";

const subpaths = process.argv[2].split(",");
const columns = { import: "ok" };

try {
  for (const subpath of subpaths) await import(`vortex-peer${subpath.slice(1)}`);
  const { createDownloader, MemoryPieceStore, startServer } = await import("vortex-peer");
  const content = Uint8Array.from({ length: 300_000 }, (_, index) => (index * 31) % 251);
  const taskId = "ab".repeat(32);
  const store = new MemoryPieceStore();
  store.putTask(taskId, content);
  for (const protocol of ["tcp", "quic", "grpc"])
    columns[protocol] = await outcome(() => fetched(protocol));

  async function fetched(protocol) {
    const server = await startServer({ store, host: "127.0.0.1", [protocol]: { port: 0 } });
    const tls = protocol === "quic" ? { tls: { fingerprints: [server.fingerprint] } } : {};
    const downloader = createDownloader({ protocol, ...tls });
    try {
      const { host, port } = server.addresses[protocol];
      const request = { addr: `${host}:${port}`, hostId: "consumer", taskId, number: 0 };
      const piece = await downloader.downloadPiece(request, {
        signal: AbortSignal.timeout(30_000),
      });
      const bytes = await piece.bytes();
      if (Buffer.compare(bytes, content) !== 0) throw new Error("other bytes than were served");
      return "ok";
    } finally {
      await downloader.close();
      await server.close();
    }
  }
} catch (error) {
  columns.import = `failed: ${error?.message}`;
}
console.log(JSON.stringify(columns));
process.exit(0);

async function outcome(run) {
  try {
    return await run();
  } catch (error) {
    return error?.code === "Unavailable"
      ? "Unavailable"
      : `failed: ${error?.code ?? ""} ${error?.message}`;
  }
}
