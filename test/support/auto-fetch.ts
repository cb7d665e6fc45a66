/**
 * Test program: downloads a task to files, with settings from a configuration file.
 *
 * Its argument is an {@link AutoFetchOptions} as JSON. For each line of standard input, a path, it
 * downloads the task to that path and prints an {@link AutoFetchResult}. During a download it
 * prints `piece` for each received piece.
 */
import process from "node:process";
import { createInterface } from "node:readline";
import { loadConfig } from "../../adapters/files/load-config.ts";
import { fileSink } from "../../adapters/files/sink.ts";
import type { ProtocolEvent } from "../../src/client/auto/downloader.ts";
import { VortexError } from "../../src/errors.ts";
import type { ParentProgress } from "../../src/task/task.ts";
import type { PeerAddresses } from "../../src/transport/peer-address.ts";
import { runtimeEntry } from "./runtime-entry.ts";

/** Command-line argument of this test program, as JSON. */
export interface AutoFetchOptions {
  readonly config: string;
  readonly addr: PeerAddresses;
  readonly taskId: string;
  readonly contentLength: number;
  readonly pieceLength: number;
  /** Delay in ms between attempts over different protocols: `auto.delay` of the downloader. */
  readonly delay: number;
  readonly quicPeers: "known" | "any";
}

/** Result of one download, which the program prints as JSON. */
export interface AutoFetchResult {
  readonly error: string | undefined;
  readonly parents: readonly Pick<ParentProgress, "routes">[];
  /** Protocol events since the end of the previous download. */
  readonly chosen: readonly ProtocolEvent[];
}

const { config, addr, taskId, contentLength, pieceLength, delay, quicPeers } = JSON.parse(
  process.argv[2] ?? "{}",
) as AutoFetchOptions;
const { createDownloader } = await runtimeEntry();
const loaded = await loadConfig(config);
let chosen: ProtocolEvent[] = [];
const downloader = createDownloader({
  ...(await loaded.downloader()),
  stallTimeout: 4000,
  auto: { delay, quicPeers },
  onProtocol: (event) => chosen.push(event),
});
for await (const path of createInterface({ input: process.stdin })) {
  const download = downloader.downloadTask({
    taskId,
    hostId: "test",
    parents: [{ addr }],
    contentLength,
    pieceLength,
    to: fileSink(path),
    onEvent: ({ type }) => {
      if (type === "piece") console.log("piece");
    },
  });
  const error = await download.then(
    () => undefined,
    (thrown: unknown) =>
      thrown instanceof VortexError ? `${thrown.code}: ${thrown.message}` : String(thrown),
  );
  const parents = download
    .progress()
    .parents.map(({ routes }) => (routes === undefined ? {} : { routes }));
  const fetched: AutoFetchResult = { error, parents, chosen };
  chosen = [];
  console.log(JSON.stringify(fetched));
}
await downloader.close();
