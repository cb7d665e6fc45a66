import { createReadStream } from "node:fs";
import { hostname } from "node:os";
import type { Command } from "commander";
import * as v from "valibot";
import { storageError } from "../adapters/files/storage-error.ts";
import { nativeError } from "../adapters/shared/native-error.ts";
import { nativeHashers } from "../adapters/shared/native-hashers.ts";
import { VortexError } from "../src/errors.ts";
import * as ids from "../src/ids.ts";
import { type CliEnvironment, writeLine } from "./terminal.ts";
import { flag, ipAddress, parseOptions, size, text } from "./values.ts";

/** `vortex-peer id`: ids of tasks, hosts and peers. */
export function addIdCommand(program: Command, environment: CliEnvironment): void {
  const command = program
    .command("id")
    .summary("make ids as Dragonfly makes them")
    .description(
      "Prints the id of a task, a host or a peer, exactly as stock Dragonfly makes it. Nobody is asked.",
    );
  addUrl(command, environment);
  addBlob(command, environment);
  addContent(command, environment);
  addPersistent(command, environment);
  addPersistentCache(command, environment);
  addHost(command, environment);
  addPeer(command, environment);
}

const json = ["--json", "print one JSON object, on one line"] as const;
const pieceLength = [
  "--piece-length <size>",
  "length of a piece, if it was given and not chosen by Dragonfly",
] as const;
const tag = ["--tag <tag>", "tells tasks of one origin apart"] as const;
const application = ["--application <name>", "the program that the task is for"] as const;

const urlSchema = v.object({
  filteredQueryParam: v.optional(v.array(text), []),
  defaultFilteredQueryParams: flag,
  tag: v.optional(text),
  application: v.optional(text),
  revision: v.optional(text),
  pieceLength: v.optional(size),
  json: flag,
});

function addUrl(command: Command, environment: CliEnvironment): void {
  command
    .command("url")
    .description("id of a standard task, by its origin")
    .argument("<url>", "the origin")
    .option(
      "--filtered-query-param <name>",
      "a query parameter that is no part of the identity; may be given again",
      (name: string, before: string[] = []) => [...before, name],
    )
    .option(
      "--default-filtered-query-params",
      "leave out what stock proxies leave out: the signatures of S3, GCS, OSS, …",
    )
    .option(...tag)
    .option(...application)
    .option("--revision <revision>", "branch, tag or commit, for origins that are model hubs")
    .option(...pieceLength)
    .option(...json)
    .action((url: string, commandLine: unknown) => {
      const { filteredQueryParam, defaultFilteredQueryParams, ...rest } = parseOptions(
        urlSchema,
        commandLine,
      );
      const filteredQueryParams = [
        ...filteredQueryParam,
        ...(defaultFilteredQueryParams ? ids.defaultFilteredQueryParams : []),
      ];
      const taskId = ids.taskIdOfUrl({ url, filteredQueryParams, ...given(rest) }, nativeHashers);
      return print({ taskId, kind: "standard" }, rest, environment);
    });
}

const bareSchema = v.object({ json: flag });

function addBlob(command: Command, environment: CliEnvironment): void {
  command
    .command("blob")
    .description("id of a standard task whose origin is a blob of an OCI registry")
    .argument("<url>", "https://host/v2/name/blobs/sha256:…")
    .option(...json)
    .action((url: string, commandLine: unknown) => {
      const options = parseOptions(bareSchema, commandLine);
      return print({ taskId: ids.taskIdOfBlob(url), kind: "standard" }, options, environment);
    });
}

function addContent(command: Command, environment: CliEnvironment): void {
  command
    .command("content")
    .description("id of a standard task that is named by its content, as `serve` names them")
    .argument("[file]", "the content, - for standard input", "-")
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
    .description("id of a persistent task, by where its object is")
    .argument("<url>", "the object")
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
    .description("id of a persistent cache task, by its content")
    .argument("[file]", "the content, - for standard input", "-")
    .option(...tag)
    .option(...application)
    .option(...pieceLength)
    .option(...json)
    .action(async (file: string, commandLine: unknown) => {
      const options = parseOptions(persistentCacheSchema, commandLine);
      const content = contentOf(file, environment);
      const taskId = await ids.persistentCacheTaskId(content, given(options), nativeHashers);
      return print({ taskId, kind: "persistent-cache" }, options, environment);
    });
}

const hostSchema = v.object({ ip: ipAddress, hostname: v.optional(text), seed: flag, json: flag });

function addHost(command: Command, environment: CliEnvironment): void {
  addHostOptions(command.command("host").description("id of a host")).action(
    (commandLine: unknown) => {
      const { json, hostname: name = ownName(), ...rest } = parseOptions(hostSchema, commandLine);
      return print({ hostId: ids.hostId({ ...rest, hostname: name }) }, { json }, environment);
    },
  );
}

function addPeer(command: Command, environment: CliEnvironment): void {
  addHostOptions(command.command("peer").description("a new id of a host's part in a task")).action(
    (commandLine: unknown) => {
      const { json, hostname: name = ownName(), ...rest } = parseOptions(hostSchema, commandLine);
      return print({ peerId: ids.peerId({ ...rest, hostname: name }) }, { json }, environment);
    },
  );
}

function addHostOptions(command: Command): Command {
  return command
    .requiredOption("--ip <address>", "IP address of the host")
    .option("--hostname <name>", "name of the host (default: this host's)")
    .option("--seed", "the host is a seed peer")
    .option(...json);
}

/** @throws `PermissionDenied` */
function ownName(): string {
  try {
    return hostname();
  } catch (error) {
    throw nativeError(error, "Unavailable", "--hostname: the name of this host cannot be read");
  }
}

/** The id alone, or with what it is of. */
function print(
  id: Readonly<Record<string, string>>,
  { json }: { readonly json: boolean },
  { stdout, signal }: CliEnvironment,
): Promise<void> {
  const [bare = ""] = Object.values(id);
  return writeLine(stdout, json ? JSON.stringify(id) : bare, signal);
}

/** Rejects with `StorageFailed`. */
async function* contentOf(
  file: string,
  { openStdin, signal }: CliEnvironment,
): AsyncGenerator<Uint8Array, void, void> {
  const input = file === "-" ? openStdin?.() : createReadStream(file);
  if (input === undefined) throw new VortexError("Unavailable", "there is no standard input");
  try {
    for await (const chunk of input as AsyncIterable<Uint8Array>) {
      if (signal.aborted) throw signal.reason;
      yield chunk;
    }
  } catch (error) {
    throw storageError(error, `${file === "-" ? "standard input" : file} cannot be read`);
  }
}

/** Without the values that were not given. */
function given<T extends object>(options: T): { [Key in keyof T]?: Exclude<T[Key], undefined> } {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as ReturnType<typeof given<T>>;
}
