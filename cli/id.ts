import { createReadStream } from "node:fs";
import { hostname } from "node:os";
import { Readable } from "node:stream";
import type { Command } from "commander";
import * as v from "valibot";
import { storageError } from "../adapters/files/storage-error.ts";
import { nativeError } from "../adapters/shared/native-error.ts";
import { nativeHashers } from "../adapters/shared/native-hashers.ts";
import { untilAborted, VortexError } from "../src/errors.ts";
import * as ids from "../src/ids.ts";
import { serialisedUrl } from "../src/task-url.ts";
import { unblockPipe } from "./named-pipe.ts";
import { type CliEnvironment, writeLine } from "./terminal.ts";
import { flag, ipAddress, parseOptions, size, text } from "./values.ts";

/** Adds `vortex-peer id`, which derives the ids of tasks, hosts and peers. */
export function addIdCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("id")
    .summary("derive task, host and peer ids like dfdaemon")
    .description(
      "Prints the id of a task, a host or a peer, derived exactly like dfdaemon. Needs no network.",
    );
  addUrl(command, environment);
  addBlob(command, environment);
  addManifest(command, environment);
  addContent(command, environment);
  addPersistent(command, environment);
  addPersistentCache(command, environment);
  addHost(command, environment);
  addPeer(command, environment);
}

const json = ["--json", "print one JSON object on one line"] as const;
const pieceLength = [
  "--piece-length <size>",
  "piece length, if it was set explicitly and not chosen by dfdaemon",
] as const;
const tag = ["--tag <tag>", "tag that separates tasks of the same origin"] as const;
const application = ["--application <name>", "application that the task belongs to"] as const;

const old = ["--old", "id as dfdaemon 1.5.2 and older derive it"] as const;

const urlSchema = v.object({
  filteredQueryParam: v.optional(v.array(text)),
  filter: flag,
  tag: v.optional(text),
  application: v.optional(text),
  revision: v.optional(text),
  pieceLength: v.optional(size),
  old: flag,
  json: flag,
});

function addUrl(command: Command, environment: CliEnvironment): void {
  command
    .command("url")
    .description(
      "id of a standard task, from its origin URL. Equals the id of the task that dfget creates: the " +
        "URL is parsed, and its signature parameters are ignored.",
    )
    .argument("<url>", "origin URL")
    .option(
      "--filtered-query-param <name>",
      "query parameter to ignore, repeatable (default: signatures of S3, GCS, OSS, …, and ns)",
      (name: string, before: string[] = []) => [...before, name],
    )
    .option("--no-filter", "ignore no query parameter, and use the URL as written")
    .option(...tag)
    .option(...application)
    .option("--revision <revision>", "branch, tag or commit, for origins on model hubs")
    .option(...pieceLength)
    .option(...old)
    .option(...json)
    .action((url: string, commandLine: unknown) => {
      const {
        filteredQueryParam,
        filter,
        old,
        json: asJson,
        ...identity
      } = parseOptions(urlSchema, commandLine);
      if (!filter && filteredQueryParam !== undefined) {
        throw new VortexError(
          "InvalidArgument",
          "--filtered-query-param, --no-filter: expected one of them, got both",
        );
      }
      const filtered = filteredQueryParam ?? ids.defaultFilteredQueryParams;
      const taskId = ids.taskIdOfUrl(
        {
          ...(filter ? { url: serialisedUrl(url), filteredQueryParams: filtered } : { url }),
          ...identity,
          idVersion: idVersionOf(old),
        },
        nativeHashers,
      );
      return print({ taskId, kind: "standard" }, { json: asJson }, environment);
    });
}

const digestSchema = v.object({ old: flag, json: flag });

function addBlob(command: Command, environment: CliEnvironment): void {
  command
    .command("blob")
    .description("id of a standard task, from the URL of an OCI registry blob")
    .argument("<url>", "https://host/v2/name/blobs/sha256:…")
    .option(...old)
    .option(...json)
    .action((url: string, commandLine: unknown) => {
      const { old, ...options } = parseOptions(digestSchema, commandLine);
      const taskId = ids.taskIdOfBlob(url, { idVersion: idVersionOf(old) });
      return print({ taskId, kind: "standard" }, options, environment);
    });
}

const bareSchema = v.object({ json: flag });

function addManifest(command: Command, environment: CliEnvironment): void {
  command
    .command("manifest")
    .description("id of a standard task, from the URL of an OCI registry manifest with its digest")
    .argument("<url>", "https://host/v2/name/manifests/sha256:…")
    .option(...json)
    .action((url: string, commandLine: unknown) => {
      const options = parseOptions(bareSchema, commandLine);
      return print({ taskId: ids.taskIdOfManifest(url), kind: "standard" }, options, environment);
    });
}

function idVersionOf(old: boolean): ids.IdVersion {
  return old ? "1.5.2" : "1.5.3";
}

