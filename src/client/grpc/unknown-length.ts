/**
 * Length that dfdaemon and schedulers send if they do not know it: -1 as unsigned 64-bit integer.
 */
const UNKNOWN_LENGTH = 0xffff_ffff_ffff_ffffn;

/** Returns undefined for a length that the sender does not know, else the length. */
export function knownLength(length: bigint | undefined): bigint | undefined {
  return length === UNKNOWN_LENGTH ? undefined : length;
}
