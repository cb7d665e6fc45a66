import { readFileSync } from "node:fs";

/** Encoded Vortex packet, and the result of the reference decoder for it. */
export interface Vector {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly decoded:
    | { readonly ok: true; readonly [field: string]: unknown }
    | { readonly ok: false; error: string };
}

/** Reads the test vectors from `test/vectors/vortex.json`. */
export function loadVectors(): Vector[] {
  const text = readFileSync(new URL("../vectors/vortex.json", import.meta.url), "utf8");
  const rows = JSON.parse(text) as { name: string; hex: string; decoded: Vector["decoded"] }[];
  return rows.map(({ name, hex, decoded }) => ({ name, bytes: bytesOfHex(hex), decoded }));
}

export function bytesOfHex(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}
