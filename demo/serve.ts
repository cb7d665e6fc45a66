/** Serves one file on loopback over all protocols, until SIGTERM. */
import { formatAddress } from "../entry/core.ts";
import { runtimeEntry } from "./load-runtime.ts";
import type { ServeReport } from "./reports.ts";

const { FilePieceStore, startServer } = await runtimeEntry();
const [path = ""] = process.argv.slice(2);
const store = new FilePieceStore();
const task = await store.addFile(path);
const server = await startServer({
  store,
  host: "127.0.0.1",
  quic: { port: 0 },
  tcp: { port: 0 },
  grpc: { port: 0 },
  onError: (error) => console.error(`serve: ${error.message}`),
});
const { quic, tcp, grpc } = server.addresses;
if (quic === undefined || tcp === undefined || grpc === undefined)
  throw new Error("a protocol did not start");
const report: ServeReport = {
  taskId: task.taskId,
  contentLength: task.contentLength,
  pieceLength: task.pieceLength,
  pieceCount: Math.ceil(task.contentLength / task.pieceLength),
  sha256: task.digest?.replace("sha256:", "") ?? "",
  fingerprint: server.fingerprint ?? "",
  addresses: { quic: formatAddress(quic), tcp: formatAddress(tcp), grpc: formatAddress(grpc) },
};
console.log(JSON.stringify(report));
process.once("SIGTERM", () => {
  void server
    .close({ grace: 0 })
    .then(() => store.close())
    .then(() => process.exit(0));
});
