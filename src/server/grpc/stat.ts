import type { PieceKind } from "../../piece.ts";
import type { StoredTask } from "../../store/store.ts";
import { Answer } from "./answer.ts";
import type { Call } from "./call.ts";
import type { UploadService } from "./upload-service.ts";

/**
 * Looks up a task for a Stat method, and reports the call to telemetry.
 *
 * @param name name of the operation in telemetry
 * @param kind required kind of the task; undefined accepts any kind
 * @throws NOT_FOUND if the store does not have such a task
 */
export function stat(
  { settings, lookup }: UploadService,
  name: "stat_task" | "stat_local_task",
  kind: PieceKind | undefined,
  { taskId }: { readonly taskId: string },
  { headers, signal }: Call,
): Promise<StoredTask> {
  const answer = new Answer(settings.telemetry, { name, taskId, kind, headers });
  return answer.run(() => lookup.task(kind, taskId, signal));
}
