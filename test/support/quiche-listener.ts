import type { Socket } from "node:dgram";
import { udpSocket } from "../../adapters/quiche/datagrams.ts";
import { listenQuiche } from "../../adapters/quiche/listener.ts";
import { loadQuiche, type Quiche } from "../../adapters/quiche/native.ts";
import { applySettings, quicheSettings, serverSettings } from "../../adapters/quiche/options.ts";
import { serverConfig } from "../../adapters/quiche/tls.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import type { VortexError } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import type { Listener } from "../../src/transport/transport.ts";

/** A listener of quiche with its socket, so that a test can hand it datagrams with sources that only a raw socket has. */
export interface OpenListener {
  readonly listener: Listener;
  /** Hands the listener a datagram, as the socket does. */
  receive(datagram: Uint8Array, from: Address): void;
  /** Where datagrams went, with `PORT HOST` of each. */
  readonly sentTo: readonly string[];
}

/**
 * Listens on a socket of its own.
 *
 * @param faulty replaces calls of the binding by others
 */
export async function openQuicheListener(
  local: Address,
  onError?: (error: VortexError) => void,
  faulty: (quiche: Quiche) => Quiche = (quiche) => quiche,
): Promise<OpenListener> {
  const quiche = faulty(await loadQuiche());
  const settings = serverSettings(quicheSettings({}));
  const sockets: Socket[] = [];
  const sentTo: string[] = [];
  const listener = await listenQuiche(
    {
      quiche,
      settings,
      maxConnections: 16,
      maxStreams: 16,
      onError,
      identity: await selfSigned(),
      configsFor: (identity) => (payloadSize) => {
        const config = serverConfig(quiche, identity, undefined);
        applySettings(config, settings, 16, payloadSize);
        return config;
      },
      openSocket(family, bufferSize) {
        const socket = udpSocket(family, bufferSize);
        const send = socket.send.bind(socket) as (...args: unknown[]) => void;
        // Offset and length stand before the port and the host.
        socket.send = (...args: unknown[]) => {
          sentTo.push(`${args[3]} ${args[4]}`);
          send(...args);
        };
        sockets.push(socket);
        return socket;
      },
    },
    local,
  );
  const [socket] = sockets;
  if (socket === undefined) throw new TypeError("the listener has made no socket");
  return {
    listener,
    sentTo,
    receive(datagram, from) {
      const family = from.host.includes(":") ? "IPv6" : "IPv4";
      socket.emit("message", datagram, {
        address: from.host,
        port: from.port,
        family,
        size: datagram.length,
      });
    },
  };
}
