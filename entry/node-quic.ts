/**
 * `vortex-peer/node-quic`: QUIC on Bun's built-in node:quic. Experimental, because that module is.
 *
 * @module
 */

export {
  type NodeQuicTransportOptions,
  nodeQuicTransport,
} from "../adapters/node-quic/lazy-transport.ts";
export type { NodeQuicOptions } from "../adapters/node-quic/options.ts";
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
