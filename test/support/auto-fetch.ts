/**
 * Fetches tasks to files by a configuration file: the same program, whatever the protocol. Its argument is an
 * {@link AutoFetchOptions}; for each path that comes as a line of standard input it fetches the task there, and prints an
 * {@link AutoFetched}. In between it prints `piece` for each piece that has come.
 */
import process from "node:process";
import { createInterface } from "node:readline";
import { loadConfig } from "../../adapters/files/config-file.ts";
import { fileSink } from "../../adapters/files/sink.ts";
import type { ProtocolEvent } from "../../src/client/auto/downloader.ts";
import { VortexError } from "../../src/errors.ts";
import type { ParentProgress } from "../../src/task/task.ts";
import type { PeerAddresses } from "../../src/transport/peer-address.ts";
import { runtimeFace } from "./runtime-face.ts";

/** What the program is told, as JSON. */
export interface AutoFetchOptions {
  readonly config: string;
  readonly addr: PeerAddresses;
  readonly taskId: string;
  readonly contentLength: number;
  readonly pieceLength: number;
  /** Milliseconds before the next protocol begins beside one that is silent. */
  readonly delay: number;
  readonly quicPeers: "known" | "any";
}

/** How a task was fetched. */
export interface AutoFetched {
  readonly error: string | undefined;
  readonly parents: readonly Pick<ParentProgress, "routes">[];
  /** Since the task before. */
  readonly chosen: readonly ProtocolEvent[];
}

const { config, addr, taskId, contentLength, pieceLength, delay, quicPeers } = JSON.parse(
  process.argv[2] ?? "{}",
) as AutoFetchOptions;
const { createDownloader } = await runtimeFace();
const loaded = await loadConfig(config);
let chosen: ProtocolEvent[] = [];
const downloader = createDownloader({
  ...(await loaded.downloader()),
  stallTimeout: 4000,
  auto: { delay, quicPeers },
  onProtocol: (event) => chosen.push(event),
});
for await (const path of createInterface({ input: process.stdin })) {
  const download = downloader.downloadTask(
    { taskId, hostId: "test", parents: [{ addr }], contentLength, pieceLength },
    {
      to: fileSink(path),
      onEvent: ({ type }) => {
        if (type === "piece") console.log("piece");
      },
    },
  );
  const error = await download.done.then(
    () => undefined,
    (thrown: unknown) =>
      thrown instanceof VortexError ? `${thrown.code}: ${thrown.message}` : String(thrown),
  );
  const parents = download
    .progress()
    .parents.map(({ routes }) => (routes === undefined ? {} : { routes }));
  const fetched: AutoFetched = { error, parents, chosen };
  chosen = [];
  console.log(JSON.stringify(fetched));
}
await downloader.close();
