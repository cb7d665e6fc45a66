/**
 * `vortex-peer/ids`: derives task, host and peer ids like dfdaemon.
 *
 * @module
 */

export type { DigestAlgorithm, Hasher, HasherFactory } from "../src/digest/hasher.ts";
export * from "../src/ids.ts";
