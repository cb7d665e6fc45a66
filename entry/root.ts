/**
 * Everything of vortex-peer that any JavaScript runtime runs. The faces in `adapters` add a runtime's transports to it; the
 * package offers its parts one by one too, so that who fetches pieces only does not carry the rest.
 *
 * @module
 */

export * from "../src/ids.ts";
export * from "./config.ts";
export * from "./core.ts";
export * from "./tasks.ts";
