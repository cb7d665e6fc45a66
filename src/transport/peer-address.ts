import { VortexError } from "../errors.ts";
import { formatAddress, parseAddress } from "./address.ts";
import { type Protocol, protocols } from "./protocol.ts";

/** Where a peer serves each protocol, `host:port`. One that is absent is not tried. */
export interface PeerAddresses {
  /** Its UDP port for Vortex over QUIC; 4006 at stock peers. */
  readonly quic?: string;
  /** Its port for Vortex over TCP; 4005 at stock peers. */
  readonly tcp?: string;
  /** Its port for the Dragonfly API over gRPC; 4000 at stock peers. */
  readonly grpc?: string;
}

/**
 * A peer. As `host:port` it is the port of the one protocol that the downloader speaks; for `auto` and `hybrid` see
 * {@link addressesOf}. With an address for each protocol, a program works with any of them.
 */
export type PeerAddress = string | PeerAddresses;

/** The ports at which a peer serves, by protocol. */
export type ProtocolPorts = Readonly<Record<Protocol, number>>;

/** The ports of stock Dragonfly: `storage.server.quicPort`, `storage.server.tcpPort`, `upload.server.port`. */
export const stockPorts: ProtocolPorts = { quic: 4006, tcp: 4005, grpc: 4000 };

/**
 * The addresses of a peer, each in one form. `host:port` with one of `ports` stands for a peer that has all of them; with
 * another one it is the port of every protocol, since which of them is served there is not known.
 *
 * @throws `InvalidArgument`
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
 * The address of a peer for one protocol, in its one form.
 * @throws `InvalidArgument`
 */
export function addressFor(addr: PeerAddress, protocol: Protocol): string {
  if (typeof addr === "string") return addr;
  const own = parsed(addr)[protocol];
  if (own !== undefined) return own;
  throw new VortexError(
    "InvalidArgument",
    `${nameOf(addr)}: expected an address for protocol ${protocol} too`,
  );
}

/**
 * What a peer with an address for each protocol is called: the first of them.
 * @throws `InvalidArgument` when there is none
 */
export function nameOf({ quic, tcp, grpc }: PeerAddresses): string {
  const name = quic ?? tcp ?? grpc;
  if (name === undefined) {
    throw new VortexError(
      "InvalidArgument",
      "a peer without an address: expected quic, tcp or grpc, each host:port",
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
