import { readFileSync } from "node:fs";
import { defaultFilteredQueryParams, type IdVersion, type UrlIdentity } from "../../src/ids.ts";

/** Input of a test vector for IDs. Which fields are present depends on the kind of the vector. */
export interface IdInput {
  readonly url?: string;
  /** `default` stands for the default list of dfget. */
  readonly filteredQueryParams?: "default" | readonly string[];
  readonly tag?: string;
  readonly application?: string;
  readonly revision?: string;
  readonly pieceLength?: number;
  readonly region?: string;
  readonly endpoint?: string;
  readonly content?: string;
  readonly contentHex?: string;
  readonly ip?: string;
  readonly hostname?: string;
}

/** Input with the ID that dfdaemon 1.5.10 derives from it, and the ID that 1.5.1 derives. */
export interface IdVector {
  readonly name: string;
  readonly kind:
    | "url"
    | "blob"
    | "manifest"
    | "persistent"
    | "persistent-cache"
    | "content"
    | "persistent-cache-content"
    | "host";
  readonly input: IdInput;
  /** Hashed text of the URL in 1.5.10. */
  readonly canonical?: string;
  /** Absent if 1.5.10 reports an error. */
  readonly id?: string;
  /** Null if 1.5.1 reports an error. */
  readonly id_1_5_1: string | null;
}

/** Reads the test vectors from `test/vectors/ids-1.5.10.json`. */
export const idVectors: readonly IdVector[] = JSON.parse(
  readFileSync(new URL("../vectors/ids-1.5.10.json", import.meta.url), "utf8"),
);

/** Converts the input of a vector of kind `url`. */
export function urlIdentityOf(
  { url = "", filteredQueryParams, tag, application, revision, pieceLength }: IdInput,
  idVersion?: IdVersion,
): UrlIdentity {
  return {
    url,
    filteredQueryParams:
      filteredQueryParams === "default" ? defaultFilteredQueryParams : filteredQueryParams,
    tag,
    application,
    revision,
    pieceLength,
    idVersion,
  };
}
