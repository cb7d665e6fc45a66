import type { PieceStore } from "../../store/store.ts";
import type { ServerSettings } from "../admission/upload.ts";
import type { AdvertisedHost } from "./advertised.ts";
import { Lookup } from "./lookup.ts";
import { TaskSlots } from "./task-slots.ts";

/** State that the methods of one gRPC server share. */
export interface UploadService {
  readonly settings: ServerSettings;
  readonly advertised: AdvertisedHost;
  readonly lookup: Lookup;
  readonly slots: TaskSlots;
}

/** Creates the state of a gRPC server that serves the tasks of `store`. */
export function uploadService(
  store: PieceStore,
  settings: ServerSettings,
  advertised: AdvertisedHost,
): UploadService {
  return {
    settings,
    advertised,
    lookup: new Lookup(store, settings),
    slots: new TaskSlots(settings.maxTaskStreams),
  };
}
