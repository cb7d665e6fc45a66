/** Which certificate `serve` shows, and where it is kept. */
import { join } from "node:path";
import process from "node:process";
import { fileIdentityStore } from "../adapters/files/identity-store.ts";
import { readText } from "../adapters/files/text.ts";
import { VortexError } from "../src/errors.ts";
import type { IdentityStore, TlsIdentity, TlsServerOptions } from "../src/transport/tls.ts";
import type { CliEnvironment } from "./terminal.ts";

/** The options about the certificate. */
export interface IdentityOptions {
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  /** A file, or `false` to keep nothing. Default: a file in the user's folder for state. */
  readonly identity?: string | false | undefined;
  readonly rotate: boolean;
}

/**
 * Fails for options that contradict each other.
 * @param secured whether anything is served over TLS
 * @throws `InvalidArgument`
 */
export function checkIdentityOptions(
  { cert, key, identity, rotate }: IdentityOptions,
  secured: boolean,
): void {
  if ((cert === undefined) !== (key === undefined)) {
    throw new VortexError("InvalidArgument", "--cert and --key belong together");
  }
  const own = [
    identity === false ? "--no-identity" : identity && "--identity",
    rotate && "--rotate",
  ].filter(Boolean);
  if (cert !== undefined && own.length > 0) {
    throw new VortexError(
      "InvalidArgument",
      `${own.join(", ")}: --cert gives the certificate, so none is made`,
    );
  }
  if (identity === false && rotate) {
    throw new VortexError(
      "InvalidArgument",
      "--no-identity, --rotate: there is none to change, each run has a new one",
    );
  }
  const given = [cert && "--cert, --key", ...own].filter(Boolean);
  if (given.length > 0 && !secured) {
    throw new VortexError(
      "InvalidArgument",
      `${given.join(", ")}: only QUIC and --grpc-tls have a certificate`,
    );
  }
}

/** Whether the user has said something about the certificate, so that there must be one. */
export function namesIdentity({ cert, identity, rotate }: IdentityOptions): boolean {
  return cert !== undefined || typeof identity === "string" || rotate;
}

/**
 * The server's certificate, or where it is kept. `tell` hears when it cannot be kept in the default place: a server without a
 * home, or on a read-only disk, serves all the same.
 */
export async function identityTls(
  options: IdentityOptions,
  env: CliEnvironment["env"],
  tell: (error: VortexError) => void,
): Promise<TlsServerOptions> {
  const given = await givenIdentity(options);
  if (given !== undefined) return given;
  const { identity } = options;
  if (identity === false) return {};
  if (identity !== undefined) return { identityStore: fileIdentityStore(identity) };
  const path = defaultIdentityFile(env, process.platform);
  if (path !== undefined) return { identityStore: lenient(fileIdentityStore(path), tell) };
  const message =
    "there is no home to keep the certificate in, so it lasts for this run (--identity names a file)";
  tell(new VortexError("StorageFailed", message));
  return {};
}

/** The certificate and key that are given as files; they may have changed since the last time. */
export async function givenIdentity({
  cert,
  key,
}: IdentityOptions): Promise<TlsIdentity | undefined> {
  if (cert === undefined || key === undefined) return undefined;
  return { cert: await readText(cert), key: await readText(key) };
}

/**
 * `vortex-peer/identity.pem` in the folder where programs of this user keep state: $XDG_STATE_HOME or ~/.local/state (XDG Base
 * Directory Specification 0.8), ~/Library/Application Support on macOS, %LOCALAPPDATA% on Windows.
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
  // The specification has relative paths ignored.
  else if (XDG_STATE_HOME?.startsWith("/")) folder = XDG_STATE_HOME;
  else
    folder =
      platform === "darwin" ? inHome("Library", "Application Support") : inHome(".local", "state");
  return folder ? join(folder, "vortex-peer", "identity.pem") : undefined;
}

function lenient(store: IdentityStore, tell: (error: VortexError) => void): IdentityStore {
  const { saveFirst } = store;
  const tried = async <T>(saving: Promise<T>, otherwise: T): Promise<T> => {
    try {
      return await saving;
    } catch (error) {
      const { message } = VortexError.from(error, "Internal");
      tell(new VortexError("StorageFailed", `${message}; it lasts for this run`, { cause: error }));
      return otherwise;
    }
  };
  return {
    load: () => store.load(),
    save: (identity) => tried(store.save(identity), undefined),
    ...(saveFirst && { saveFirst: (identity) => tried(saveFirst.call(store, identity), identity) }),
  };
}
