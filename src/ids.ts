/**
 * Ids of tasks, hosts and peers, made exactly as stock Dragonfly makes them, so that both mean the same by them. Source:
 * dragonfly-client 1.5.1, `dragonfly-client-util/src/id_generator`; vectors in `test/vectors/ids.json`.
 */
import { type HasherFactory, portableHashers } from "./digest/hasher.ts";
import { VortexError } from "./errors.ts";
import { requireInteger } from "./piece.ts";

/** What a standard task's id is made of, if it is not made of content or of a blob's digest. */
export interface UrlIdentity {
  /** The origin, absolute. */
  readonly url: string;
  /** Query parameters that are no part of the identity, such as signatures. Default: none. */
  readonly filteredQueryParams?: readonly string[];
  /** Tells tasks of one URL apart. */
  readonly tag?: string;
  /** The program that the task is for. */
  readonly application?: string;
  /** Branch, tag or commit, for URLs of model hubs. */
  readonly revision?: string;
  /** Bytes of a piece; only if it was given, not if it follows from the content length. */
  readonly pieceLength?: number;
}

/** Where a persistent task's object is. */
export interface ObjectIdentity {
  /** The object's URL, as in `s3://bucket/key`. */
  readonly url: string;
  /** Region of the storage service. */
  readonly region: string;
  /** Endpoint of the storage service. */
  readonly endpoint: string;
}

/** What a persistent cache task's id is made of, besides the content. */
export interface CacheIdentity {
  /** Tells tasks of one content apart. */
  readonly tag?: string;
  /** The program that the task is for. */
  readonly application?: string;
  /** Bytes of a piece; only if it was given, not if it follows from the content length. */
  readonly pieceLength?: number;
}

/** What the ids of a host and of its peers are made of. */
export interface HostIdentity {
  /** The host's IP address, as text. */
  readonly ip: string;
  /** The host's name. */
  readonly hostname: string;
  /** Whether the host is a seed peer. Default false. */
  readonly seed?: boolean;
}

/**
 * The query parameters that stock proxies leave out of identities: signatures of S3, GCS, OSS, OBS and COS, and
 * containerd's `ns`. Source: dragonfly-client-util, `http/query_params.rs`.
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
 * Id of a standard task, from its origin.
 * @throws `InvalidArgument` for what is no absolute URL
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

/** Id of a standard or persistent cache task that is named by a text of the user's choice. */
export function taskIdOfContent(content: string, hashers: HasherFactory = portableHashers): string {
  return sha256([content], hashers);
}

/**
 * Id of a standard task whose origin is an OCI blob, `…/v2/<name>/blobs/<algorithm>:<digest>`: the digest.
 * @throws `InvalidArgument` for another URL
 */
export function taskIdOfBlob(url: string): string {
  const id = blobDigest(url);
  if (id === undefined) {
    throw new VortexError(
      "InvalidArgument",
      `"${url}": expected an OCI blob, https://host/v2/name/blobs/sha256:…`,
    );
  }
  return id;
}

/** Whether `url` has the form of an OCI blob's, which stock peers ask before they use {@link taskIdOfBlob}. */
export function isBlobUrl(url: string): boolean {
  return blobUrl.test(url);
}

/** Id of a persistent task. */
export function persistentTaskId(
  identity: ObjectIdentity,
  hashers: HasherFactory = portableHashers,
): string {
  return sha256([identity.url, identity.region, identity.endpoint, "PERSISTENT"], hashers);
}

/** Id of a persistent cache task that is named by its content, which is read in order. */
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

/** Id of a host: `ip-hostname`, with `-seed` behind it for a seed peer. */
export function hostId({ ip, hostname, seed }: HostIdentity): string {
  return seed ? `${ip}-${hostname}-seed` : `${ip}-${hostname}`;
}

/**
 * A new id of a peer, which is a host's part in one task: the host's id with a version 4 UUID (RFC 9562) in it.
 *
 * @param random fills bytes with random ones, as {@link Runtime.random}
 */
export function peerId(
  { ip, hostname, seed }: HostIdentity,
  random: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array = (bytes) => crypto.getRandomValues(bytes),
): string {
  const id = `${ip}-${hostname}-${uuid4(random(new Uint8Array(16)))}`;
  return seed ? `${id}-seed` : id;
}

/**
 * The URL as stock Dragonfly hashes it: parsed and written anew by the crate `url` 2.5, which does what the WHATWG says
 * except for `^` in paths; filtered parameters are gone, the others are written anew as a form's, in their order; a path of
 * only a slash at the end is gone.
 */
function normalisedUrl(text: string, filtered: readonly string[]): string {
  const url = parsedUrl(text);
  if (url === undefined)
    throw new VortexError("InvalidArgument", `"${text}": expected an absolute URL`);
  const left = [...url.searchParams].filter(([name]) => !filtered.includes(name));
  url.search = new URLSearchParams(left).toString();
  const normalised = text.includes("^") ? withCarets(url, text) : url.href;
  return url.pathname === "/" && normalised.endsWith("/")
    ? normalised.replace(/\/+$/, "")
    : normalised;
}

/**
 * `url.href`, with `^` in its path as it stood in `text`. Some runtimes write `%5E` there, as the WHATWG does since
 * 2023 (https://github.com/whatwg/url/pull/817), and what stood there as `%5E` from the start is to stay.
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

/** Characters of a digest's encoded part, as stock Dragonfly counts them here; it does not look at what they are. */
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
