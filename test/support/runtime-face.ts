import type { Face } from "../../adapters/face.ts";
import { runtimeName } from "./fixtures.ts";

/** The face that users of this runtime import, with its own QUIC. */
export function runtimeFace(): Promise<Face> {
  switch (runtimeName) {
    case "bun":
      return import("../../adapters/bun.ts");
    case "deno":
      return import("../../adapters/deno.ts");
    case "node":
      return import("../../adapters/node.ts");
  }
}
