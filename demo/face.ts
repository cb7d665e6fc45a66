type FaceModule = typeof import("../entry/node.ts");

/** What `import "vortex-peer"` gives in the runtime that runs this, as far as all runtimes have it. */
export async function runtimeFace(): Promise<
  Pick<FaceModule, "createDownloader" | "FilePieceStore" | "startServer">
> {
  if (process.versions.bun !== undefined) return import("../entry/bun.ts");
  if (process.versions.deno !== undefined) return import("../entry/deno.ts");
  return import("../entry/node.ts");
}
