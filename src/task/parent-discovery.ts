import { type Digest, parseDigest } from "../digest/digest.ts";
import { VortexError, withAddress } from "../errors.ts";
import type { Clock } from "../runtime.ts";
import { eachWithin, type Operation } from "../telemetry.ts";
import type { PeerAddress } from "../transport/peer-address.ts";
import type { TaskOutline } from "./discovery.ts";
import { TaskLayout } from "./layout.ts";
import type { KnownParent } from "./parents.ts";
import { requirePlace, requireSameTask, requireTaskDigest } from "./piece-check.ts";
import { MOST_FAILURES, pauseAfter, type RouteState } from "./route.ts";
import type { TaskSource } from "./source.ts";
import type { TaskRequest } from "./task.ts";
import { verdictOn } from "./verdict.ts";

/** A parent, and what is known of where it serves. */
export interface Parent extends KnownParent {
  /** Where it announced to serve; pieces of one parent are served at one address. */
  announcedAddr?: PeerAddress;
}

/** What the parents told of the whole task. */
export interface ToldTask {
  readonly layout: TaskLayout;
  /** Digest of the content that will be had, if the parents know one. */
  readonly digest: Digest | undefined;
}

/** What a discovery works with. */
export interface DiscoveryContext {
  readonly request: TaskRequest;
  readonly source: TaskSource;
  /** What the caller says of the whole. */
  readonly digest: Digest | undefined;
  readonly maxPieceLength: number;
  /** In the caller's order. */
  readonly parents: readonly Parent[];
  readonly clock: Clock;
  /** From 0 to 1. */
  readonly random: () => number;
  /** Ends all questions. */
  readonly signal: AbortSignal;
  /** What the questions belong to, for whoever watches. */
  readonly operation: Operation | undefined;
  /** Told when pieces may have come within reach. */
  readonly onChange: () => void;
  /** Told of a parent that is of no use: it has another task, say. */
  readonly onUseless: (parent: string) => void;
}

/** Asks parents how the task is cut into pieces, and follows what they announce of the pieces that they have. */
export class ParentDiscovery {
  readonly #context: DiscoveryContext;
  /** The answers of the parents that were asked for the layout; and the one that counts. */
  readonly #answers = new Map<Parent, Promise<TaskOutline>>();
  #outline: TaskOutline | undefined;

  constructor(context: DiscoveryContext) {
    this.#context = context;
  }

  /**
   * The layout as the first parent tells it that has what is wanted. Those who tell another one have another content. A parent whose
   * answer cannot be used must not stand in the way of others because it was quick.
   */
  async ask(): Promise<ToldTask> {
    const { request, source, digest: wanted, maxPieceLength, parents, signal, operation } = this.#context;
    const { taskId, hostId, kind = "standard", range } = request;
    const { directory } = source;
    if (directory === undefined) throw new VortexError("Internal", "a download without a layout or a directory");
    const answers = parents.map(async (parent) => {
      if (parent.apiAddr === undefined) throw new VortexError("Internal", "a parent without an address to ask");
      try {
        const { apiAddr } = parent;
        const stat = (): Promise<TaskOutline> => directory.stat(apiAddr, taskId, { signal, hostId, kind });
        const outline = await (operation === undefined ? stat() : operation.run(stat));
        const layout = TaskLayout.announced({ taskId, kind, range }, outline);
        layout.requirePieces(maxPieceLength);
        if (wanted !== undefined) requireTaskDigest(outline, wanted);
        return { outline, layout, digest: outline.digest === undefined ? undefined : parseDigest(outline.digest) };
      } catch (error) {
        throw withAddress(error, parent.name);
      }
    });
    const known = await Promise.any(answers).catch((error: unknown) => {
      throw error instanceof AggregateError ? noneTold(taskId, error.errors as VortexError[]) : error;
    });
    for (const [index, parent] of parents.entries()) {
      const answer = answers[index]?.then(({ outline }) => outline);
      if (answer === undefined) continue;
      // Those that are not listened to any more may fail unheard.
      answer.catch(() => {});
      this.#answers.set(parent, answer);
    }
    this.#outline = known.outline;
    // A digest of the whole says nothing of a part.
    return { layout: known.layout, digest: range === undefined ? known.digest : undefined };
  }

