import type { Face } from "../../entry/face.ts";
import { runtimeName } from "./fixtures.ts";

/** The face that users of this runtime import, with its own QUIC. */
export function runtimeFace(): Promise<Face> {
  switch (runtimeName) {
    case "bun":
      return import("../../entry/bun.ts");
    case "deno":
      return import("../../entry/deno.ts");
    case "node":
      return import("../../entry/node.ts");
  }
}
