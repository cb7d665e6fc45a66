import type { PieceKind } from "../src/piece.ts";
import type { Operation, OperationResult, OperationStart, Telemetry } from "../src/telemetry.ts";

/**
 * Spans and metrics for OpenTelemetry, under the names that stock Dragonfly's have (dragonfly-client 1.5.1, its tracing spans and
 * `dragonfly-client-metric`). Give it the module that the program has set up:
 *
 *     import * as api from "@opentelemetry/api";
 *     createDownloader({ protocol: "quic", telemetry: openTelemetry(api) });
 *
 * | metric `dragonfly_client_…` | attributes | counts |
 * | --- | --- | --- |
 * | `download_task_total`, `download_task_failure_total` | `type` | tasks fetched |
 * | `concurrent_download_task_total` | `type` | of those, the ones under way |
 * | `download_task_duration_milliseconds` | `task_type`, `task_size_level` | time of tasks that were fetched |
 * | `download_traffic` | `type` (`REMOTE_PEER`) | bytes of pieces fetched |
 * | `download_piece_total`, `download_piece_failure_total` | `error_type` | pieces asked for (*) |
 * | `concurrent_upload_piece_total` | | pieces being sent |
 * | `upload_traffic` | | bytes of content sent |
 * | `upload_piece_total`, `upload_piece_failure_total` | `error_type` | pieces that peers asked for (*) |
 * | `stat_task_total`, `stat_task_failure_total` | `type` | StatTask answered |
 * | `stat_local_task_total`, `stat_local_task_failure_total` | `type` | StatLocalTask answered |
 *
 * Calls over gRPC carry the trace by the propagator that the program has set up, W3C Trace Context as a rule, and a server takes it
 * up: its spans belong to those of the asking peer. Vortex has no room for it.
 *
 * (*) Stock Dragonfly counts tasks only. `type` and `task_type` are the numbers of `common.v2.TaskType`, as there. What a task
 * is for (`tag`, `app`, `priority`) is not known here. Prometheus exporters add `_total` to counters that lack it. Ids and
 * addresses are attributes of spans only. What the caller aborted counts as no failure.
 */
export function openTelemetry(api: OpenTelemetryApi): Telemetry {
  const tracer = api.trace.getTracer(SCOPE);
  const metrics = new Metrics(api.metrics.getMeter(SCOPE));
  return {
    begin(start): Operation {
      const { headers } = start;
      const parent =
        headers && api.propagation.extract(api.context.active(), headers, headerGetter);
      const span = tracer.startSpan(
        start.name,
        { kind: kindOf(start), attributes: spanAttributes(start) },
        parent,
      );
      const began = performance.now();
      metrics.begin(start);
      return {
        run: (work) => api.context.with(api.trace.setSpan(api.context.active(), span), work),
        headers(): Record<string, string> {
          const carrier: Record<string, string> = {};
          api.propagation.inject(api.trace.setSpan(api.context.active(), span), carrier);
          return carrier;
        },
        end(result): void {
          metrics.end(start, result, performance.now() - began);
          const { bytes, error } = result;
          if (bytes !== undefined) span.setAttribute("content_length", bytes);
          if (error !== undefined) {
            span.setAttribute("error.type", error.code);
            if (error.kind !== "aborted")
              span.setStatus({ code: STATUS_ERROR, message: error.message });
          }
          span.end();
        },
      };
    },
  };
}

/** The part of `@opentelemetry/api` that is used, 1.3 or newer. */
export interface OpenTelemetryApi {
  /** Where spans come from. */
  readonly trace: {
    getTracer(name: string): {
      startSpan(name: string, options: SpanOptions, context?: Context): Span;
    };
    setSpan(context: Context, span: Span): Context;
  };
  /** Where instruments come from. */
  readonly metrics: { getMeter(name: string): Meter };
  /** What a span that begins belongs to. */
  readonly context: { active(): Context; with<T>(context: Context, work: () => T): T };
  /** How a trace goes on over gRPC. */
  readonly propagation: {
    inject(context: Context, carrier: Record<string, string>): void;
    extract(context: Context, carrier: Headers, getter: HeaderGetter): Context;
  };
}

interface Context {
  getValue(key: symbol): unknown;
}

type Attributes = Record<string, string | number>;

interface SpanOptions {
  readonly kind: number;
  readonly attributes: Attributes;
}

interface HeaderGetter {
  get(carrier: Headers, name: string): string | undefined;
  keys(carrier: Headers): string[];
}

interface Span {
  setAttribute(name: string, value: string | number): unknown;
  setStatus(status: { code: number; message?: string }): unknown;
  end(): void;
}

interface Meter {
  createCounter(name: string, options: InstrumentOptions): Adder;
  createUpDownCounter(name: string, options: InstrumentOptions): Adder;
  createHistogram(
    name: string,
    options: InstrumentOptions,
  ): { record(value: number, attributes: Attributes): void };
}

interface InstrumentOptions {
  description: string;
  unit?: string;
  advice?: { explicitBucketBoundaries: number[] };
}

interface Adder {
  add(value: number, attributes: Attributes): void;
}

const headerGetter: HeaderGetter = {
  get: (carrier, name) => carrier.get(name) ?? undefined,
  keys: (carrier) => [...carrier.keys()],
};

