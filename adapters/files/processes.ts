/**
 * Identifies processes, even across restarts of the host. So a file can name the process that wrote
 * it.
 */
import { readFile, readlink } from "node:fs/promises";
import process from "node:process";
import { isGranted } from "../shared/permission.ts";
import { codeOf } from "./storage-error.ts";

/** Identity of a process, with which other processes can check whether it is still running. */
export interface ProcessIdentity {
  readonly pid: number;
  /**
   * Boot id and pid namespace of the process. A pid is valid only within both. They differ between
   * containers, and between hosts of the same name. Empty if they are unknown: there is no /proc,
   * or the permission to read it is missing.
   */
  readonly system: string;
  /**
   * Start time of the process, in clock ticks since boot. It detects a pid that another process
   * reuses. Empty if unknown.
   */
  readonly started: string;
}

/** Returns the identity of the current process. */
export async function ownIdentity(): Promise<ProcessIdentity> {
  const { pid } = process;
  const { started = "" } = (await statOf(pid)) ?? {};
  return { pid, system: await systemOf(), started };
}

/**
 * Returns true if a process is running, and false if it is not. Returns undefined if that is
 * unknown: the process is in another pid namespace or on another host, or its identity is
 * incomplete.
 */
export async function isRunning({
  pid,
  system,
  started,
}: ProcessIdentity): Promise<boolean | undefined> {
  if (system === "" || started === "" || system !== (await systemOf())) return undefined;
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM means that it runs as another user.
    if (codeOf(error) === "ESRCH") return false;
  }
  const found = await statOf(pid);
  return found && found.started === started && found.state !== "Z";
}

async function systemOf(): Promise<string> {
  const [boot, namespace] = await Promise.all([
    read(() => readFile("/proc/sys/kernel/random/boot_id", "utf8")),
    read(() => readlink("/proc/self/ns/pid")),
  ]);
  return boot && namespace ? `${boot.trim()} ${namespace}` : "";
}

/**
 * Reads the start time, in clock ticks since boot, and the state of a process (proc_pid_stat(5)).
 * Resolves to undefined if /proc has no readable entry for the process.
 */
async function statOf(
  pid: number,
): Promise<{ readonly started: string; readonly state: string } | undefined> {
  const text = await read(() => readFile(`/proc/${pid}/stat`, "utf8"));
  // The program name is in parentheses and may contain any character. The state is field 3, the
  // start time field 22.
  const fields = text?.slice(text.lastIndexOf(")") + 2).split(" ");
  const [state, started] = [fields?.[0], fields?.[19]];
  return state === undefined || started === undefined ? undefined : { started, state };
}

/**
 * Returns the result of `reading`. Returns undefined if `reading` fails, or if Deno would prompt
 * for the permission to read.
 */
async function read(reading: () => Promise<string>): Promise<string | undefined> {
  return isGranted({ name: "read" }) ? reading().catch(() => undefined) : undefined;
}
