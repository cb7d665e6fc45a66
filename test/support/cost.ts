/** Counts allocations, copies and calls instead of time, so results are equal on every machine. */

/** Number of bytes that JavaScript code in this process has allocated and copied. */
export interface ByteCosts {
  readonly allocated: number;
  readonly copied: number;
}

/**
 * Counts allocated and copied bytes until `stop` is called. Replaces global constructors and
 * methods, so only one counter may run at a time.
 */
export function countBytes(): { readonly costs: () => ByteCosts; readonly stop: () => void } {
  const Native = Uint8Array;
  const NativeBuffer = ArrayBuffer;
  const { set, slice } = Native.prototype;
  let allocated = 0;
  let copied = 0;
  // A proxy keeps `instanceof` and the prototypes intact.
  const counting = <T extends object>(made: T): T =>
    new Proxy(made, {
      construct(target, args: unknown[], newTarget) {
        if (typeof args[0] === "number") allocated += args[0];
        const construct = target as unknown as new (...args: unknown[]) => object;
        return Reflect.construct(
          construct,
          args,
          newTarget === proxies.get(target) ? construct : newTarget,
        );
      },
    });
  const proxies = new Map<object, object>();
  for (const made of [Native, NativeBuffer]) proxies.set(made, counting(made));
  Object.assign(globalThis, {
    Uint8Array: proxies.get(Native),
    ArrayBuffer: proxies.get(NativeBuffer),
  });
  Native.prototype.set = function (this: Uint8Array, from: ArrayLike<number>, at?: number): void {
    copied += from.length;
    set.call(this, from, at);
  };
  Native.prototype.slice = function (
    this: Uint8Array<ArrayBuffer>,
    start?: number,
    end?: number,
  ): Uint8Array<ArrayBuffer> {
    const part = slice.call(this, start, end);
    allocated += part.length;
    copied += part.length;
    return part;
  } as typeof slice;
  return {
    costs: () => ({ allocated, copied }),
    stop() {
      Object.assign(globalThis, { Uint8Array: Native, ArrayBuffer: NativeBuffer });
      Object.assign(Native.prototype, { set, slice });
    },
  };
}

/**
 * Counts method calls on all instances of a class until `stop` is called.
 * @param prototype prototype of the class
 */
export function countCalls(prototype: object): {
  readonly calls: ReadonlyMap<string, number>;
  /** Number of calls that returned a value other than null, by method name. */
  readonly nonNullCalls: ReadonlyMap<string, number>;
  readonly stop: () => void;
} {
  const calls = new Map<string, number>();
  const nonNullCalls = new Map<string, number>();
  const before: [string, PropertyDescriptor][] = [];
  for (const [name, descriptor] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
    const method: unknown = descriptor.value;
    if (typeof method !== "function" || name === "constructor") continue;
    before.push([name, descriptor]);
    Object.defineProperty(prototype, name, {
      ...descriptor,
      value(this: unknown, ...args: unknown[]): unknown {
        calls.set(name, (calls.get(name) ?? 0) + 1);
        const result: unknown = Reflect.apply(method, this, args);
        if (result !== null) nonNullCalls.set(name, (nonNullCalls.get(name) ?? 0) + 1);
        return result;
      },
    });
  }
  return {
    calls,
    nonNullCalls,
    stop() {
      for (const [name, descriptor] of before) Object.defineProperty(prototype, name, descriptor);
    },
  };
}
