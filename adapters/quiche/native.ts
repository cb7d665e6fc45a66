import { VortexError } from "../../src/errors.ts";

/** The part of @matrixai/quic that is used here: its binding to quiche, without its event loop. */
export type Quiche = typeof import("@matrixai/quic/native/index.js")["quiche"];

/** A QUIC connection inside quiche. */
export type NativeConnection = ReturnType<Quiche["Connection"]["connect"]>;

/** A set of TLS and transport parameters inside quiche. */
export type NativeConfig = ReturnType<Quiche["Config"]["withBoringSslCtx"]>;

let loading: Promise<Quiche> | undefined;

/** Loads the binding once. Rejects with `Unavailable` where there is none: linux on arm64, musl, and a skipped install. */
export function loadQuiche(): Promise<Quiche> {
  loading ??= import("@matrixai/quic/native/index.js").then(
    ({ quiche }) => quiche,
    (cause) => {
      throw new VortexError(
        "Unavailable",
        'QUIC needs the optional package @matrixai/quic, which is missing or has no binary for this platform; use protocol "tcp" or "grpc"',
        { cause },
      );
    },
  );
  return loading;
}
