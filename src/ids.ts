/**
 * IDs of tasks, hosts and peers. They equal the IDs that stock Dragonfly derives, so both name the
 * same things. Source: dragonfly-client 1.5.1, `dragonfly-client-util/src/id_generator`; vectors in
 * `test/vectors/ids.json`.
 */
import { type HasherFactory, portableHashers } from "./digest/hasher.ts";
import { VortexError } from "./errors.ts";
import { requireInteger } from "./piece.ts";

/** Inputs of the ID of a standard task that is identified by its URL, see {@link taskIdOfUrl}. */
export interface UrlIdentity {
  /** Absolute URL of the origin. */
  readonly url: string;
  /** Names of query parameters to exclude from the ID, such as signatures. Default: none. */
  readonly filteredQueryParams?: readonly string[];
  /** User-defined text that distinguishes tasks with the same URL. */
  readonly tag?: string;
  /** Name of the application that the task belongs to. */
  readonly application?: string;
  /** Branch, tag or commit, for URLs of model hubs. */
  readonly revision?: string;
  /** Piece length in bytes, only if set explicitly and not derived from the content length. */
  readonly pieceLength?: number;
}

/** Location of the object behind a persistent task, from which its ID is derived. */
export interface ObjectIdentity {
  /** URL of the object, such as `s3://bucket/key`. */
  readonly url: string;
  /** Region of the storage service. */
  readonly region: string;
  /** Endpoint of the storage service. */
  readonly endpoint: string;
}

/** Inputs of the ID of a persistent cache task, besides its content. */
export interface CacheIdentity {
  /** User-defined text that distinguishes tasks with the same content. */
  readonly tag?: string;
  /** Name of the application that the task belongs to. */
  readonly application?: string;
  /** Piece length in bytes, only if set explicitly and not derived from the content length. */
  readonly pieceLength?: number;
}

/** Inputs of the ID of a host, and of the peer IDs on that host. */
export interface HostIdentity {
  /** IP address of the host. */
  readonly ip: string;
  /** Name of the host. */
  readonly hostname: string;
  /** True for a seed peer. Default false. */
  readonly seed?: boolean;
}

/**
 * Query parameters that stock proxies exclude from task IDs: signatures of S3, GCS, OSS, OBS and
 * COS, and containerd's `ns`. Source: dragonfly-client-util, `http/query_params.rs`.
 */
export const defaultFilteredQueryParams: readonly string[] = [
  "X-Amz-Algorithm",
  "X-Amz-Credential",
  "X-Amz-Date",
  "X-Amz-Expires",
  "X-Amz-SignedHeaders",
  "X-Amz-Signature",
  "X-Amz-Security-Token",
  "X-Amz-User-Agent",
  "X-Goog-Algorithm",
  "X-Goog-Credential",
  "X-Goog-Date",
  "X-Goog-Expires",
  "X-Goog-SignedHeaders",
  "X-Goog-Signature",
  "OSSAccessKeyId",
  "Expires",
  "Signature",
  "SecurityToken",
  "AccessKeyId",
  "X-Obs-Date",
  "X-Obs-Security-Token",
  "q-sign-algorithm",
  "q-ak",
  "q-sign-time",
  "q-key-time",
  "q-header-list",
  "q-url-param-list",
  "q-signature",
  "x-cos-security-token",
  "ns",
];

/**
 * Derives the ID of a standard task from its URL.
 *
 * @throws `InvalidArgument` for anything but an absolute URL
 */
export function taskIdOfUrl(
  identity: UrlIdentity,
  hashers: HasherFactory = portableHashers,
): string {
  const { url, filteredQueryParams = [], tag, application, revision, pieceLength } = identity;
  return sha256(
    [
      normalisedUrl(url, filteredQueryParams),
      tag,
      application,
      revision,
      lengthText(pieceLength),
      "STANDARD",
    ],
    hashers,
  );
}

/** Derives the ID of a standard or persistent cache task from a user-defined text. */
export function taskIdOfContent(content: string, hashers: HasherFactory = portableHashers): string {
  return sha256([content], hashers);
}

/**
 * Returns the ID of a standard task whose origin is an OCI blob. It is the digest in the URL,
 * `…/v2/<name>/blobs/<algorithm>:<digest>`.
 *
 * @throws `InvalidArgument` for any other URL
 */
export function taskIdOfBlob(url: string): string {
  const id = blobDigest(url);
  if (id === undefined) {
    throw new VortexError(
      "InvalidArgument",
      `task id of a blob: expected a URL like https://host/v2/name/blobs/sha256:…, got "${url}"`,
    );
  }
  return id;
}

/**
 * Returns true if `url` has the form of an OCI blob URL. Stock peers check that before they use
 * {@link taskIdOfBlob}.
 */
export function isBlobUrl(url: string): boolean {
  return blobUrl.test(url);
}

/** Derives the ID of a persistent task from the location of its object. */
export function persistentTaskId(
  identity: ObjectIdentity,
  hashers: HasherFactory = portableHashers,
): string {
  return sha256([identity.url, identity.region, identity.endpoint, "PERSISTENT"], hashers);
}

