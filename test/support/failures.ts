import assert from "node:assert/strict";
import { type ErrorCode, VortexError } from "../../src/errors.ts";

/**
 * Returns the `VortexError` that `run` throws. Rethrows any other error. Fails the test if `run`
 * does not throw.
 */
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
 * Returns the `VortexError` with which `promise` rejects. Rethrows any other error. Fails the test
 * if `promise` resolves.
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

/** Asserts that `run` throws a `VortexError` with the code `code`, and returns the error. */
export function assertThrows(run: () => unknown, code: ErrorCode): VortexError {
  const error = thrownBy(run);
  assert.equal(error.code, code, error.message);
  return error;
}

/**
 * Asserts that `promise` rejects with a `VortexError` with the code `code`, and returns the error.
 */
export async function assertRejects(
  promise: Promise<unknown>,
  code: ErrorCode,
): Promise<VortexError> {
  const error = await rejectionOf(promise);
  assert.equal(error.code, code, error.message);
  return error;
}
