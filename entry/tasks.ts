/**
 * `vortex-peer/tasks`: download of whole tasks from several parents, and the factory that builds a
 * `createDownloader` from transport bindings.
 *
 * @module
 */
export { downloaderFactory } from "../src/client/factory.ts";
export type { ClosableDirectory, Downloader } from "../src/client/task-downloader.ts";
export type {
  DirectoryOptions,
  PieceLocation,
  SyncOptions,
  TaskDirectory,
  TaskOutline,
} from "../src/task/discovery.ts";
export type { KnownLayout, ListedPiece } from "../src/task/layout.ts";
export { type MemorySink, type MemorySinkOptions, memorySink } from "../src/task/memory-sink.ts";
export type {
  SinkLayout,
  SinkOpenOptions,
  SinkPart,
  SinkPiece,
  SinkSession,
  TaskSink,
} from "../src/task/sink.ts";
export type {
  ParentProgress,
  ParentState,
  RouteProgress,
  StreamLayout,
  TaskDownload,
  TaskDownloadOptions,
  TaskEvent,
  TaskParent,
  TaskProgress,
  TaskReport,
  TaskStream,
  TaskStreamOptions,
  Verified,
} from "../src/task/task.ts";
