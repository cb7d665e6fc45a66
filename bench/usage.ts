/** CPU time and memory of this process, on every runtime. */
import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";

/** What a process has used. */
export interface Usage {
  /** Seconds of all its threads, in user mode and in the kernel. */
  readonly cpuSeconds: number;
  /** Greatest resident memory, bytes. */
  readonly peakMemory: number;
}

/** Begins to count anew, as far as the system allows: Linux forgets the peak of memory when told to (proc(5), clear_refs). */
export function startUsage(): () => Usage {
  const before = process.cpuUsage();
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {
    // Elsewhere the peak is that of the whole life of the process.
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
