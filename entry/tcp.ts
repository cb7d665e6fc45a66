/**
 * `vortex-peer/tcp`: TCP transport on node:net, for Node, Bun and Deno.
 *
 * @module
 */
export { tcpTransport } from "../adapters/tcp/transport.ts";
export type {
  ErrorCode,
  ErrorKind,
  VortexError,
  VortexErrorJson,
  VortexErrorOptions,
} from "../src/errors.ts";
export type { Address } from "../src/transport/address.ts";
export type { TlsIdentity } from "../src/transport/tls.ts";
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
