/** Client of `hybrid.ts`: fetches the task once for each order, with default settings. */
import { createDownloader } from "../../entry/node.ts";
import type { RouteProgress } from "../../src/task/task.ts";
import type { PeerAddresses } from "../../src/transport/peer-address.ts";
import type { ProtocolChoice } from "../../src/transport/protocol.ts";
import { carryOutOrders } from "../program.ts";

/** Order to fetch a task over one protocol. */
export interface TaskOrder {
  readonly protocol: ProtocolChoice;
  readonly addr: PeerAddresses;
  readonly contentLength: number;
}

/** Result of a task. */
export interface TaskResult {
  /** Throughput in MB/s, from the first dial to the last byte. */
  readonly rate: number;
  /** Progress of each protocol; absent if there is only one. */
  readonly routes: readonly RouteProgress[] | undefined;
}

carryOutOrders<TaskOrder>(
  async ({ protocol, addr, contentLength }): Promise<TaskResult> => {
    await using downloader = createDownloader({
      protocol,
      ...(protocol !== "grpc" && { tls: { verify: false } }),
    });
    const begun = performance.now();
    const { content, report: done } = downloader.streamTask({
      taskId: "a1".repeat(32),
      hostId: "bench",
      parents: [{ addr }],
      contentLength,
      pieceLength: 1024 * 1024,
    });
    for await (const _ of content);
    const { bytes, parents } = await done;
    return { rate: bytes / 1e3 / (performance.now() - begun), routes: parents[0]?.routes };
  },
  async () => {},
);
