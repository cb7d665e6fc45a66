import type { PieceStore } from "../../store/store.ts";
import type { ServerSettings } from "../admission/upload.ts";
import type { AdvertisedHost } from "./advertised.ts";
import type { HostProbe } from "./host-probe.ts";
import { HostReporter } from "./host-reporter.ts";
import { Lookup } from "./lookup.ts";
import { StreamSlots } from "./stream-slots.ts";

/** State that the methods of one gRPC server share. */
export interface UploadService {
  readonly settings: ServerSettings;
  readonly advertised: AdvertisedHost;
  readonly lookup: Lookup;
  /** Slots of the responses about tasks. */
  readonly slots: StreamSlots;
  /** Slots of the responses about this host, its load and its health. */
  readonly hostSlots: StreamSlots;
  readonly host: HostReporter;
  /** Aborts when the server closes. */
  readonly draining: AbortSignal;
}

/** Options of a gRPC server's methods, in addition to its settings. */
export interface UploadServiceOptions {
  /** Addresses and names that responses contain. */
  readonly advertised?: AdvertisedHost | undefined;
  /** Port of the gRPC server, which responses about this host contain. Default 0. */
  readonly port?: number | undefined;
  /** Measures the load of this host. Default: its figures are zero. */
  readonly probe?: HostProbe | undefined;
  /**
   * Aborts when the server closes: its health becomes NOT_SERVING, and responses without a
   * foreseeable end are ended. Default: never aborts.
   */
  readonly draining?: AbortSignal | undefined;
}

/** Creates the state of a gRPC server that serves the tasks of `store`. */
export function uploadService(
  store: PieceStore,
  settings: ServerSettings,
  { advertised = {}, port = 0, probe, draining }: UploadServiceOptions,
): UploadService {
  return {
    settings,
    advertised,
    lookup: new Lookup(store, settings),
    slots: new StreamSlots(settings.maxTaskStreams),
    hostSlots: new StreamSlots(settings.maxTaskStreams),
    host: new HostReporter(advertised, settings, port, probe),
    draining: draining ?? new AbortController().signal,
  };
}
