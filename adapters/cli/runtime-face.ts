import process from "node:process";
import type { CliFace } from "./face.ts";

/** The face of the runtime that this runs on. */
export function runtimeFace(): Promise<CliFace> {
  if (process.versions.bun !== undefined) return import("../bun.ts");
  if (process.versions.deno !== undefined) return import("../deno.ts");
  return import("../node.ts");
}
