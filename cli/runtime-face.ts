import process from "node:process";
import type { Face } from "../entry/face.ts";
import type { CliFace } from "./face.ts";

/** Loads the entry point of the current runtime: Node, Bun or Deno. */
export async function runtimeFace(): Promise<CliFace> {
  const [{ createDownloader, startServer }, { createDirectory }] = await Promise.all([
    faceOfRuntime(),
    import("./directory.ts"),
  ]);
  return { createDownloader, startServer, createDirectory };
}

function faceOfRuntime(): Promise<Pick<Face, "createDownloader" | "startServer">> {
  if (process.versions.bun !== undefined) return import("../entry/bun.ts");
  if (process.versions.deno !== undefined) return import("../entry/deno.ts");
  return import("../entry/node.ts");
}
