import type { Socket } from "node:dgram";
import { udpSocket } from "../../adapters/quiche/datagrams.ts";
import { listenQuiche } from "../../adapters/quiche/listener.ts";
import { loadQuiche, type Quiche } from "../../adapters/quiche/native.ts";
import {
  applySettings,
  quicheServerSettings,
  quicheSettings,
} from "../../adapters/quiche/options.ts";
import { serverConfig } from "../../adapters/quiche/tls.ts";
import { selfSigned } from "../../adapters/shared/tls.ts";
import type { VortexError } from "../../src/errors.ts";
import type { Address } from "../../src/transport/address.ts";
import type { Listener } from "../../src/transport/transport.ts";

/**
 * Listener of quiche whose socket a test controls. The test can inject datagrams with source
 * addresses that only raw sockets can send.
 */
export interface OpenListener {
  readonly listener: Listener;
  /**
   * Delivers a datagram to the listener as if the socket had received it from the address `from`.
   */
  receive(datagram: Uint8Array, from: Address): void;
  /** Destination of each datagram that the listener has sent, as `PORT HOST`. */
  readonly sentTo: readonly string[];
}

/**
 * Starts a quiche listener on a new socket.
 *
 * @param faulty wraps the quiche binding, to replace some of its functions. Default: unchanged
 */
export async function openQuicheListener(
  local: Address,
  onError?: (error: VortexError) => void,
  faulty: (quiche: Quiche) => Quiche = (quiche) => quiche,
): Promise<OpenListener> {
  const quiche = faulty(await loadQuiche());
  const settings = quicheServerSettings(quicheSettings({}));
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
        // The port and host follow the buffer, offset and length.
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
