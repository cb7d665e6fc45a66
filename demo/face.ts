type FaceModule = typeof import("../adapters/node.ts");

/** What `import "vortex-peer"` gives in the runtime that runs this, as far as all runtimes have it. */
export async function runtimeFace(): Promise<Pick<FaceModule, "createDownloader" | "FilePieceStore" | "startServer">> {
  if (process.versions.bun !== undefined) return import("../adapters/bun.ts");
  if (process.versions.deno !== undefined) return import("../adapters/deno.ts");
  return import("../adapters/node.ts");
}
