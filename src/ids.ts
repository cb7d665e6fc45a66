/**
 * IDs of tasks, hosts and peers, derived like in dfdaemon. So both derive the same ID from the same
 * inputs. Source: dragonfly-client 1.5.10 and 1.5.2, `dragonfly-client-util/src/id_generator`. The
 * test vectors are in `test/vectors/ids-1.5.10.json`.
 */

import {
  anyText,
  type Checks,
  flag,
  listOf,
  oneOf,
  required,
  requireOptions,
  show,
  size,
  toInteger,
} from "./arguments.ts";
import { type HasherFactory, portableHashers } from "./digest/hasher.ts";
import { VortexError } from "./errors.ts";
import { encodedDigest, type RegistryPath, registryReference } from "./registry-url.ts";
import { filteredUrl, reserialisedUrl } from "./task-url.ts";

/**
 * Version of dfdaemon whose task IDs to derive. Each peer derives task IDs on its own, so all peers
 * of a cluster must use the same.
 *
 * - `1.5.3`: dfdaemon 1.5.3 and later.
 * - `1.5.2`: dfdaemon 1.5.2 and earlier. It hashes another text of the URL, ignores digests in
 *   manifest URLs, and requires 10 digits of a CRC-32 digest.
 */
export type IdVersion = "1.5.3" | "1.5.2";

/** All values of {@link IdVersion}. The first is the default. */
export const idVersions: readonly IdVersion[] = ["1.5.3", "1.5.2"];

/** Properties from which {@link taskIdOfUrl} derives the ID of a standard task. */
export interface UrlIdentity {
  /** Absolute URL from which peers download the content. */
  readonly url: string;
  /**
   * Names of query parameters that do not affect the ID, such as signatures. Pass
   * {@link defaultFilteredQueryParams} for the ID of a task that dfget or the proxy of dfdaemon
   * creates. If the list is not empty, the order of the other parameters does not affect the ID
   * either. Default: none; then the URL is hashed as it is written.
   */
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
  /** Version of dfdaemon whose IDs to derive. Default `1.5.3`, which is also that of later ones. */
  readonly idVersion?: IdVersion | undefined;
}

/** Properties from which {@link standardTaskId} derives the ID of a standard task. */
export interface StandardIdentity extends UrlIdentity {
  /** Text from which the ID is derived, instead of from the URL and its parameters. */
  readonly content?: string | undefined;
  /**
   * True to use the digest in `url` as the ID, if `url` names an OCI blob, or an OCI manifest by
   * its digest. Default false.
   */
  readonly blobDigest?: boolean | undefined;
}

