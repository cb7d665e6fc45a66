/**
 * Text of a URL from which a task ID is hashed, in the two forms of dfdaemon. Source:
 * dragonfly-client 1.5.10, `dragonfly-client-util/src/url`, and 1.5.2,
 * `dragonfly-client-util/src/id_generator`.
 */
import { VortexError } from "./errors.ts";

/**
 * Returns the text that dfdaemon 1.5.3 and later hashes.
 *
 * - If `filtered` is empty, `text` unchanged. Then it need not be a URL.
 * - Otherwise the URL, parsed and serialised. Query segments with a `;` and the parameters in
 *   `filtered` are removed. The others are sorted by name, and encoded like `url.Values.Encode` of
 *   Go does.
 * - If `text` has no `/` after its `://`, the path is removed.
 *
 * @throws `InvalidArgument` if `filtered` is not empty and `text` is not an absolute URL
 */
export function filteredUrl(text: string, filtered: readonly string[]): string {
  if (filtered.length === 0) return text;
  const { start, path, query, fragment } = partsOf(text);
  const segments = query.split("&").filter((segment) => !segment.includes(";"));
  const parameters = without(filtered, segments.join("&")).sort(([a], [b]) =>
    compareCodePoints(a, b),
  );
  const encoded = parameters.map(([name, value]) => `${queryEscape(name)}=${queryEscape(value)}`);
  return start + (hasEmptyPath(text) ? "" : path) + withMark("?", encoded.join("&")) + fragment;
}

/**
 * Returns the text that dfdaemon 1.5.2 and earlier hashes: the URL, parsed and serialised.
 *
 * - The parameters in `filtered` are removed. The others are serialised as a form, in their order.
 * - If the path is `/`, all slashes at the end of the text are removed.
 *
 * @throws `InvalidArgument` if `text` is not an absolute URL
 */
export function reserialisedUrl(text: string, filtered: readonly string[]): string {
  const { start, path, query, fragment } = partsOf(text);
  const parameters = new URLSearchParams(without(filtered, query)).toString();
  const url = start + path + withMark("?", parameters) + fragment;
  if (path !== "/") return url;
  let end = url.length;
  while (url[end - 1] === "/") end--;
  return url.slice(0, end);
}

/**
 * Parses a URL and serialises it, like dfget does with its argument.
 *
 * @throws `InvalidArgument` if `text` is not an absolute URL
 */
export function serialisedUrl(text: string): string {
  const { start, path, rest } = parse(text);
  return start + path + rest;
}

interface ParsedUrl {
  /** Scheme, credentials, host and port. */
  readonly start: string;
  readonly path: string;
  /** Query with `?`, and fragment with `#`. */
  readonly rest: string;
}

/**
 * Parses and serialises a URL. The result equals that of version 2.5 of the Rust crate `url`, which
 * follows the WHATWG URL standard, except for `^` in paths.
 */
function parse(text: string): ParsedUrl {
  const { href, pathname } = urlOf(text);
  const pathEnd = indexOrEnd(href, /[?#]/);
  return {
    start: href.slice(0, pathEnd - pathname.length),
    path: text.includes("^") ? pathWithCarets(text) : pathname,
    rest: href.slice(pathEnd),
  };
}

function urlOf(text: string): URL {
  // Not URL.canParse: on Node 20, once optimised, it returns false for text such as http://bücher.example/.
  try {
    return new URL(text);
  } catch {
    throw new VortexError("InvalidArgument", `task URL: expected an absolute URL, got "${text}"`);
  }
}

/** Splits a URL into its parts. Query and fragment are separate, and empty if the URL has none. */
function partsOf(text: string): Omit<ParsedUrl, "rest"> & { query: string; fragment: string } {
  const { start, path, rest } = parse(text);
  const queryEnd = indexOrEnd(rest, /#/);
  return { start, path, query: rest.slice(1, queryEnd), fragment: rest.slice(queryEnd) };
}

/**
 * Returns the serialised path of a URL with each literal `^` as in `text`. Some runtimes encode `^`
 * as `%5E`, as the WHATWG URL standard requires since 2023
 * (https://github.com/whatwg/url/pull/817).
 *
 * A `%5E` in `text` must stay. To distinguish the two, each `^` is replaced by a marker that `text`
 * does not contain, before the URL is parsed. The markers then become `^` again.
 */
function pathWithCarets(text: string): string {
  const used = new Set(Array.from(text.matchAll(/caret[0-9]+x/g), ([marker]) => marker));
  let number = 0;
  while (used.has(`caret${number}x`)) number++;
  const marker = `caret${number}x`;
  return urlOf(text.replaceAll("^", marker)).pathname.replaceAll(marker, "^");
}

/** Decodes a query as a form, and returns its parameters except those with a name in `names`. */
function without(names: readonly string[], query: string): [name: string, value: string][] {
  const excluded = new Set(names);
  // URLSearchParams removes a `?` at the start of its argument. The `&` keeps it.
  return [...new URLSearchParams(`&${query}`)].filter(([name]) => !excluded.has(name));
}

/**
 * Returns true if the text between `://` and the query or fragment contains no slash. Then dfdaemon
 * removes the path, even if the parser found one, as after a backslash.
 */
function hasEmptyPath(text: string): boolean {
  const at = text.indexOf("://");
  if (at < 0) return false;
  const rest = text.slice(at + 3);
  return !rest.slice(0, indexOrEnd(rest, /[?#]/)).includes("/");
}

/** Encodes text like `url.QueryEscape` of Go. */
function queryEscape(text: string): string {
  return encodeURIComponent(text)
    .replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)
    .replaceAll("%20", "+");
}

/** Compares two texts by their code points, which is the order of their bytes in UTF-8. */
function compareCodePoints(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let at = 0; at < length; at++) {
    const difference = codePointRank(a.charCodeAt(at)) - codePointRank(b.charCodeAt(at));
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** Maps a UTF-16 unit to its place in code point order: surrogates follow all other units. */
function codePointRank(unit: number): number {
  if (unit < 0xd800) return unit;
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800;
}

function withMark(mark: string, text: string): string {
  return text === "" ? "" : mark + text;
}

/** Returns the index of the first match of `pattern` in `text`, or the length of `text`. */
function indexOrEnd(text: string, pattern: RegExp): number {
  const at = text.search(pattern);
  return at < 0 ? text.length : at;
}
