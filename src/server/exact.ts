import { VortexError } from "../errors.ts";
import type { StoredPiece } from "../store/store.ts";

/**
 * Reads the content of a piece from its store, and checks that its length equals the length in its
 * metadata. Skips empty chunks. Yields no chunk that would exceed that length.
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
