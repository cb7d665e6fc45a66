/** The same bytes from a static HTTP server of the runtime, fetched by its `fetch`. */
import { createServer } from "node:http";
import type { Client, Content, Serving, Subject } from "../subject.ts";

/** Globals of Bun and Deno beyond those of the web. */
interface Globals {
  readonly Bun?: {
    serve(options: {
      readonly hostname: string;
      readonly port: number;
      fetch(request: Request): Response;
    }): {
      readonly port: number;
      stop(closeActiveConnections: boolean): Promise<void>;
    };
  };
  readonly Deno?: {
    serve(
      options: { readonly hostname: string; readonly port: number; onListen(): void },
      handler: (request: Request) => Response,
    ): { readonly addr: { readonly port: number }; shutdown(): Promise<void> };
  };
}

export const http: Subject = {
  serve(content, hostname): Promise<Serving> {
    const { Bun, Deno } = globalThis as unknown as Globals;
    if (Bun !== undefined) {
      const server = Bun.serve({
        hostname,
        port: 0,
        fetch: ({ url }) => new Response(pieceAt(url, content)),
      });
      const close = (): Promise<void> => server.stop(true);
      return Promise.resolve({ peer: { host: hostname, port: server.port }, close });
    }
    if (Deno !== undefined) {
      const handler = ({ url }: Request): Response => new Response(pieceAt(url, content));
      const server = Deno.serve({ hostname, port: 0, onListen: () => {} }, handler);
      return Promise.resolve({
        peer: { host: hostname, port: server.addr.port },
        close: async () => {},
      });
    }
    return serveByNode(content, hostname);
  },

  async dial({ host, port }): Promise<Client> {
    return {
      async fetch({ pieceLength, number }, onFirstByte) {
        const response = await fetch(`http://${host}:${port}/${pieceLength}/${number}`);
        const reader = response.body?.getReader();
        let length = 0;
        for (
          let read = await reader?.read();
          read?.value !== undefined;
          read = await reader?.read()
        ) {
          if (length === 0) onFirstByte?.();
          length += read.value.length;
        }
        return length;
      },
      close: async () => {},
    };
  },
};

async function serveByNode(content: Content, host: string): Promise<Serving> {
  const server = createServer(({ url = "" }, response) => {
    const piece = pieceAt(`http://host${url}`, content);
    response.setHeader("content-length", piece.length);
    response.end(piece);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port: 0 }, resolve);
  });
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  return {
    peer: { host, port },
    close: async () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

function pieceAt(url: string, { bytes }: Content): Uint8Array<ArrayBuffer> {
  const [, length, number] = new URL(url).pathname.split("/").map(Number);
  const offset = (number ?? 0) * (length ?? 0);
  return bytes.subarray(offset, offset + (length ?? 0)) as Uint8Array<ArrayBuffer>;
}
