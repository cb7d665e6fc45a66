/**
 * Returns true if `bytes` are in an `ArrayBuffer`, and not in a `SharedArrayBuffer`, which other
 * threads can change. Also works for memory of another realm, where `instanceof` does not.
 */
export function isUnshared(bytes: Uint8Array): bytes is Uint8Array<ArrayBuffer> {
  return bytes.buffer[Symbol.toStringTag] === "ArrayBuffer";
}

/** Returns `bytes` if they are in an `ArrayBuffer`, else a copy of them in one. */
export function unshared(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  // Not `slice`: that of a Node Buffer returns a view.
  return isUnshared(bytes) ? bytes : new Uint8Array(bytes);
}
