/** CPU time and memory of this process, on every runtime. */
import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";

/** Resources used by a process. */
export interface Usage {
  /** CPU time of all threads in user mode and in the kernel, in seconds. */
  readonly cpuSeconds: number;
  /** Maximum resident memory, in bytes. */
  readonly peakMemory: number;
}

/**
 * Starts a new count, and returns a function that reads it. On Linux the peak of memory is reset
 * (proc(5), clear_refs).
 */
export function startUsage(): () => Usage {
  const before = process.cpuUsage();
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {
    // On other systems the peak covers the whole life of the process.
  }
  return () => {
    const { user, system } = process.cpuUsage(before);
    return { cpuSeconds: (user + system) / 1e6, peakMemory: peakMemory() };
  };
}

function peakMemory(): number {
  try {
    return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}