/**
 * Derives the ID of a persistent cache task from its content.
 *
 * @param content chunks of the whole content, in order
 */
export async function persistentCacheTaskId(
  content: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  identity: CacheIdentity = {},
  hashers: HasherFactory = portableHashers,
): Promise<string> {
  const hasher = hashers("sha256");
  for await (const chunk of content) hasher.update(chunk);
  const { tag, application, pieceLength } = identity;
  for (const text of [tag, application, lengthText(pieceLength), "PERSISTENT_CACHE"])
    hasher.update(utf8(text));
  return hasher.encode();
}

/** Returns the ID of a host: `ip-hostname`, or `ip-hostname-seed` for a seed peer. */
export function hostId({ ip, hostname, seed }: HostIdentity): string {
  return seed ? `${ip}-${hostname}-seed` : `${ip}-${hostname}`;
}

/**
 * Generates a new peer ID. In Dragonfly a peer is one host's participation in one task. The ID is
 * `ip-hostname-uuid`, or `ip-hostname-uuid-seed` for a seed peer, with a version 4 UUID (RFC 9562).
 *
 * @param random fills an array with random bytes and returns it, as {@link Runtime.random} does
 */
export function peerId(
  { ip, hostname, seed }: HostIdentity,
  random: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array = (bytes) => crypto.getRandomValues(bytes),
): string {
  const id = `${ip}-${hostname}-${uuid4(random(new Uint8Array(16)))}`;
  return seed ? `${id}-seed` : id;
}

/**
 * Normalises a URL as stock Dragonfly does before it hashes one:
 *
 * - It parses and serialises the URL with the crate `url` 2.5. That follows the WHATWG, except for
 *   `^` in paths.
 * - It removes filtered query parameters, and serialises the others as a form, in their order.
 * - It removes a path that is only a slash.
 */
function normalisedUrl(text: string, filtered: readonly string[]): string {
  const url = parsedUrl(text);
  if (url === undefined)
    throw new VortexError("InvalidArgument", `task URL: expected an absolute URL, got "${text}"`);
  const left = [...url.searchParams].filter(([name]) => !filtered.includes(name));
  url.search = new URLSearchParams(left).toString();
  const normalised = text.includes("^") ? withCarets(url, text) : url.href;
  return url.pathname === "/" && normalised.endsWith("/")
    ? normalised.replace(/\/+$/, "")
    : normalised;
}

/**
 * Returns `url.href` with each `^` in the path as `text` has it. Some runtimes write it as `%5E`,
 * as the WHATWG does since 2023: https://github.com/whatwg/url/pull/817. A `%5E` in `text` must
 * stay. So this replaces carets by a unique marker before parsing.
 */
function withCarets(url: URL, text: string): string {
  let mark = "caret";
  while (text.includes(mark)) mark += "x";
  const marked = parsedUrl(text.replaceAll("^", mark));
  if (marked === undefined) return url.href;
  const bare = new URL(url);
  bare.search = "";
  bare.hash = "";
  const before = bare.href.length - bare.pathname.length;
  const path = marked.pathname.replaceAll(mark, "^");
  return url.href.slice(0, before) + path + url.href.slice(bare.href.length);
}

function parsedUrl(text: string): URL | undefined {
  return URL.canParse(text) ? new URL(text) : undefined;
}

const blobUrl = /^(.*):\/\/(.*)\/v2\/(.*)\/blobs\/([^?]+)(?:\?.*)?$/;

/**
 * Length of an encoded digest by algorithm, in bytes. Like stock Dragonfly, this checks only the
 * length, not the characters.
 */
const digestLengths: Record<string, number> = { crc32: 10, sha256: 64, sha512: 128 };

function blobDigest(url: string): string | undefined {
  const [algorithm = "", ...rest] = (blobUrl.exec(url)?.[4] ?? "").split(":");
  const encoded = rest.join(":");
  const length = Object.hasOwn(digestLengths, algorithm) ? digestLengths[algorithm] : undefined;
  return utf8(encoded).length === length ? encoded : undefined;
}

function lengthText(pieceLength: number | undefined): string | undefined {
  if (pieceLength === undefined) return undefined;
  requireInteger("piece length", pieceLength, 0, Number.MAX_SAFE_INTEGER);
  return String(pieceLength);
}

function sha256(texts: readonly (string | undefined)[], hashers: HasherFactory): string {
  const hasher = hashers("sha256");
  for (const text of texts) hasher.update(utf8(text));
  return hasher.encode();
}

function utf8(text: string | undefined): Uint8Array {
  return new TextEncoder().encode(text ?? "");
}

function uuid4(random: Uint8Array): string {
  const hex = Array.from(random, (byte, at) => {
    const value = at === 6 ? (byte & 0x0f) | 0x40 : at === 8 ? (byte & 0x3f) | 0x80 : byte;
    return value.toString(16).padStart(2, "0");
  }).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
