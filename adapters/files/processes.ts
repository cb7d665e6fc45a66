/** Recognises a process from what a file says of it, long after that file was written. */
import { readFile, readlink } from "node:fs/promises";
import process from "node:process";
import { isGranted } from "../shared/permission.ts";
import { codeOf } from "./storage-error.ts";

/** A process as others may recognise it. */
export interface ProcessIdentity {
  readonly pid: number;
  /**
   * Boot id and pid namespace: a pid has a meaning within these only. Two containers, or two hosts of one name, differ here.
   * Empty where the system does not say (no /proc, or no permission to read it).
   */
  readonly system: string;
  /** Start time in clock ticks since boot, since pids are used again. Empty where the system does not say. */
  readonly started: string;
}

/** Identifies this process. */
export async function ownIdentity(): Promise<ProcessIdentity> {
  const { pid } = process;
  const { started = "" } = (await statOf(pid)) ?? {};
  return { pid, system: await systemOf(), started };
}

/**
 * Returns whether a process runs. Undefined where this process cannot tell: the other one lives in another pid namespace or
 * on another host, or the system does not say.
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
    // EPERM: it runs, as another user.
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

/** Start time and state of a process (proc_pid_stat(5)); undefined where there is no /proc. */
async function statOf(
  pid: number,
): Promise<{ readonly started: string; readonly state: string } | undefined> {
  const text = await read(() => readFile(`/proc/${pid}/stat`, "utf8"));
  // The program's name stands in parentheses and may hold anything. The state is field 3, the start time field 22.
  const fields = text?.slice(text.lastIndexOf(")") + 2).split(" ");
  const [state, started] = [fields?.[0], fields?.[19]];
  return state === undefined || started === undefined ? undefined : { started, state };
}

/** What `reading` resolves to; undefined where it fails, or where the runtime would have to ask its user first. */
async function read(reading: () => Promise<string>): Promise<string | undefined> {
  return isGranted({ name: "read" }) ? reading().catch(() => undefined) : undefined;
}
