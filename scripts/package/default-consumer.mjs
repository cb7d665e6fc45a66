// Imports the package without an export condition, like a bundler for an unknown runtime, which
// gets the core. Fetches a piece over its own transport, and reports the error of each protocol
// without one.
import {
  createDownloader,
  MemoryPieceStore,
  MemoryTransport,
  portableRuntime,
  VortexServer,
} from "vortex-peer";

export async function consume(taskId, content) {
  const transport = new MemoryTransport("tcp");
  const store = new MemoryPieceStore();
  store.putTask(taskId, content);
  const server = await VortexServer.listen(
    transport,
    { host: "peer", port: 4005 },
    store,
    portableRuntime,
  );
  const downloader = createDownloader({ protocol: "tcp", transport });
  const piece = await downloader.downloadPiece({
    addr: "peer:4005",
    hostId: "consumer",
    taskId,
    number: 0,
  });
  const bytes = await piece.bytes();
  await downloader.close();
  await server.close();
  return {
    bytes,
    without: Object.fromEntries(
      ["tcp", "quic", "grpc"].map((protocol) => [protocol, codeOf(protocol)]),
    ),
  };
}

function codeOf(protocol) {
  try {
    createDownloader({ protocol });
    return "ok";
  } catch (error) {
    return error.code;
  }
}
