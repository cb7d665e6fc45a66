/**
 * `vortex-peer/opentelemetry`: reports telemetry through the program's `@opentelemetry/api`.
 *
 * @module
 */
export { type OpenTelemetryApi, openTelemetry } from "../adapters/opentelemetry.ts";
export type {
  ErrorCode,
  ErrorKind,
  VortexError,
  VortexErrorJson,
  VortexErrorOptions,
} from "../src/errors.ts";
export type { PieceKind } from "../src/piece.ts";
export type {
  Operation,
  OperationName,
  OperationResult,
  OperationStart,
  Telemetry,
} from "../src/telemetry.ts";
export type { Protocol } from "../src/transport/protocol.ts";
