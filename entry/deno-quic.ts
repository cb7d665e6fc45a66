/**
 * `vortex-peer/deno-quic`: QUIC on Deno's own API, which requires the flag `--unstable-net`.
 * Experimental, because that API is.
 *
 * @module
 */

export {
  type DenoQuicTransportOptions,
  denoQuicTransport,
} from "../adapters/deno-quic/lazy-transport.ts";
export type { DenoQuicOptions } from "../adapters/deno-quic/options.ts";
export type {
  ErrorCode,
  ErrorKind,
  VortexError,
  VortexErrorJson,
  VortexErrorOptions,
} from "../src/errors.ts";
export type { Address } from "../src/transport/address.ts";
export type {
  IdentityStore,
  TlsClientOptions,
  TlsIdentity,
  TlsServerOptions,
} from "../src/transport/tls.ts";
export type {
  ByteReader,
  ByteStream,
  ByteWriter,
  CloseInfo,
  Connection,
  DialOptions,
  EarlyData,
  KeptStream,
  Listener,
  ListenerCounters,
  ListenOptions,
  OpenStreamOptions,
  Transport,
} from "../src/transport/transport.ts";
