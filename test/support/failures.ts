import assert from "node:assert/strict";
import { type ErrorCode, VortexError } from "../../src/errors.ts";

/** The `VortexError` that `run` throws; fails when it throws nothing, or anything else. */
export function thrownBy(run: () => unknown): VortexError {
  try {
    run();
  } catch (error) {
    if (error instanceof VortexError) return error;
    throw error;
  }
  assert.fail("nothing was thrown");
}

/** The `VortexError` that `promise` rejects with; fails when it resolves, or rejects with anything else. */
export async function rejectionOf(promise: Promise<unknown>): Promise<VortexError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof VortexError) return error;
    throw error;
  }
  assert.fail("the promise was not rejected");
}

/** Fails unless `run` throws a `VortexError` with `code`. */
export function assertThrows(run: () => unknown, code: ErrorCode): VortexError {
  const error = thrownBy(run);
  assert.equal(error.code, code, error.message);
  return error;
}

/** Fails unless `promise` rejects with a `VortexError` with `code`. */
export async function assertRejects(
  promise: Promise<unknown>,
  code: ErrorCode,
): Promise<VortexError> {
  const error = await rejectionOf(promise);
  assert.equal(error.code, code, error.message);
  return error;
}
