/**
 * `vortex-peer/quiche`: QUIC on quiche, for Node and Bun. It requires the optional package
 * `@matrixai/quic` and fails with `Unavailable` without it.
 *
 * @module
 */

export { type QuicheTransportOptions, quicheTransport } from "../adapters/quiche/lazy-transport.ts";
export type { QuicheOptions } from "../adapters/quiche/options.ts";
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
