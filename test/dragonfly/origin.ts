/** Origin of a lab: an HTTP server with range requests, which dfdaemon requires. */
import { createReadStream } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { pipeline } from "node:stream/promises";
import type { Content } from "./content.ts";

/** Serves content by URL path, and counts the bytes that it sends. */
export class Origin {
  readonly #server: Server;
  readonly #base: string;
  readonly #contents: Map<string, Content>;
  readonly #sent: Map<string, number>;

  private constructor(
    server: Server,
    base: string,
    contents: Map<string, Content>,
    sent: Map<string, number>,
  ) {
    this.#server = server;
    this.#base = base;
    this.#contents = contents;
    this.#sent = sent;
  }

  /** Starts an origin at a free port of `ip`. */
  static async listen(ip: string): Promise<Origin> {
    const contents = new Map<string, Content>();
    const sent = new Map<string, number>();
    const server = createServer((request, response) => {
      // Clients may rewrite the rest of the path.
      const path = `/${(request.url ?? "").split(/[/?]/)[1]}`;
      const content = contents.get(path);
      if (content === undefined) {
        response.writeHead(404).end();
        return;
      }
      const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
      const start = Number(first ?? 0);
      const end =
        last === undefined || last === ""
          ? content.length - 1
          : Math.min(Number(last), content.length - 1);
      response.writeHead(first === undefined ? 200 : 206, {
        "accept-ranges": "bytes",
        "content-length": end - start + 1,
        ...(first !== undefined && { "content-range": `bytes ${start}-${end}/${content.length}` }),
      });
      if (request.method === "HEAD") {
        response.end();
        return;
      }
      sent.set(path, (sent.get(path) ?? 0) + end - start + 1);
      // The client may leave at any time.
      pipeline(createReadStream(content.path, { start, end }), response).catch(() => {});
    });
    await new Promise<void>((resolve) => server.listen(0, ip, resolve));
    const { port } = server.address() as AddressInfo;
    return new Origin(server, `http://${ip}:${port}`, contents, sent);
  }

  /** Serves content at a new URL, and returns the URL. */
  add(content: Content): string {
    const path = `/${crypto.randomUUID()}`;
    this.#contents.set(path, content);
    return this.#base + path;
  }

  /** Returns the bytes that were requested of a URL so far. */
  bytesOf(url: string): number {
    return this.#sent.get(new URL(url).pathname) ?? 0;
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}
