/**
 * `vortex-peer/opentelemetry`: telemetry through the `@opentelemetry/api` of the program.
 *
 * @module
 */
export { type OpenTelemetryApi, openTelemetry } from "../adapters/opentelemetry.ts";
