/**
 * Test program: runs the `vortex-peer` command with a server that has no referenced handles, while
 * it serves and while it closes. Prints `closed` on standard error once the server is closed.
 */
import process from "node:process";
import { runProcess } from "../../cli/process.ts";
import { VortexError } from "../../src/errors.ts";

const unused = (): never => {
  throw new VortexError("Internal", "only startServer is used");
};

await runProcess(async () => ({
  createDownloader: unused,
  createDirectory: unused,
  startServer: async () => ({
    addresses: { tcp: { host: "127.0.0.1", port: 4005 } },
    fingerprint: undefined,
    rotateCertificate: unused,
    async close() {
      await new Promise((resolve) => setTimeout(resolve, 20).unref());
      process.stderr.write("closed\n");
    },
  }),
}));
