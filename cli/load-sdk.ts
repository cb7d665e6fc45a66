import process from "node:process";
import type { RuntimeApi } from "../entry/runtime-api.ts";
import type { Sdk, Warn } from "./sdk.ts";

/**
 * Loads the SDK of the current runtime: Node, Bun or Deno.
 * @param warn receives its warnings. Default: prints each once per process
 */
export async function loadSdk(warn?: Warn): Promise<Sdk> {
  const [{ createDownloader, startServer }, { createDirectory }] = await Promise.all([
    runtimeApi(warn),
    import("./directory.ts"),
  ]);
  return { createDownloader, startServer, createDirectory };
}

async function runtimeApi(warn?: Warn): Promise<RuntimeApi> {
  if (process.versions.bun !== undefined) return (await import("../entry/bun-api.ts")).bunApi(warn);
  if (process.versions.deno !== undefined)
    return (await import("../entry/deno-api.ts")).denoApi(warn);
  return (await import("../entry/node-api.ts")).nodeApi(warn);
}
