/** `output_path` names a file of the host that gets the request, so it never leaves this one. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { downloaderSettings } from "../../../src/client/call/settings.ts";
import { GrpcDownloader, type TaskIdentity } from "../../../src/client/grpc/downloader.ts";
import { fakeRuntime } from "../../support/fake-clock.ts";
import { MemoryGrpcBinding, scriptedPeer } from "../../support/grpc.ts";

const sources: readonly TaskIdentity[] = [
  { url: "https://example.com/file" },
  { url: "https://example.com/file", content: "text", requestHeader: { accept: "*/*" } },
  { kind: "persistent", url: "https://store/key", region: "r", endpoint: "https://store" },
  { kind: "persistent-cache", taskId: "ab".repeat(32) },
];
/** Fields that a caller without types may add. */
const additions = [{}, { outputPath: "/etc/passwd" }, { output_path: "/etc/passwd" }];

it("no request for a task contains an output path", async () => {
  const paths: unknown[] = [];
  const refused = new ConnectError("seen", Code.NotFound);
  const peer = scriptedPeer({
    downloadTask({ download }) {
      paths.push(download?.outputPath, download?.overwrite, download?.forceHardLink);
      throw refused;
    },
    downloadPersistentTask({ outputPath }) {
      paths.push(outputPath);
      throw refused;
    },
    downloadPersistentCacheTask({ outputPath }) {
      paths.push(outputPath);
      throw refused;
    },
  });
  const downloader = new GrpcDownloader(
    async () => new MemoryGrpcBinding(peer),
    downloaderSettings({}, fakeRuntime()),
  );
  const failures: string[] = [];
  for (const source of sources) {
    for (const added of additions) {
      try {
        const task = await downloader.downloadTask("127.0.0.1:1", { ...source, ...added });
        for await (const _piece of task);
      } catch (error) {
        failures.push((error as { code: string }).code);
      }
    }
  }
  await downloader.close();
  // The request is refused by the peer, or before it is sent because of the unknown field.
  assert.equal(failures.length, sources.length * additions.length);
  assert.deepEqual(new Set(failures), new Set(["NotFound", "InvalidArgument"]));
  assert.ok(paths.length >= sources.length);
  for (const path of paths) assert.ok(path === undefined || path === false, `${path}`);
});
