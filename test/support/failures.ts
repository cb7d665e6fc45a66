import assert from "node:assert/strict";
import { type ErrorCode, VortexError } from "../../src/errors.ts";

/** Returns the `VortexError` thrown by `run`. Rethrows other errors; fails if nothing is thrown. */
export function thrownBy(run: () => unknown): VortexError {
  try {
    run();
  } catch (error) {
    if (error instanceof VortexError) return error;
    throw error;
  }
  assert.fail("nothing was thrown");
}

/**
 * Returns the `VortexError` that `promise` rejects with. Rethrows other errors; fails if it
 * resolves.
 */
export async function rejectionOf(promise: Promise<unknown>): Promise<VortexError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof VortexError) return error;
    throw error;
  }
  assert.fail("the promise was not rejected");
}

/** Asserts that `run` throws a `VortexError` with `code`, and returns that error. */
export function assertThrows(run: () => unknown, code: ErrorCode): VortexError {
  const error = thrownBy(run);
  assert.equal(error.code, code, error.message);
  return error;
}

/** Asserts that `promise` rejects with a `VortexError` with `code`, and returns that error. */
export async function assertRejects(
  promise: Promise<unknown>,
  code: ErrorCode,
): Promise<VortexError> {
  const error = await rejectionOf(promise);
  assert.equal(error.code, code, error.message);
  return error;
}
