/** Configuration files of a lab's programs. Each is written as JSON, which is valid YAML. */
import { join } from "node:path";

/** Protocol over which a dfdaemon fetches pieces. */
export type DaemonProtocol = "tcp" | "quic" | "grpc";

/** Ports that a dfdaemon listens at. */
export interface DaemonPorts {
  readonly api: number;
  readonly tcp: number;
  readonly quic: number;
  readonly proxy: number;
  readonly health: number;
  readonly metrics: number;
  readonly stats: number;
}

/** Names of {@link DaemonPorts}. */
export const daemonPortNames: readonly (keyof DaemonPorts)[] = [
  "api",
  "tcp",
  "quic",
  "proxy",
  "health",
  "metrics",
  "stats",
];

/** Configuration of a scheduler without manager, database and Redis. */
export function schedulerConfig(directory: string, ip: string, port: number): object {
  return {
    server: {
      advertiseIP: ip,
      advertisePort: port,
      listenIP: ip,
      port,
      host: "lab-scheduler",
      logDir: join(directory, "logs"),
      pluginDir: join(directory, "plugins"),
    },
    scheduler: {
      algorithm: "default",
      retryBackToSourceLimit: 4,
      retryLimit: 5,
      retryInterval: "500ms",
    },
    job: { enable: false },
    metrics: { enable: false },
    console: true,
  };
}

/** Properties of a dfdaemon that differ between the daemons of a lab. */
export interface DaemonSettings {
  readonly directory: string;
  readonly name: string;
  readonly ip: string;
  readonly ports: DaemonPorts;
  readonly protocol: DaemonProtocol;
  readonly seed: boolean;
  /** Address of the manager, which dfdaemon 1.2.1 requires; later ones read dynconfig.yaml. */
  readonly manager?: string | undefined;
}

/** Returns the path of a dfdaemon's Unix socket for dfget. */
export function daemonSocket(directory: string): string {
  return join(directory, "dfdaemon.sock");
}

/** Configuration of a dfdaemon. */
export function daemonConfig(settings: DaemonSettings): object {
  const { directory, name, ip, ports, protocol, seed, manager } = settings;
  const at = (port: number): object => ({ server: { ip, port } });
  return {
    host: { hostname: name, ip },
    server: { pluginDir: join(directory, "plugins"), cacheDir: join(directory, "cache") },
    download: { protocol, server: { socketPath: daemonSocket(directory) } },
    upload: at(ports.api),
    scheduler: { announceInterval: "10s" },
    seedPeer: { enable: seed, type: "super" },
    dynconfig: { refreshInterval: "10s" },
    storage: {
      server: { ip, tcpPort: ports.tcp, quicPort: ports.quic },
      dir: join(directory, "storage"),
    },
    proxy: at(ports.proxy),
    health: at(ports.health),
    metrics: at(ports.metrics),
    stats: at(ports.stats),
    ...(manager !== undefined && { manager: { addr: `http://${manager}` } }),
  };
}

/** Content of dynconfig.yaml, which names the schedulers where there is no manager. */
export function dynconfig(scheduler: string): object {
  return { scheduler: { addrs: [scheduler] } };
}
