/** A server's self-signed identity in a file, so that it is the same after a restart. */
import { randomBytes } from "node:crypto";
import { link, mkdir, open, readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { VortexError } from "../../src/errors.ts";
import type { IdentityStore, TlsIdentity } from "../../src/transport/tls.ts";
import { requireIdentity } from "../shared/tls.ts";
import { replaceFile } from "./replace-file.ts";
import { codeOf, storageError } from "./storage-error.ts";

/** Greatest length of a file that is read as an identity, in bytes; a long chain with its key has some 20 KiB. */
const MAX_LENGTH = 1024 * 1024;

/**
 * Keeps an identity in one PEM file: the key, then the certificate chain. It is replaced as a whole, so there is never a
 * certificate without its key, and only its owner may read it (mode 0600; on Windows, whoever may read the folder). The folder
 * is made when it is missing. Servers of several processes that start at once with no file there make one, and all show it (but
 * not on a file system without hard links).
 *
 * A file that holds no identity is `StorageFailed`, and is left alone: clients may have pinned what it was to hold.
 */
export function fileIdentityStore(path: string): IdentityStore {
  const load = async (): Promise<TlsIdentity | undefined> => {
    const pem = await readIfThere(path);
    return pem === undefined ? undefined : parse(pem, path);
  };
  return {
    load,
    save: (identity) => put(identity, path, (temporary) => replaceFile(temporary, path)),
    async saveFirst(identity): Promise<TlsIdentity> {
      await put(identity, path, (temporary) => linkOrRename(temporary, path));
      // Its own, or that of whoever was quicker.
      return (await load()) ?? identity;
    },
  };
}

/** Writes the identity to a file of its own, which `place` then gives its name. */
async function put(
  { cert, key }: TlsIdentity,
  path: string,
  place: (temporary: string) => Promise<unknown>,
): Promise<void> {
  // In the same folder, since a file cannot be renamed from one file system to another.
  const temporary = join(dirname(path), `.${randomBytes(8).toString("hex")}.pem.part`);
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await writeDurably(temporary, `${key.trim()}\n${cert.trim()}\n`);
    await place(temporary);
  } catch (error) {
    throw storageError(error, `the certificate cannot be kept in ${path}`);
  } finally {
    await rm(temporary, { force: true }).catch(() => {});
  }
}

/** Gives a file its name unless another one has it. Unlike renaming, a link is never made over a file. */
async function linkOrRename(temporary: string, path: string): Promise<void> {
  try {
    await link(temporary, path);
  } catch (error) {
    const code = codeOf(error);
    if (code === "EEXIST") return;
    if (code !== "EPERM" && code !== "ENOTSUP" && code !== "EOPNOTSUPP" && code !== "ENOSYS")
      throw error;
    // A file system without links.
    await replaceFile(temporary, path);
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    const pem = await readFile(path, "utf8");
    if (pem.length <= MAX_LENGTH) return pem;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw storageError(error, `the kept certificate ${path} cannot be read`);
  }
  throw new VortexError("StorageFailed", `${path} is too long for a certificate and its key`);
}

function parse(pem: string, path: string): TlsIdentity {
  const blocks = pem.match(/-----BEGIN ([A-Z0-9 ]+)-----[^-]+-----END \1-----/g) ?? [];
  const certificates = blocks.filter((block) => block.startsWith("-----BEGIN CERTIFICATE-----"));
  const keys = blocks.filter((block) => /^-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(block));
  const identity = { cert: `${certificates.join("\n")}\n`, key: `${keys.join("\n")}\n` };
  try {
    return requireIdentity(identity);
  } catch (error) {
    const { message } = VortexError.from(error, "Internal");
    throw new VortexError(
      "StorageFailed",
      `${path} holds no certificate with its key (${message}); remove it, and a new one is made`,
      { cause: error },
    );
  }
}

/** Only a file that is on the disk may take the place of the one before. */
async function writeDurably(path: string, text: string): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}
