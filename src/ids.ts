/**
 * IDs of tasks, hosts and peers, derived like in stock Dragonfly. So both derive the same ID from
 * the same inputs. Source: dragonfly-client 1.5.1, `dragonfly-client-util/src/id_generator`. The
 * test vectors are in `test/vectors/ids.json`.
 */

import {
  anyText,
  type Checks,
  flag,
  listOf,
  required,
  requireOptions,
  size,
  toInteger,
} from "./arguments.ts";
import { type HasherFactory, portableHashers } from "./digest/hasher.ts";
import { VortexError } from "./errors.ts";

/** Properties from which {@link taskIdOfUrl} derives the ID of a standard task. */
export interface UrlIdentity {
  /** Absolute URL from which peers download the content. */
  readonly url: string;
  /** Names of query parameters that do not affect the ID, such as signatures. Default: none. */
  readonly filteredQueryParams?: readonly string[] | undefined;
  /** User-defined text that distinguishes tasks with the same URL. Default: none. */
  readonly tag?: string | undefined;
  /** Name of the application that downloads the task. Default: none. */
  readonly application?: string | undefined;
  /** Branch, tag or commit of a repository on a model hub, such as Hugging Face. Default: none. */
  readonly revision?: string | undefined;
  /**
   * Length of the pieces in bytes. Omit it if Dragonfly derives the length from the content length,
   * which is the default.
   */
  readonly pieceLength?: number | bigint | undefined;
}

/**
 * Location of an object in object storage, from which {@link persistentTaskId} derives the ID of a
 * persistent task.
 */
export interface ObjectIdentity {
  /** URL of the object, such as `s3://bucket/key`. */
  readonly url: string;
  /** Region of the object storage service. */
  readonly region: string;
  /** Endpoint of the object storage service. */
  readonly endpoint: string;
}

/**
 * Properties from which {@link persistentCacheTaskId} derives the ID of a persistent cache task, in
 * addition to the content.
 */
export interface CacheIdentity {
  /** User-defined text that distinguishes tasks with the same content. Default: none. */
  readonly tag?: string | undefined;
  /** Name of the application that stores the task. Default: none. */
  readonly application?: string | undefined;
  /**
   * Length of the pieces in bytes. Omit it if Dragonfly derives the length from the content length,
   * which is the default.
   */
  readonly pieceLength?: number | bigint | undefined;
}

/**
 * Properties from which {@link hostId} and {@link peerId} derive the IDs of a host and its peers.
 */
export interface HostIdentity {
  /** IP address of the host. */
  readonly ip: string;
  /** Name of the host. */
  readonly hostname: string;
  /** True if the host is a seed peer. Default false. */
  readonly seed?: boolean | undefined;
}

/**
 * Query parameters that the proxy of stock Dragonfly excludes from task IDs. They are the
 * signatures of S3, GCS, OSS, OBS and COS, and the parameter `ns` of containerd. Source:
 * dragonfly-client-util, `http/query_params.rs`.
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
 * Derives the ID of a standard task from its URL and the other properties in `identity`.
 *
 * @throws `InvalidArgument` if the URL is not absolute, or the piece length is not a non-negative
 * integer
 */
