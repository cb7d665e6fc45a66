import { VortexError } from "../../src/errors.ts";

/**
 * Native binding to quiche from the package @matrixai/quic. The event loop of that package is not
 * used.
 */
export type Quiche = typeof import("@matrixai/quic/native/index.js")["quiche"];

/** Connection object of quiche's binding. */
export type NativeConnection = ReturnType<Quiche["Connection"]["connect"]>;

/** Configuration object of quiche's binding: a TLS context and transport parameters. */
export type NativeConfig = ReturnType<Quiche["Config"]["withBoringSslCtx"]>;

let loading: Promise<Quiche> | undefined;

/**
 * Loads quiche's native binding. Repeated calls return the same promise.
 *
 * Rejects with `Unavailable` if the binding is missing. That is so on linux/arm64, on musl, and if
 * the optional package @matrixai/quic is not installed.
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
