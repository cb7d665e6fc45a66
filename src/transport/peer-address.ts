import { type Check, type Checks, fields, integer, text, textOr } from "../arguments.ts";
import { VortexError } from "../errors.ts";
import { formatAddress, parseAddress } from "./address.ts";
import { type Protocol, protocols } from "./protocol.ts";

/**
 * Addresses of one peer, each in the form `host:port`. A downloader does not try a protocol without
 * an address.
 */
export interface PeerAddresses {
  /** Address of the peer's Vortex server over QUIC (UDP). Stock Dragonfly peers use port 4006. */
  readonly quic?: string | undefined;
  /** Address of the peer's Vortex server over TCP. Stock Dragonfly peers use port 4005. */
  readonly tcp?: string | undefined;
  /** Address of the peer's gRPC server. Stock Dragonfly peers use port 4000. */
  readonly grpc?: string | undefined;
}

/**
 * Address of a peer, as text in the form `host:port` or as an object. Text is the address for the
 * protocol of the downloader; for the protocols `auto` and `hybrid` see {@link addressesOf}. An
 * object has a separate address for each protocol, and works with every downloader.
 */
export type PeerAddress = string | PeerAddresses;

/** Port for each protocol of a peer. */
export type ProtocolPorts = Readonly<Record<Protocol, number>>;

/**
 * Default ports of stock Dragonfly: `storage.server.quicPort`, `storage.server.tcpPort` and
 * `upload.server.port` in `dfdaemon.yaml`.
 */
export const stockPorts: ProtocolPorts = { quic: 4006, tcp: 4005, grpc: 4000 };

/**
 * Returns the addresses of a peer for each protocol, with each address in the form of
 * {@link formatAddress}.
 *
 * If `addr` is text and its port is one of `ports`, the peer is assumed to serve each protocol at
 * its port in `ports`. Text with another port is the address for every protocol, because it is
 * unknown which protocol the peer serves there.
 *
 * @param ports usual port of each protocol
 * @throws `InvalidArgument` if an address is not in the form `host:port`, or an object has no
 * address
 */
export function addressesOf(addr: PeerAddress, ports: ProtocolPorts): PeerAddresses {
  if (typeof addr !== "string") return parsed(addr);
  const { host, port } = parseAddress(addr);
  const usual = protocols.some((protocol) => ports[protocol] === port);
  const at = (protocol: Protocol): string =>
    formatAddress({ host, port: usual ? ports[protocol] : port });
  return { quic: at("quic"), tcp: at("tcp"), grpc: at("grpc") };
}

/**
 * Returns the address of a peer for one protocol. Text is returned unchanged; an address from an
 * object is returned in the form of {@link formatAddress}.
 *
 * @throws `InvalidArgument` if an object has no address for `protocol`, or a malformed address
 */
export function addressFor(addr: PeerAddress, protocol: Protocol): string {
  if (typeof addr === "string") return addr;
  const own = parsed(addr)[protocol];
  if (own !== undefined) return own;
  throw new VortexError(
    "InvalidArgument",
    `peer ${nameOf(addr)}: expected an address for protocol ${protocol}, got none`,
  );
}

/**
 * Returns the name of a peer for error messages and as a map key. The name is its QUIC address; if
 * absent, its TCP address; if absent, its gRPC address.
 *
 * @throws `InvalidArgument` if all addresses are absent
 */
export function nameOf({ quic, tcp, grpc }: PeerAddresses): string {
  const name = quic ?? tcp ?? grpc;
  if (name === undefined) {
    throw new VortexError(
      "InvalidArgument",
      "peer address: expected quic, tcp or grpc, each host:port, got none",
    );
  }
  return name;
}

function parsed({ quic, tcp, grpc }: PeerAddresses): PeerAddresses {
  const one = (addr: string): string => formatAddress(parseAddress(addr));
  const addresses = {
    ...(quic !== undefined && { quic: one(quic) }),
    ...(tcp !== undefined && { tcp: one(tcp) }),
    ...(grpc !== undefined && { grpc: one(grpc) }),
  };
  nameOf(addresses);
  return addresses;
}

/** Check of each field of {@link ProtocolPorts}; a failed one throws `InvalidArgument`. */
export const portsChecks: Checks<ProtocolPorts> = {
  quic: integer(1, 65535),
  tcp: integer(1, 65535),
  grpc: integer(1, 65535),
};

const addressesChecks: Checks<PeerAddresses> = { quic: text, tcp: text, grpc: text };

/** Check for the address of a peer: `host:port`, or one such address per protocol. */
export const peerAddress: Check = textOr("host:port, or one per protocol", fields(addressesChecks));
