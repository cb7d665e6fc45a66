/**
 * Stand-in of Dragonfly's manager for dfdaemon 1.2.1, which does not read dynconfig.yaml. It
 * answers the health check, and lists one scheduler.
 */
import { createServer, type Http2Server, type Http2Session } from "node:http2";
import { framed, message } from "./protobuf.ts";

const SERVING = message([1, 1]);

/** Running manager. */
export interface Manager {
  close(): Promise<void>;
}

/** Starts a manager that lists the scheduler at `scheduler`. */
export async function startManager(
  local: { readonly ip: string; readonly port: number },
  scheduler: { readonly ip: string; readonly port: number },
): Promise<Manager> {
  const answers = new Map([
    ["/grpc.health.v1.Health/Check", SERVING],
    ["/manager.v2.Manager/ListSchedulers", listOf(scheduler)],
  ]);
  const server: Http2Server = createServer();
  const sessions = new Set<Http2Session>();
  server.on("session", (session) => {
    sessions.add(session);
    session.on("error", () => {});
    session.on("close", () => sessions.delete(session));
  });
  server.on("stream", (stream, headers) => {
    const answer = answers.get(String(headers[":path"]));
    stream.on("error", () => {});
    stream.resume();
    if (answer === undefined) {
      // 12 is UNIMPLEMENTED.
      const trailersOnly = { ":status": 200, "content-type": "application/grpc" };
      stream.respond({ ...trailersOnly, "grpc-status": "12" }, { endStream: true });
      return;
    }
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.respond(
      { ":status": 200, "content-type": "application/grpc" },
      { waitForTrailers: true },
    );
    stream.end(framed(answer));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(local.port, local.ip, () => resolve());
  });
  return {
    async close() {
      for (const session of sessions) session.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** ListSchedulersResponse with one scheduler. The configurations of its cluster are JSON. */
function listOf({ ip, port }: { readonly ip: string; readonly port: number }): Uint8Array {
  const cluster = message(
    [1, 1],
    [2, "lab"],
    [4, JSON.stringify({ candidate_parent_limit: 3, filter_parent_limit: 15 })],
    [5, JSON.stringify({ load_limit: 200 })],
    [6, "{}"],
    [7, "{}"],
  );
  const scheduler = message(
    [1, 1],
    [2, "lab-scheduler"],
    [5, ip],
    [6, port],
    [7, "active"],
    [8, 1],
    [9, cluster],
    [11, JSON.stringify(["schedule"])],
  );
  return message([1, scheduler]);
}