  /** Whether a parent is asked which pieces it has. */
  asks({ apiAddr }: Parent): boolean {
    return this.#context.source.directory !== undefined && apiAddr !== undefined;
  }

  /** Follows what a parent announces. One that breaks off is asked anew, as often in a row as a piece would be. */
  async follow(layout: TaskLayout, parent: Parent, routes: readonly RouteState[]): Promise<void> {
    const { signal, random, onChange, onUseless } = this.#context;
    const answer = this.#answers.get(parent);
    let failures = 0;
    let known = answer === undefined;
    while (!signal.aborted && routes.some((route) => !route.out)) {
      try {
        const outline = await answer;
        // A directory need not heed the signal.
        if (signal.aborted) return;
        if (outline !== undefined && this.#outline !== undefined) requireSameTask(outline, this.#outline);
        known = true;
        await this.#listen(layout, parent, routes, () => {
          failures = 0;
        });
        if (signal.aborted) return;
        for (const route of routes) route.endAnnouncements(false);
        break;
      } catch (error) {
        if (signal.aborted) return;
        const failure = withAddress(error, parent.name);
        const verdict = verdictOn(failure);
        for (const route of routes) route.note(failure);
        if (known && verdict === "again" && ++failures < MOST_FAILURES) {
          await this.#wait(pauseAfter(failures, random));
          if (signal.aborted) return;
        } else if (parent.addr !== undefined && (verdict === "again" || failure.code === "RemoteUnimplemented")) {
          // It may serve pieces and not tell of them, so it is asked for all of them.
          for (const route of routes) route.endAnnouncements(true);
          break;
        } else {
          onUseless(parent.name);
        }
      }
    }
    onChange();
  }

  async #listen(layout: TaskLayout, parent: Parent, routes: readonly RouteState[], onPiece: () => void): Promise<void> {
    const { request, source, signal, operation, onChange } = this.#context;
    const { taskId, hostId, kind = "standard" } = request;
    const { directory } = source;
    if (directory === undefined || parent.apiAddr === undefined) return;
    const numbers = Array.from({ length: layout.wantedCount }, (_, index) => layout.first + index);
    const locations = directory.sync(parent.apiAddr, taskId, { signal, hostId, kind, numbers });
    for await (const location of eachWithin(operation, locations)) {
      if (signal.aborted) return;
      if (layout.part(location.number) === undefined) continue;
      requirePlace(location, layout);
      const addr = source.speaksApi ? parent.apiAddr : source.addressOf(location, parent.apiAddr);
      if (addr !== undefined) parent.announcedAddr = addr;
      if (parent.addr === undefined && parent.announcedAddr === undefined) continue;
      const served = source.protocolsOf?.(parent.addresses ?? parent.addr ?? parent.announcedAddr);
      for (const route of routes) {
        if (route.protocol === undefined || served?.includes(route.protocol)) route.announce(location.number);
      }
      onPiece();
      onChange();
    }
  }

  /** Resolves after a time, or when the download ends. */
  #wait(milliseconds: number): Promise<void> {
    const { signal, clock } = this.#context;
    return new Promise((resolve) => {
      const over = (): void => {
        timer.cancel();
        signal.removeEventListener("abort", over);
        resolve();
      };
      const timer = clock.setTimer(over, milliseconds);
      signal.addEventListener("abort", over, { once: true });
      if (signal.aborted) over();
    });
  }
}

/** What is told when no parent knows the task. */
function noneTold(taskId: string, failures: readonly VortexError[]): VortexError {
  const told = failures.map(({ addr, code, message }) => `${addr}: ${code}, ${message}`).join("; ");
  const [first] = failures;
  const same = first !== undefined && failures.every(({ code }) => code === first.code);
  const message = `no parent tells the length of task ${taskId}: ${told}`;
  return new VortexError(same ? first.code : "Unreachable", message, { cause: failures });
}
