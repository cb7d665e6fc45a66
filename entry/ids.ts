/**
 * `vortex-peer/ids`: ids of tasks, hosts and peers, as dfdaemon derives them.
 *
 * @module
 */
export * from "../src/ids.ts";
