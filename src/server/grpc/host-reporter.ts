import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HostSchema } from "../../gen/common/v2/common_pb.ts";
import { hostId } from "../../ids.ts";
import type { ServerSettings } from "../admission/upload.ts";
import type { AdvertisedHost } from "./advertised.ts";
import type { HostFigures, HostProbe } from "./host-probe.ts";

/** Interval between two messages of a response to SyncHost, in ms. dfdaemon has the same. */
export const HOST_INTERVAL_MS = 1000;

/** Number of addresses whose reading is kept. */
const MAX_READINGS = 16;

/** Message in a response to SyncHost. */
export type HostMessage = MessageInitShape<typeof HostSchema>;

/**
 * Builds the messages about this host. All responses share one reading of the figures a second, so
 * the number of children does not multiply the cost.
 */
export class HostReporter {
  readonly #advertised: AdvertisedHost;
  readonly #settings: ServerSettings;
  readonly #port: number;
  readonly #probe: HostProbe | undefined;
  /** Latest reading of each network interface, by IP address. */
  readonly #readings = new Map<string, { readonly at: number; figures: Promise<HostFigures> }>();

  /**
   * @param port port of this host's Dragonfly API
   * @param probe measures the load. Default: all figures are zero
   */
  constructor(
    advertised: AdvertisedHost,
    settings: ServerSettings,
    port: number,
    probe: HostProbe | undefined,
  ) {
    this.#advertised = advertised;
    this.#settings = settings;
    this.#port = port;
    this.#probe = probe;
  }

  /**
   * Resolves to the message about this host. Never rejects: figures that cannot be read are zero.
   *
   * @param localIp IP address of this host that the peer connected to
   */
  async message(localIp: string): Promise<HostMessage> {
    const { advertisedIp: ip = localIp, hostname = "vortex-peer" } = this.#advertised;
    const figures = await this.#figures(localIp);
    const { limiter } = this.#settings;
    return {
      id: hostId({ ip, hostname }),
      hostname,
      ip,
      port: this.#port,
      ...hostFields(figures, limiter && limiter.rate * 8),
    };
  }

  #figures(localIp: string): Promise<HostFigures> {
    const now = this.#settings.runtime.clock.now();
    const known = this.#readings.get(localIp);
    // Half an interval: each response has its own timer.
    if (known !== undefined && now - known.at < HOST_INTERVAL_MS / 2) return known.figures;
    const figures = this.#probe?.read(localIp).catch(() => ({})) ?? Promise.resolve({});
    // Peers choose among the addresses of this host, which may be many.
    if (this.#readings.size >= MAX_READINGS) this.#readings.clear();
    this.#readings.set(localIp, { at: now, figures });
    return figures;
  }
}

/**
 * Converts figures to the fields of a Host message.
 *
 * @param maxSendRate limit of all uploads together, in bits/s; undefined if there is none
 */
function hostFields(figures: HostFigures, maxSendRate: number | undefined): HostMessage {
  const { memoryTotal: total = 0, memoryAvailable: available = 0, processMemory = 0 } = figures;
  const { linkSpeed = 0, receiveRate, sendRate } = figures;
  const used = Math.max(0, total - available);
  const percentOf = (part: number): number => (total === 0 ? 0 : (100 * part) / total);
  // A speed of zero is unknown, so that the limit alone is the maximum.
  const maxTx = Math.min(linkSpeed || Number.MAX_SAFE_INTEGER, maxSendRate ?? linkSpeed);
  return {
    os: figures.os ?? "",
    platform: figures.platform ?? "",
    kernelVersion: figures.kernelVersion ?? "",
    cpu: {
      logicalCount: figures.cores ?? 0,
      percent: figures.cpuPercent ?? 0,
      processPercent: figures.processCpuPercent ?? 0,
    },
    memory: {
      total: whole(total),
      available: whole(available),
      used: whole(used),
      usedPercent: percentOf(used),
      processUsedPercent: percentOf(processMemory),
    },
    network: {
      maxRxBandwidth: whole(linkSpeed),
      maxTxBandwidth: whole(maxTx),
      ...(receiveRate !== undefined && { rxBandwidth: whole(receiveRate) }),
      ...(sendRate !== undefined && { txBandwidth: whole(sendRate) }),
    },
  };
}

/** Converts a figure to an unsigned integer. */
function whole(figure: number): bigint {
  return BigInt(Math.max(0, Math.round(figure)));
}
