/**
 * `vortex-peer/ids`: derives task, host and peer ids like dfdaemon.
 *
 * @module
 */
export * from "../src/ids.ts";
