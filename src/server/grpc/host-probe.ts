/**
 * Figures of a host: its system, load and bandwidth. An adapter measures them, since the core knows
 * no runtime.
 */

/** Load of a host. A figure that the runtime does not know is absent, and sent as zero. */
export interface HostFigures {
  /** Name of the operating system, such as `linux`. */
  readonly os?: string | undefined;
  /** Platform of the operating system, as the runtime names it. */
  readonly platform?: string | undefined;
  /** Version of the kernel. */
  readonly kernelVersion?: string | undefined;
  /** Number of logical cores. */
  readonly cores?: number | undefined;
  /** Load of all cores since the previous reading, 0 to 100. */
  readonly cpuPercent?: number | undefined;
  /** Load of all cores by this process since the previous reading, 0 to 100. */
  readonly processCpuPercent?: number | undefined;
  /** Memory of the host, in bytes. */
  readonly memoryTotal?: number | undefined;
  /** Memory that programs can still allocate, in bytes. */
  readonly memoryAvailable?: number | undefined;
  /** Resident memory of this process, in bytes. */
  readonly processMemory?: number | undefined;
  /** Speed of the network interface in each direction, in bits/s. */
  readonly linkSpeed?: number | undefined;
  /** Rate of received data on the interface since the previous reading, in bits/s. */
  readonly receiveRate?: number | undefined;
  /** Rate of sent data on the interface since the previous reading, in bits/s. */
  readonly sendRate?: number | undefined;
}

/** Measures the load of the host that it runs on. */
export interface HostProbe {
  /**
   * Resolves to the present figures. Rates and loads cover the time since the previous call, and
   * are absent in the first. The caller keeps an interval of about a second.
   *
   * @param ip IP address of the network interface to measure
   */
  read(ip: string): Promise<HostFigures>;
}