export function taskIdOfUrl(
  identity: UrlIdentity,
  hashers: HasherFactory = portableHashers,
): string {
  requireOptions("taskIdOfUrl", identity, urlChecks);
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

/**
 * Derives a task ID from user-defined text alone (`content_for_calculating_task_id` in the
 * Dragonfly API). Valid for standard tasks and persistent cache tasks.
 *
 * @param content user-defined text; not the content of the task
 */
export function taskIdOfContent(content: string, hashers: HasherFactory = portableHashers): string {
  anyText("content", content);
  return sha256([content], hashers);
}

/**
 * Returns the ID of a standard task whose content is an OCI blob. The ID is the digest in the URL,
 * without its algorithm: `…/v2/<name>/blobs/<algorithm>:<digest>`.
 *
 * @throws `InvalidArgument` if `url` does not have this form, or the digest has the wrong length
 */
export function taskIdOfBlob(url: string): string {
  anyText("url", url);
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
 * Returns true if `url` has the form of an OCI blob URL, `…/v2/<name>/blobs/<reference>`. Like
 * stock Dragonfly, call it before {@link taskIdOfBlob}.
 */
export function isBlobUrl(url: string): boolean {
  anyText("url", url);
  return blobUrl.test(url);
}

/**
 * Derives the ID of a persistent task, which is an object in object storage, from the URL, region
 * and endpoint of the object. The ID is a SHA-256 hash in hex.
 */
export function persistentTaskId(
  identity: ObjectIdentity,
  hashers: HasherFactory = portableHashers,
): string {
  requireOptions("persistentTaskId", identity, objectChecks);
  return sha256([identity.url, identity.region, identity.endpoint, "PERSISTENT"], hashers);
}

/**
 * Derives the ID of a persistent cache task from its content and the properties in `identity`.
 *
 * @param content complete content of the task, as chunks in order
 * @throws `InvalidArgument` if the piece length is not a non-negative integer
 */
export async function persistentCacheTaskId(
  content: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  identity: CacheIdentity = {},
  hashers: HasherFactory = portableHashers,
): Promise<string> {
  requireOptions("persistentCacheTaskId", identity, cacheChecks);
  const hasher = hashers("sha256");
  for await (const chunk of content) hasher.update(chunk);
  const { tag, application, pieceLength } = identity;
  for (const text of [tag, application, lengthText(pieceLength), "PERSISTENT_CACHE"])
    hasher.update(utf8(text));
  return hasher.encode();
}

/** Returns the ID of a host: `ip-hostname`, or `ip-hostname-seed` for a seed peer. */
export function hostId(identity: HostIdentity): string {
  requireOptions("hostId", identity, hostChecks);
  const { ip, hostname, seed } = identity;
  return seed ? `${ip}-${hostname}-seed` : `${ip}-${hostname}`;
}

/**
 * Generates a new peer ID. In Dragonfly, a peer is the participation of one host in one task. The
 * ID is `ip-hostname-uuid`, or `ip-hostname-uuid-seed` for a seed peer. The UUID is random (version
 * 4, RFC 9562).
 *
 * @param random fills an array with random bytes and returns it, like `Runtime.random`.
 * Default: the runtime's `crypto.getRandomValues`
 */
export function peerId(
  identity: HostIdentity,
  random: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array = (bytes) => crypto.getRandomValues(bytes),
): string {
  requireOptions("peerId", identity, hostChecks);
  const { ip, hostname, seed } = identity;
  const id = `${ip}-${hostname}-${uuid4(random(new Uint8Array(16)))}`;
  return seed ? `${id}-seed` : id;
}

/**
 * Returns a URL in the form that stock Dragonfly hashes:
 *
 * - The URL is parsed and serialised with the same result as in version 2.5 of the Rust crate
 *   `url`. That crate follows the WHATWG URL standard, except for `^` in paths.
 * - Query parameters in `filtered` are removed. The others are serialised as a form, in their
 *   order.
 * - A path that consists only of a slash is removed.
 *
 * @throws `InvalidArgument` if `text` is not an absolute URL
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
 * Returns `url.href`, but keeps each literal `^` of the path as written in `text`, from which `url`
 * was parsed. Some runtimes encode `^` as `%5E`, as the WHATWG URL standard requires since 2023
 * (https://github.com/whatwg/url/pull/817).
 *
 * A `%5E` in `text` must stay. To distinguish the two, each `^` in `text` is replaced by a unique
 * marker, before a second parse. The markers then become `^` again.
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
 * Length of an encoded digest in bytes, by algorithm. Like stock Dragonfly, this library checks
 * only the length of a digest in a blob URL, not its characters.
 */
const digestLengths: Record<string, number> = { crc32: 10, sha256: 64, sha512: 128 };

function blobDigest(url: string): string | undefined {
  const [algorithm = "", ...rest] = (blobUrl.exec(url)?.[4] ?? "").split(":");
  const encoded = rest.join(":");
  const length = Object.hasOwn(digestLengths, algorithm) ? digestLengths[algorithm] : undefined;
  return utf8(encoded).length === length ? encoded : undefined;
}

function lengthText(pieceLength: number | bigint | undefined): string | undefined {
  if (pieceLength === undefined) return undefined;
  return String(toInteger("piece length", pieceLength, 0, Number.MAX_SAFE_INTEGER));
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

const cacheChecks: Checks<CacheIdentity> = {
  tag: anyText,
  application: anyText,
  pieceLength: size(0),
};

const urlChecks: Checks<UrlIdentity> = {
  ...cacheChecks,
  url: required(anyText),
  filteredQueryParams: listOf(anyText),
  revision: anyText,
};

const objectChecks: Checks<ObjectIdentity> = {
  url: required(anyText),
  region: required(anyText),
  endpoint: required(anyText),
};

const hostChecks: Checks<HostIdentity> = {
  ip: required(anyText),
  hostname: required(anyText),
  seed: flag,
};
