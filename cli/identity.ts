/** Selects the server certificate of `serve` and the file that keeps it. */
import { join } from "node:path";
import process from "node:process";
import { fileIdentityStore } from "../adapters/files/identity-store.ts";
import { readText } from "../adapters/files/text.ts";
import { VortexError } from "../src/errors.ts";
import type { IdentityStore, TlsIdentity, TlsServerOptions } from "../src/transport/tls.ts";
import type { CliEnvironment } from "./terminal.ts";

/** Command-line options for the server certificate. */
export interface IdentityOptions {
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  /**
   * File for the self-signed certificate, or `false` to keep none. Default: user's state folder.
   */
  readonly identity?: string | false | undefined;
  readonly rotate: boolean;
}

/**
 * Checks that the certificate options do not contradict each other.
 * @param secured true when at least one protocol is served over TLS
 * @throws `InvalidArgument`
 */
export function checkIdentityOptions(
  { cert, key, identity, rotate }: IdentityOptions,
  secured: boolean,
): void {
  if ((cert === undefined) !== (key === undefined)) {
    throw new VortexError(
      "InvalidArgument",
      `--cert, --key: expected both or neither, got only ${cert === undefined ? "--key" : "--cert"}`,
    );
  }
  const selfSignedFlags = [
    identity === false ? "--no-identity" : identity && "--identity",
    rotate && "--rotate",
  ].filter(Boolean);
  if (cert !== undefined && selfSignedFlags.length > 0) {
    throw new VortexError(
      "InvalidArgument",
      `${selfSignedFlags.join(", ")}: expected a self-signed certificate, got --cert`,
    );
  }
  if (identity === false && rotate) {
    throw new VortexError(
      "InvalidArgument",
      "--rotate: expected a kept certificate, got --no-identity, which creates one for each run",
    );
  }
  const identityFlags = [cert && "--cert, --key", ...selfSignedFlags].filter(Boolean);
  if (identityFlags.length > 0 && !secured) {
    throw new VortexError(
      "InvalidArgument",
      `${identityFlags.join(", ")}: expected QUIC or --grpc-tls, got neither; other protocols have no TLS`,
    );
  }
}

/** Returns true when the options demand a specific, kept or new certificate. */
export function requiresIdentity({ cert, identity, rotate }: IdentityOptions): boolean {
  return cert !== undefined || typeof identity === "string" || rotate;
}

/**
 * Returns the TLS options for the server: the given certificate, or the store of the self-signed
 * one.
 *
 * A failure to save to the default file goes to `onError` and is not fatal. So a server without a
 * home directory, or on a read-only disk, still serves.
 */
export async function identityTls(
  options: IdentityOptions,
  env: CliEnvironment["env"],
  onError: (error: VortexError) => void,
): Promise<TlsServerOptions> {
  const given = await givenIdentity(options);
  if (given !== undefined) return given;
  const { identity } = options;
  if (identity === false) return {};
  if (identity !== undefined) return { identityStore: fileIdentityStore(identity) };
  const path = defaultIdentityFile(env, process.platform);
  if (path !== undefined) return { identityStore: tolerant(fileIdentityStore(path), onError) };
  const message =
    "cannot keep the certificate: no home directory; it is used for this run only, set --identity to a file";
  onError(new VortexError("StorageFailed", message));
  return {};
}

/**
 * Reads the files of `--cert` and `--key`; undefined without them. Each call reads the files again,
 * so a rotation picks up new content. Rejects with `StorageFailed`.
 */
export async function givenIdentity({
  cert,
  key,
}: IdentityOptions): Promise<TlsIdentity | undefined> {
  if (cert === undefined || key === undefined) return undefined;
  return { cert: await readText(cert), key: await readText(key) };
}

/**
 * Returns the default identity file: `vortex-peer/identity.pem` in the user's state folder. That is
 * $XDG_STATE_HOME or ~/.local/state (XDG Base Directory Specification 0.8), ~/Library/Application
 * Support on macOS, and %LOCALAPPDATA% on Windows. Undefined when the variables are not set.
 */
export function defaultIdentityFile(
  env: CliEnvironment["env"],
  platform: string,
): string | undefined {
  const { XDG_STATE_HOME, HOME, LOCALAPPDATA } = env;
  const inHome = (...folders: string[]): string | undefined =>
    HOME ? join(HOME, ...folders) : undefined;
  let folder: string | undefined;
  if (platform === "win32") folder = LOCALAPPDATA;
  // The specification requires that relative paths are ignored.
  else if (XDG_STATE_HOME?.startsWith("/")) folder = XDG_STATE_HOME;
  else
    folder =
      platform === "darwin" ? inHome("Library", "Application Support") : inHome(".local", "state");
  return folder ? join(folder, "vortex-peer", "identity.pem") : undefined;
}

/** Wraps a store so that a failed save is reported to `onError` instead of rejecting. */
function tolerant(store: IdentityStore, onError: (error: VortexError) => void): IdentityStore {
  const { saveFirst } = store;
  const orElse = async <T>(saving: Promise<T>, fallback: T): Promise<T> => {
    try {
      return await saving;
    } catch (error) {
      const { message } = VortexError.from(error, "Internal");
      onError(
        new VortexError(
          "StorageFailed",
          `cannot keep the certificate: ${message}; it is used for this run only`,
          { cause: error },
        ),
      );
      return fallback;
    }
  };
  return {
    load: () => store.load(),
    save: (identity) => orElse(store.save(identity), undefined),
    ...(saveFirst && {
      saveFirst: (identity) => orElse(saveFirst.call(store, identity), identity),
    }),
  };
}
