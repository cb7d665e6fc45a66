/** Identifies processes across restarts, so that a file can name the process that wrote it. */
import { readFile, readlink } from "node:fs/promises";
import process from "node:process";
import { isGranted } from "../shared/permission.ts";
import { codeOf } from "./storage-error.ts";

/** Identity of a process that other processes can check. */
export interface ProcessIdentity {
  readonly pid: number;
  /**
   * Boot id and pid namespace, within which the pid is valid. They differ between containers, and
   * between hosts of the same name. Empty when unknown (no /proc, or no permission to read it).
   */
  readonly system: string;
  /** Start time in clock ticks since boot, because pids are reused. Empty when unknown. */
  readonly started: string;
}

/** Returns the identity of this process. */
export async function ownIdentity(): Promise<ProcessIdentity> {
  const { pid } = process;
  const { started = "" } = (await statOf(pid)) ?? {};
  return { pid, system: await systemOf(), started };
}

/**
 * Checks whether a process is running. Undefined when unknown: it is in another pid namespace, on
 * another host, or its identity is incomplete.
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

/** Reads the start time and state of a process (proc_pid_stat(5)). Undefined without /proc. */
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
 * Calls `reading`. Resolves to undefined when it fails, or when Deno would prompt for permission.
 */
async function read(reading: () => Promise<string>): Promise<string | undefined> {
  return isGranted({ name: "read" }) ? reading().catch(() => undefined) : undefined;
}
