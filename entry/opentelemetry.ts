/**
 * `vortex-peer/opentelemetry`: reports telemetry through the program's `@opentelemetry/api`.
 *
 * @module
 */
export { type OpenTelemetryApi, openTelemetry } from "../adapters/opentelemetry.ts";
