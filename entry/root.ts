/**
 * All exports of vortex-peer that are independent of the runtime. The entry points of the runtimes
 * add transports to them. Each part is also a subpath of the package, to keep bundles small.
 *
 * @module
 */

export * from "../src/ids.ts";
export * from "./config.ts";
export * from "./core.ts";
export * from "./tasks.ts";
