type EntryModule = typeof import("../entry/node.ts");

/** Returns the exports of "vortex-peer" that the demo uses, from the entry for this runtime. */
export async function runtimeEntry(): Promise<
  Pick<EntryModule, "createDownloader" | "FilePieceStore" | "startServer">
> {
  if (process.versions.bun !== undefined) return import("../entry/bun.ts");
  if (process.versions.deno !== undefined) return import("../entry/deno.ts");
  return import("../entry/node.ts");
}
