import { fileURLToPath } from "node:url";
import { Miniflare } from "miniflare";
import { rolldown } from "rolldown";
import type { TaskPlan } from "../../src/piece.ts";
import type { EdgeFetch, EdgeResult } from "./edge-worker.ts";

/** Module bundled into one file, and the imports left in it: modules that the runtime provides. */
export interface EdgeBundle {
  readonly code: string;
  readonly imports: readonly string[];
}

/** Client of the tests' edge worker, which runs in a separate workerd process on loopback. */
export interface EdgeClient {
  readonly url: URL;
  /**
   * Downloads all pieces of a task from `addr` over TCP, one after the other, and verifies their
   * digests.
   */
  fetchTask(addr: string, taskId: string, plan: TaskPlan): Promise<EdgeResult>;
  /**
   * Downloads the pieces that `request` selects. A `VortexError` is part of the result, and not
   * thrown.
   */
  fetch(request: EdgeFetch): Promise<EdgeResult>;
  close(): Promise<void>;
}

/**
 * Bundles a module for an edge worker. Imports of `cloudflare:`, `node:` and `bun:` modules are not
 * bundled.
 */
export async function bundleForEdge(entry: string, minify = false): Promise<EdgeBundle> {
  const imports = new Set<string>();
  const bundle = await rolldown({
    input: fileURLToPath(new URL(`../../${entry}`, import.meta.url)),
    platform: "neutral",
    resolve: {
      conditionNames: ["workerd", "worker", "import"],
      mainFields: ["module", "main"],
      alias: { "vortex-peer": fileURLToPath(new URL("../../entry/workers.ts", import.meta.url)) },
    },
    external: (specifier) => {
      const runtimes = /^(cloudflare|node|bun):/.test(specifier);
      if (runtimes) imports.add(specifier);
      return runtimes;
    },
  });
  try {
    const { output } = await bundle.generate({ format: "esm", minify });
    const [{ code }, ...others] = output;
    if (others.length > 0) throw new Error(`the bundle has ${output.length} files`);
    return { code, imports: [...imports] };
  } finally {
    await bundle.close();
  }
}

/**
 * Starts the edge worker in workerd, without compatibility flags and without access beyond this
 * machine.
 */
export async function startEdgeClient(): Promise<EdgeClient> {
  const { code } = await bundleForEdge("test/support/edge-worker.ts");
  const miniflare = new Miniflare({
    modules: [{ type: "ESModule", path: "worker.js", contents: code }],
    compatibilityDate: "2026-04-01",
    compatibilityFlags: [],
    host: "127.0.0.1",
    port: 0,
    // By default, Miniflare downloads a sample of `request.cf` from Cloudflare.
    cf: false,
  });
  const url = await miniflare.ready;
  const fetchPieces = async (request: EdgeFetch): Promise<EdgeResult> => {
    const response = await fetch(new URL("/fetch", url), {
      method: "POST",
      body: JSON.stringify(request),
    });
    const body = await response.text();
    if (response.status !== 200) throw new Error(`the worker failed: ${body}`);
    return JSON.parse(body);
  };
  return {
    url,
    fetchTask: (addr, taskId, { pieceCount }) =>
      fetchPieces({
        addr,
        taskId,
        pieces: Array.from({ length: pieceCount }, (_, number) => number),
      }),
    fetch: fetchPieces,
    close: () => miniflare.dispose(),
  };
}