const SCOPE = "vortex-peer";
const PREFIX = "dragonfly_client_";
/** `SpanKind` and `SpanStatusCode` of OpenTelemetry. */
const SPAN_SERVER = 1;
const SPAN_CLIENT = 2;
const STATUS_ERROR = 2;

/** `common.v2.TaskType`. */
const taskTypes: Record<PieceKind, string> = {
  standard: "0",
  persistent: "1",
  "persistent-cache": "2",
  cache: "3",
};

/** MiB below which each of Dragonfly's size levels lies, from level 1 on; level 0 is for a size of 0. */
const sizeLevels = [
  1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144,
  524_288, 1_048_576,
];

/** The buckets of stock Dragonfly's histograms: powers of two, 24 of them. */
const durationBuckets = Array.from({ length: 24 }, (_, power) => 2 ** power);

/** Counts operations. Instruments are made when first needed, so that none shows that is never used. */
class Metrics {
  readonly #meter: Meter;
  readonly #counters = new Map<string, Adder>();
  #duration: { record(value: number, attributes: Attributes): void } | undefined;

  constructor(meter: Meter) {
    this.#meter = meter;
  }

  begin(start: OperationStart): void {
    const counted = countedAs(start);
    if (counted === undefined) return;
    this.#add(`${counted}_total`, 1, typeOf(start));
    const concurrent = concurrentAs(start);
    if (concurrent !== undefined) this.#add(concurrent, 1, typeOf(start));
  }

  end(start: OperationStart, { bytes, error }: OperationResult, milliseconds: number): void {
    const counted = countedAs(start);
    const concurrent = concurrentAs(start);
    if (concurrent !== undefined) this.#add(concurrent, -1, typeOf(start));
    if (error === undefined) this.#succeeded(start, bytes ?? 0, milliseconds);
    if (error === undefined || error.kind === "aborted" || counted === undefined) return;
    const attributes = start.name === "download_piece" ? { error_type: error.code } : typeOf(start);
    this.#add(`${counted}_failure_total`, 1, attributes);
  }

  #succeeded(start: OperationStart, bytes: number, milliseconds: number): void {
    const { name, role } = start;
    if (name === "download_piece" && role === "client") {
      this.#add("download_traffic", bytes, { type: "REMOTE_PEER" }, "By");
    } else if (role === "server" && (name === "download_piece" || name === "download_task")) {
      this.#add("upload_traffic", bytes, {}, "By");
    } else if (name === "download_task") {
      this.#duration ??= this.#meter.createHistogram(
        `${PREFIX}download_task_duration_milliseconds`,
        {
          description: "Time of tasks that were fetched.",
          unit: "ms",
          advice: { explicitBucketBoundaries: durationBuckets },
        },
      );
      const level =
        bytes === 0 ? 0 : sizeLevels.filter((least) => bytes >= least * 1024 * 1024).length + 1;
      this.#duration.record(milliseconds, {
        task_type: taskTypes[start.kind ?? "standard"],
        task_size_level: String(level),
      });
    }
  }

  #add(name: string, value: number, attributes: Attributes, unit?: string): void {
    let counter = this.#counters.get(name);
    if (counter === undefined) {
      const options = { description: descriptionOf(name), ...(unit !== undefined && { unit }) };
      const full = PREFIX + name;
      counter = name.startsWith("concurrent_")
        ? this.#meter.createUpDownCounter(full, options)
        : this.#meter.createCounter(full, options);
      this.#counters.set(name, counter);
    }
    counter.add(value, attributes);
  }
}

/** The name that Dragonfly counts an operation under, or would. */
function countedAs({ name, role }: OperationStart): string | undefined {
  if (name === "download_piece") return role === "client" ? "download_piece" : "upload_piece";
  if (name === "download_task") return role === "client" ? "download_task" : undefined;
  return role === "server" && name !== "sync_pieces" ? name : undefined;
}

function concurrentAs(start: OperationStart): string | undefined {
  const counted = countedAs(start);
  return counted === "download_task" || counted === "upload_piece"
    ? `concurrent_${counted}_total`
    : undefined;
}

/** Pieces are counted without a type, as in stock Dragonfly's metrics of pieces. */
function typeOf({ name, kind = "standard" }: OperationStart): Attributes {
  return name === "download_piece" ? {} : { type: taskTypes[kind] };
}

function descriptionOf(name: string): string {
  return `${name.replace(/_total$/, "").replaceAll("_", " ")}, as dragonfly-client counts it`;
}

function kindOf({ role }: OperationStart): number {
  return role === "server" ? SPAN_SERVER : SPAN_CLIENT;
}

/** Names of attributes as on stock Dragonfly's spans. */
function spanAttributes({
  taskId,
  number,
  addr,
  kind,
  protocol,
  protocolReason,
}: OperationStart): Attributes {
  return {
    task_id: taskId,
    ...(number !== undefined && { piece_id: `${taskId}-${number}` }),
    ...(addr !== undefined && { remote_address: addr }),
    ...(kind !== undefined && { task_type: kind }),
    ...(protocol !== undefined && { "network.protocol.name": protocol }),
    ...(protocolReason !== undefined && { "vortex_peer.protocol.reason": protocolReason }),
  };
}
