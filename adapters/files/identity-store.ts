/**
 * Stores a server's self-signed certificate and its key in a file, so that both survive restarts.
 */
import { randomBytes } from "node:crypto";
import { link, mkdir, open, readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { VortexError } from "../../src/errors.ts";
import type { IdentityStore, TlsIdentity } from "../../src/transport/tls.ts";
import { loadTls } from "../shared/load-tls.ts";
import { replaceFile } from "./replace-file.ts";
import { codeOf, storageError } from "./storage-error.ts";

/**
 * Max length of an identity file, in characters. A file with a long certificate chain has some 20
 * KiB.
 */
const MAX_PEM_LENGTH = 1024 * 1024;

/**
 * Creates an identity store in one PEM file, which contains the private key and then the
 * certificate chain.
 *
 * Saving replaces the file atomically, so the file always has a certificate with its key. Only the
 * owner may read the file: it has mode 0600. On Windows the permissions of the folder apply. A
 * missing folder is created. Processes that start at the same time without a file all use the
 * identity that was saved first, except on file systems without hard links.
 *
 * Loading a file without a valid identity rejects with `StorageFailed`. The file is not replaced,
 * because clients may have pinned the certificate that it should contain.
 */
export function fileIdentityStore(path: string): IdentityStore {
  const load = async (): Promise<TlsIdentity | undefined> => {
    const pem = await readIfExists(path);
    if (pem === undefined) return undefined;
    const { requireIdentity } = await loadTls();
    return parse(pem, path, requireIdentity);
  };
  return {
    load,
    save: (identity) => writeAndPlace(identity, path, (temporary) => replaceFile(temporary, path)),
    async saveFirst(identity): Promise<TlsIdentity> {
      await writeAndPlace(identity, path, (temporary) => linkOrRename(temporary, path));
      // The given identity, or the one that another process saved first.
      return (await load()) ?? identity;
    },
  };
}

/**
 * Writes the identity to a temporary file, and calls `place` to move this file to `path`. Creates
 * the folder of `path` if it is missing. Rejects with `StorageFailed` if a step fails.
 */
async function writeAndPlace(
  { cert, key }: TlsIdentity,
  path: string,
  place: (temporary: string) => Promise<unknown>,
): Promise<void> {
  // In the same folder, because a rename does not work across file systems.
  const temporary = join(dirname(path), `.${randomBytes(8).toString("hex")}.pem.part`);
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await writeDurably(temporary, `${key.trim()}\n${cert.trim()}\n`);
    await place(temporary);
  } catch (error) {
    throw storageError(error, `cannot save the certificate to ${path}`);
  } finally {
    await rm(temporary, { force: true }).catch(() => {});
  }
}

/**
 * Moves a temporary file to `path`; an existing file at `path` is kept. Uses a hard link, because a
 * rename would replace an existing file. File systems without hard links get a rename, which
 * replaces a file that another process has created meanwhile.
 */
async function linkOrRename(temporary: string, path: string): Promise<void> {
  try {
    await link(temporary, path);
  } catch (error) {
    const code = codeOf(error);
    if (code === "EEXIST") return;
    if (code !== "EPERM" && code !== "ENOTSUP" && code !== "EOPNOTSUPP" && code !== "ENOSYS")
      throw error;
    // A file system without hard links.
    await replaceFile(temporary, path);
  }
}

async function readIfExists(path: string): Promise<string | undefined> {
  try {
    const pem = await readFile(path, "utf8");
    if (pem.length <= MAX_PEM_LENGTH) return pem;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw storageError(error, `cannot read the certificate file ${path}`);
  }
  throw new VortexError(
    "StorageFailed",
    `certificate file ${path}: expected at most ${MAX_PEM_LENGTH} characters, got more`,
  );
}

function parse(
  pem: string,
  path: string,
  requireIdentity: (identity: TlsIdentity) => TlsIdentity,
): TlsIdentity {
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
      `certificate file ${path}: no valid certificate and key (${message}); remove it to create a new one`,
      { cause: error },
    );
  }
}

/**
 * Writes a new file with mode 0600 and syncs it to disk. The caller can then rename the file over
 * another one without losing content in a crash.
 */
async function writeDurably(path: string, text: string): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}
