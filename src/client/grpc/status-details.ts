import type { UniversalClientFn } from "@connectrpc/connect/protocol";
import { remoteText, type VortexError } from "../../errors.ts";

/** Header or trailer with the details of a gRPC status, in base64. */
const DETAILS = "grpc-status-details-bin";

/** Max length of the details in base64. Longer ones are ignored. */
const MAX_DETAILS_LENGTH = 64 * 1024;
/** Max number of headers of the origin that are kept. */
const MAX_HEADERS = 64;
/** Max length of each text of the origin, in UTF-16 code units. */
const MAX_TEXT_LENGTH = 1024;

/**
 * Keeps Connect from parsing the details of a gRPC status. Connect expects a Protobuf message in
 * them, but dfdaemon sends JSON. It would then report a malformed message instead of the status.
 *
 * The unparsed details remain in the metadata of the error, where {@link originFailure} reads them.
 */
export function withoutStatusDetails(client: UniversalClientFn): UniversalClientFn {
  return async (request) => {
    const response = await client(request);
    hideDetails(response.header);
    hideDetails(response.trailer);
    return response;
  };
}

/**
 * Replaces the method `get`, by which Connect reads the details. Trailers arrive later in the same
 * object, so they cannot be removed here.
 */
function hideDetails(headers: Headers): void {
  const get = headers.get.bind(headers);
  Object.defineProperty(headers, "get", {
    value: (name: string) => (name.toLowerCase() === DETAILS ? null : get(name)),
  });
}

/**
 * Returns the failure of the task's origin that a peer reported in the details of a gRPC status.
 * Returns undefined if there are none, or if they have another form.
 *
 * dfdaemon sends `{"message": text, "header": {name: value}, "status_code": number or null}`.
 * Source: dragonfly-client 1.5.10, `grpc/dfdaemon_upload.rs`, `Backend`.
 */
export function originFailure(metadata: Headers): VortexError["origin"] {
  const details = metadata.get(DETAILS);
  if (details === null || details.length > MAX_DETAILS_LENGTH) return undefined;
  const value = parseDetails(details);
  if (!isRecord(value)) return undefined;
  const { message, header, status_code: status = null } = value;
  if (typeof message !== "string" || !(isRecord(header) || header === undefined)) return undefined;
  if (status !== null && !isHttpStatus(status)) return undefined;
  const headers = Object.entries(header ?? {}).flatMap(([name, text]) =>
    typeof text === "string" ? [[limited(name).toLowerCase(), limited(text)] as const] : [],
  );
  return {
    status: status ?? undefined,
    headers: Object.fromEntries(headers.slice(0, MAX_HEADERS)),
    message: limited(message),
  };
}

/** Decodes base64, with or without padding, and parses JSON. Returns undefined if invalid. */
function parseDetails(details: string): unknown {
  try {
    const bytes = Uint8Array.from(atob(details), (char) => char.charCodeAt(0));
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    return undefined;
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isHttpStatus(value: unknown): value is number {
  return Number.isInteger(value) && Number(value) >= 100 && Number(value) <= 999;
}

function limited(text: string): string {
  return remoteText(text, MAX_TEXT_LENGTH);
}
