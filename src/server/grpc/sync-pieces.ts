import type { PieceKind } from "../../piece.ts";
import { type PieceAddress, pieceAddress } from "./advertised.ts";
import { Answer, reportFailure } from "./answer.ts";
import { type Call, HEADERS_ONLY } from "./call.ts";
import { piecesOf } from "./lookup.ts";
import { numbersIn, spanOf, wantedPieces } from "./requests.ts";
import type { UploadService } from "./upload-service.ts";

/** Request for SyncPieces, or for a variant for another kind of task. */
export interface SyncRequest {
  readonly taskId: string;
  interestedPieceNumbers: number[];
}

/** Message in a response to SyncPieces or a variant. Announces one piece and its address. */
export interface Announcement extends PieceAddress {
  readonly number: number;
  readonly offset: bigint;
  readonly length: bigint;
}

/**
 * Implements SyncPieces and its variants: yields the number, offset and length of each requested
 * piece as soon as it is in the store. The response lasts until all of them have been announced, or
 * the server closes. A request without piece numbers requests all pieces of the task; dfdaemon
 * always sends numbers.
 */
export function syncPieces(
  service: UploadService,
  kind: PieceKind,
  request: SyncRequest,
  call: Call,
): AsyncIterable<Announcement | typeof HEADERS_ONLY> {
  const { taskId } = request;
  const start = { name: "sync_pieces", taskId, kind, headers: call.headers } as const;
  const answer = new Answer(service.settings.telemetry, start);
  return answer.stream(announcements(service, kind, request, call));
}

async function* announcements(
  { settings, advertised, lookup, slots, draining }: UploadService,
  kind: PieceKind,
  request: SyncRequest,
  call: Call,
): AsyncGenerator<Announcement | typeof HEADERS_ONLY, void, void> {
  const task = await lookup.task(kind, request.taskId, call.signal);
  const address = pieceAddress(advertised, call.localIp);
  const { interestedPieceNumbers: named } = request;
  const wanted = wantedPieces(task, named.length > 0 ? named : numbersIn(spanOf(task)));
  // Free the numbers: the request stays in memory until the response is complete.
  request.interestedPieceNumbers = [];
  if (wanted.size === 0) return;
  const slot = slots.take(call.network, call.signal, draining);
  try {
    yield HEADERS_ONLY;
    for await (const { number, offset, length } of piecesOf(task, slot.signal)) {
      slot.throwIfEnded();
      if (!wanted.delete(number)) continue;
      yield { number, offset, length, ...address };
      if (wanted.size === 0) return;
    }
  } catch (error) {
    slot.throwIfEnded();
    throw reportFailure(error, "the task", call.signal, settings);
  } finally {
    slot.leave();
  }
}
