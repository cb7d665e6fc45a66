import { VortexError } from "../errors.ts";
import type { StoredPiece } from "../store/store.ts";

/**
 * Yields the content of a piece from its store in chunks, without empty chunks. Checks that the
 * store yields exactly as many bytes as the metadata of the piece says. A chunk that exceeds this
 * length is not yielded.
 *
 * @throws `StorageFailed` if the store yields more or fewer bytes than the metadata says
 */
export async function* exactContent(piece: StoredPiece): AsyncGenerator<Uint8Array, void, void> {
  const announced = Number(piece.metadata.length);
  const failure = (got: string): VortexError =>
    new VortexError(
      "StorageFailed",
      `piece ${piece.metadata.number}: expected ${announced} bytes from the store, got ${got}`,
    );
  let length = 0;
  for await (const chunk of piece.read()) {
    if (chunk.length === 0) continue;
    length += chunk.length;
    if (length > announced) throw failure(`at least ${length}`);
    yield chunk;
  }
  if (length < announced) throw failure(`${length}`);
}
