import { VortexError } from "../errors.ts";
import { formatAddress, parseAddress } from "./address.ts";
import { type Protocol, protocols } from "./protocol.ts";

/**
 * Addresses of a peer by protocol, each `host:port`. A protocol without an address is not tried.
 */
export interface PeerAddresses {
  /** Address of Vortex over QUIC (UDP); port 4006 at stock peers. */
  readonly quic?: string;
  /** Address of Vortex over TCP; port 4005 at stock peers. */
  readonly tcp?: string;
  /** Address of the Dragonfly API over gRPC; port 4000 at stock peers. */
  readonly grpc?: string;
}

/**
 * Address of a peer. A string `host:port` is the address for the protocol of the downloader; for
 * `auto` and `hybrid` see {@link addressesOf}. An object has a separate address for each protocol,
 * and works with any downloader.
 */
export type PeerAddress = string | PeerAddresses;

/** Port of a peer for each protocol. */
export type ProtocolPorts = Readonly<Record<Protocol, number>>;

/**
 * Default ports of stock Dragonfly: `storage.server.quicPort`, `storage.server.tcpPort` and
 * `upload.server.port`.
 */
export const stockPorts: ProtocolPorts = { quic: 4006, tcp: 4005, grpc: 4000 };

/**
 * Returns the address of a peer for each protocol, in normal form.
 *
 * A string whose port is one of `ports` stands for a peer that serves every protocol at its usual
 * port. Any other port is used for every protocol, because it is unknown which one is served there.
 *
 * @param ports usual port of each protocol
 * @throws `InvalidArgument` for an invalid address, or an object without addresses
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
 * Returns the address of a peer for one protocol. A string is returned as it is; an address from an
 * object is returned in normal form.
 *
 * @throws `InvalidArgument` for an invalid address, or an object without one for the protocol
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
 * Returns the name of a peer for messages and maps: its first address.
 *
 * @throws `InvalidArgument` if there is no address
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
