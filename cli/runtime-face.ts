import process from "node:process";
import type { Face } from "../entry/face.ts";
import type { CliFace, Warn } from "./face.ts";

/**
 * Loads the SDK of the current runtime: Node, Bun or Deno.
 * @param warn receives its warnings. Default: prints each once per process
 */
export async function runtimeFace(warn?: Warn): Promise<CliFace> {
  const [{ createDownloader, startServer }, { createDirectory }] = await Promise.all([
    faceOfRuntime(warn),
    import("./directory.ts"),
  ]);
  return { createDownloader, startServer, createDirectory };
}

async function faceOfRuntime(warn?: Warn): Promise<Face> {
  if (process.versions.bun !== undefined)
    return (await import("../entry/bun-face.ts")).bunFace(warn);
  if (process.versions.deno !== undefined)
    return (await import("../entry/deno-face.ts")).denoFace(warn);
  return (await import("../entry/node-face.ts")).nodeFace(warn);
}
