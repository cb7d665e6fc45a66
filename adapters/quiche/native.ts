import { VortexError } from "../../src/errors.ts";

/** The used part of @matrixai/quic: its native binding to quiche, without its event loop. */
export type Quiche = typeof import("@matrixai/quic/native/index.js")["quiche"];

/** Connection object of quiche's binding. */
export type NativeConnection = ReturnType<Quiche["Connection"]["connect"]>;

/** Configuration object of quiche's binding: TLS context and transport parameters. */
export type NativeConfig = ReturnType<Quiche["Config"]["withBoringSslCtx"]>;

let loading: Promise<Quiche> | undefined;

/**
 * Loads the native binding; later calls share the result.
 *
 * Rejects with `Unavailable` when it is missing: on linux/arm64, on musl, or when the optional
 * package is not installed.
 */
export function loadQuiche(): Promise<Quiche> {
  loading ??= import("@matrixai/quic/native/index.js").then(
    ({ quiche }) => quiche,
    (cause) => {
      throw new VortexError(
        "Unavailable",
        "QUIC is unavailable: the optional package @matrixai/quic is missing or has no binary " +
          'for this platform; use protocol "tcp" or "grpc"',
        { cause },
      );
    },
  );
  return loading;
}