function addContent(command: Command, environment: CliEnvironment): void {
  command
    .command("content")
    .description("id of a standard task, from its content (SHA-256), as used by `serve`")
    .argument("[file]", "file with the content, - for standard input", "-")
    .option(...json)
    .action(async (file: string, commandLine: unknown) => {
      const options = parseOptions(bareSchema, commandLine);
      const hasher = nativeHashers("sha256");
      for await (const chunk of contentOf(file, environment)) hasher.update(chunk);
      return print({ taskId: hasher.encode(), kind: "standard" }, options, environment);
    });
}

const persistentSchema = v.object({ region: text, endpoint: text, json: flag });

function addPersistent(command: Command, environment: CliEnvironment): void {
  command
    .command("persistent")
    .description("id of a persistent task, from the location of its object")
    .argument("<url>", "URL of the object")
    .requiredOption("--region <region>", "region of the object storage")
    .requiredOption("--endpoint <endpoint>", "endpoint of the object storage")
    .option(...json)
    .action((url: string, commandLine: unknown) => {
      const { region, endpoint, ...rest } = parseOptions(persistentSchema, commandLine);
      const taskId = ids.persistentTaskId({ url, region, endpoint }, nativeHashers);
      return print({ taskId, kind: "persistent" }, rest, environment);
    });
}

const persistentCacheSchema = v.object({
  tag: v.optional(text),
  application: v.optional(text),
  pieceLength: v.optional(size),
  json: flag,
});

function addPersistentCache(command: Command, environment: CliEnvironment): void {
  command
    .command("persistent-cache")
    .description("id of a persistent cache task, from its content")
    .argument("[file]", "file with the content, - for standard input", "-")
    .option(...tag)
    .option(...application)
    .option(...pieceLength)
    .option(...json)
    .action(async (file: string, commandLine: unknown) => {
      const { json: asJson, ...identity } = parseOptions(persistentCacheSchema, commandLine);
      const content = contentOf(file, environment);
      const taskId = await ids.persistentCacheTaskId(content, definedOnly(identity), nativeHashers);
      return print({ taskId, kind: "persistent-cache" }, { json: asJson }, environment);
    });
}

const hostSchema = v.object({ ip: ipAddress, hostname: v.optional(text), seed: flag, json: flag });

function addHost(command: Command, environment: CliEnvironment): void {
  addHostOptions(command.command("host").description("id of a host")).action(
    (commandLine: unknown) => {
      const {
        json,
        hostname: name = localHostname(),
        ...rest
      } = parseOptions(hostSchema, commandLine);
      return print({ hostId: ids.hostId({ ...rest, hostname: name }) }, { json }, environment);
    },
  );
}

function addPeer(command: Command, environment: CliEnvironment): void {
  addHostOptions(command.command("peer").description("new, random peer id of a host")).action(
    (commandLine: unknown) => {
      const {
        json,
        hostname: name = localHostname(),
        ...rest
      } = parseOptions(hostSchema, commandLine);
      return print({ peerId: ids.peerId({ ...rest, hostname: name }) }, { json }, environment);
    },
  );
}

function addHostOptions(command: Command): Command {
  return command
    .requiredOption("--ip <address>", "IP address of the host")
    .option("--hostname <name>", "name of the host (default: name of this host)")
    .option("--seed", "the host is a seed peer")
    .option(...json);
}

/** Returns the name of this host. @throws `PermissionDenied` */
function localHostname(): string {
  try {
    return hostname();
  } catch (error) {
    throw nativeError(error, "Unavailable", "cannot read the host name (set --hostname)");
  }
}

/** Prints the first value of `id` alone, or the whole object as JSON. */
function print(
  id: Readonly<Record<string, string>>,
  { json }: { readonly json: boolean },
  { stdout, signal }: CliEnvironment,
): Promise<void> {
  const [bare = ""] = Object.values(id);
  return writeLine(stdout, json ? JSON.stringify(id) : bare, signal);
}

/** Reads a file, or standard input for `-`, in chunks. Rejects with `StorageFailed`. */
async function* contentOf(
  file: string,
  { openStdin, signal }: CliEnvironment,
): AsyncGenerator<Uint8Array, void, void> {
  const input: AsyncIterable<Uint8Array> | undefined =
    file === "-" ? openStdin?.() : createReadStream(file);
  if (input === undefined) {
    throw new VortexError("Unavailable", "standard input: not available; name a file");
  }
  const chunks = input[Symbol.asyncIterator]();
  try {
    for (;;) {
      // An idle input must not delay the end of the command.
      const next = await untilAborted(chunks.next(), signal, `reading ${file}`);
      if (next.done) return;
      yield next.value;
    }
  } catch (error) {
    if (signal.aborted) {
      if (file !== "-") await unblockPipe(file);
      throw signal.reason;
    }
    throw storageError(error, `cannot read ${file === "-" ? "standard input" : file}`);
  } finally {
    if (input instanceof Readable) input.destroy();
  }
}

/** Returns a copy of `options` without its undefined values. */
function definedOnly<T extends object>(
  options: T,
): { [Key in keyof T]?: Exclude<T[Key], undefined> } {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as ReturnType<typeof definedOnly<T>>;
}