/** Options of {@link taskIdOfBlob} and its relatives. */
export interface DigestIdOptions {
  /** Version of dfdaemon whose IDs to derive. Default `1.5.3`, which is also that of later ones. */
  readonly idVersion?: IdVersion | undefined;
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
 * Query parameters that dfget and the proxy of dfdaemon exclude from task IDs unless configured
 * otherwise. They are the signatures of S3, GCS, OSS, OBS and COS, and the parameter `ns` of
 * containerd. Source: dragonfly-client-util, `http/query_params.rs`.
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
 * Derives the ID of a standard task like dfdaemon does for a call of DownloadTask. The first of
 * these that applies counts:
 *
 * - `content`, if it is given
 * - the digest in the URL, if `blobDigest` is true and the URL has one
 * - the URL and the other properties
 *
 * @throws `InvalidArgument` as {@link taskIdOfUrl} does. Also if `blobDigest` is true, and the URL
 * of a blob has an invalid digest
 */
export function standardTaskId(
  identity: StandardIdentity,
  hashers: HasherFactory = portableHashers,
): string {
  requireOptions("standardTaskId", identity, standardChecks);
  const { content, blobDigest, ...ofUrl } = identity;
  if (content !== undefined) return taskIdOfContent(content, hashers);
  if (blobDigest) {
    const { url, idVersion } = ofUrl;
    if (isBlobUrl(url)) return taskIdOfBlob(url, { idVersion });
    if (isManifestDigestUrl(url, { idVersion })) return taskIdOfManifest(url, { idVersion });
  }
  return taskIdOfUrl(ofUrl, hashers);
}

/**
 * Derives the ID of a standard task from its URL and the other properties in `identity`.
 *
 * @throws `InvalidArgument` if the URL is not absolute, or the piece length is not a non-negative
 * integer. Without `filteredQueryParams`, version `1.5.3` accepts any text as URL
 */
export function taskIdOfUrl(
  identity: UrlIdentity,
  hashers: HasherFactory = portableHashers,
): string {
  requireOptions("taskIdOfUrl", identity, urlChecks);
  const { url, filteredQueryParams = [], tag, application, revision, pieceLength } = identity;
  const textOf = identity.idVersion === "1.5.2" ? reserialisedUrl : filteredUrl;
  return sha256(
    [
      textOf(url, filteredQueryParams),
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
 * @throws `InvalidArgument` if `url` does not have this form, the algorithm is not `crc32`,
 * `sha256` or `sha512`, or the digest has the wrong length
 */
export function taskIdOfBlob(url: string, options: DigestIdOptions = {}): string {
  requireOptions("taskIdOfBlob", options, digestIdChecks);
  const digest = digestIn(url, "/blobs/", options);
  if (digest === undefined) throw noDigest("blob", "blobs", url);
  return digest;
}

/**
 * Returns the ID of a standard task whose content is an OCI manifest. The ID is the digest in the
 * URL, without its algorithm: `…/v2/<name>/manifests/<algorithm>:<digest>`.
 *
 * @throws `InvalidArgument` if `url` does not have this form, for example because it names a tag.
 * Also if the algorithm is not `crc32`, `sha256` or `sha512`, or the digest has the wrong length.
 * Version `1.5.2` has no such IDs
 */
export function taskIdOfManifest(url: string, options: DigestIdOptions = {}): string {
  requireOptions("taskIdOfManifest", options, digestIdChecks);
  if (options.idVersion === "1.5.2") {
    throw new VortexError(
      "InvalidArgument",
      "task id of a manifest: expected version 1.5.3, got 1.5.2, which derives it from the URL; " +
        "use taskIdOfUrl",
    );
  }
  const digest = digestIn(url, "/manifests/", options);
  if (digest === undefined) throw noDigest("manifest", "manifests", url);
  return digest;
}

/**
 * Returns true if `url` has the form of an OCI blob URL, `…/v2/<name>/blobs/<reference>`. The
 * digest is not checked.
 */
export function isBlobUrl(url: string): boolean {
  anyText("url", url);
  return registryReference(url, "/blobs/") !== undefined;
}

/**
 * Returns true if `url` has the form of an OCI manifest URL with a digest that
 * {@link taskIdOfManifest} accepts.
 */
export function isManifestDigestUrl(url: string, options: DigestIdOptions = {}): boolean {
  requireOptions("isManifestDigestUrl", options, digestIdChecks);
  return options.idVersion !== "1.5.2" && digestIn(url, "/manifests/", options) !== undefined;
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

/** Length in bytes that dfdaemon 1.5.2 requires of a CRC-32 digest in a URL. */
const OLD_CRC32_LENGTH = 10;

/** Returns the encoded part of the digest in a registry URL, or undefined without a valid one. */
function digestIn(
  url: string,
  path: RegistryPath,
  { idVersion }: DigestIdOptions,
): string | undefined {
  anyText("url", url);
  const reference = registryReference(url, path);
  const crc32Length = idVersion === "1.5.2" ? OLD_CRC32_LENGTH : undefined;
  return reference === undefined ? undefined : encodedDigest(reference, crc32Length);
}

function noDigest(what: string, section: string, url: string): VortexError {
  return new VortexError(
    "InvalidArgument",
    `task id of a ${what}: expected a URL like https://host/v2/name/${section}/sha256:…, got ${show(url)}`,
  );
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

const digestIdChecks: Checks<DigestIdOptions> = { idVersion: oneOf(...idVersions) };

const urlChecks: Checks<UrlIdentity> = {
  ...cacheChecks,
  ...digestIdChecks,
  url: required(anyText),
  filteredQueryParams: listOf(anyText),
  revision: anyText,
};

const standardChecks: Checks<StandardIdentity> = {
  ...urlChecks,
  content: anyText,
  blobDigest: flag,
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
