import type { RuntimeApi } from "../../entry/runtime-api.ts";
import { runtimeName } from "./fixtures.ts";

/** Imports the package's entry point for the current runtime, which includes a QUIC binding. */
export function runtimeEntry(): Promise<RuntimeApi> {
  switch (runtimeName) {
    case "bun":
      return import("../../entry/bun.ts");
    case "deno":
      return import("../../entry/deno.ts");
    case "node":
      return import("../../entry/node.ts");
  }
}
