/**
 * Vortex peer that sends faulty responses. The task id of a request selects the fault. So one
 * server can send all faults to any number of clients.
 */
import { Buffer } from "node:buffer";
import type { ErrorCode } from "../../src/errors.ts";
import { encodePacket, RemoteErrorCode } from "../../src/protocol/packet.ts";
import { Tag } from "../../src/protocol/tags.ts";
import {
  type Answer,
  answer,
  type Exchange,
  fieldEnds,
  rawHeader,
  type Script,
  specificationForm,
} from "./hostile.ts";
import { joined, seededBytes } from "./random.ts";

/** Category of a faulty response. */
export type FaultGroup = "cut short" | "reset or lost" | "silent" | "malformed" | "wrong";

/** All categories of faulty responses. */
export const faultGroups: readonly FaultGroup[] = [
  "cut short",
  "reset or lost",
  "silent",
  "malformed",
  "wrong",
];

/** Outcome of a call: an error code, or `right` for the correct content. */
export type FaultOutcome = ErrorCode | "right";

/** Kind of faulty response that a {@link hostileVortex} server can send. */
export interface VortexFault {
  readonly name: string;
  readonly group: FaultGroup;
  /** Number of variants of the fault. Variants are numbered from 0. Default: 1. */
  readonly variants?: number;
  /** Allowed outcomes of a call that receives this faulty response. */
  readonly codes: readonly FaultOutcome[];
  play(exchange: Exchange, variant: number): Promise<void>;
}

const good = answer();
const { packet, content, whole } = good;

/** Number and correct content of the piece that a {@link hostileVortex} server serves. */
export const hostilePiece: { readonly number: number; readonly content: Uint8Array } = {
  number: good.metadata.number,
  content,
};

const ID = /[0-9a-f]{8}(?:fa){28}/;

/**
 * Returns a task id that selects a fault and its variant. Without `fault`, the id selects the valid
 * response.
 */
export function vortexFaultId(fault?: VortexFault, variant = 0): string {
  const index = fault === undefined ? 0xffff : vortexFaults.indexOf(fault);
  return (
    [index, variant].map((value) => value.toString(16).padStart(4, "0")).join("") + "fa".repeat(28)
  );
}

/** Script of a server that sends the faulty response selected by the task id of each request. */
export const hostileVortex: Script = async (exchange) => {
  const id = ID.exec(Buffer.from(exchange.request).toString("latin1"))?.[0] ?? "";
  const fault = vortexFaults[Number.parseInt(id.slice(0, 4), 16)];
  if (fault !== undefined) return fault.play(exchange, Number.parseInt(id.slice(4, 8), 16));
  await exchange.send(whole);
  await exchange.finish();
};

/**
 * Complete but wrong responses. Each has a description, its bytes up to a clean end of the stream,
 * and the error code that the client must report.
 */
export const wrongAnswers: readonly (readonly [
  what: string,
  bytes: Uint8Array,
  code: ErrorCode,
])[] = (() => {
  const kindSwapped = packet.slice();
  kindSwapped[1] = Tag.PersistentPieceContent;
  const notUtf8 = errorPacket(RemoteErrorCode.NotFound, "xx");
  notUtf8.set([0xff, 0xfe], notUtf8.length - 2);
  const digestNotUtf8 = packet.slice();
  digestNotUtf8[6 + 4 + 4 + 8 + 8 + 4] = 0xff;
  const metadataHuge = packet.slice();
  new DataView(metadataHuge.buffer).setUint32(6, 0xffffffff);
  const bothHuge = metadataHuge.slice();
  new DataView(bothHuge.buffer).setUint32(2, 0xffffffff);
  const withinHeader = bothHuge.slice();
  new DataView(withinHeader.buffer).setUint32(6, 0xffffffff - 4);
  const neitherForm = packet.slice();
  new DataView(neitherForm.buffer).setUint32(2, packet.length - 6 + 1);
  const withMetadata = (fields: Partial<Answer["metadata"]>): Uint8Array =>
    joined([answer(40, fields).packet, content]);
  const otherByte = whole.slice();
  otherByte[whole.length - 1] = (otherByte.at(-1) ?? 0) ^ 1;
  const request = encodePacket({
    type: "download-piece",
    id: 9,
    kind: "standard",
    taskId: "ab".repeat(32),
    number: 3,
  });

  return [
    ["another piece number", withMetadata({ number: 4 }), "PieceMismatch"],
    ["another kind of piece", joined([kindSwapped, content]), "PieceMismatch"],
    ["a reserved tag", rawHeader(8, 0), "ProtocolViolation"],
    [
      "a reserved tag with a value",
      joined([rawHeader(253, 3), Uint8Array.of(1, 2, 3)]),
      "ProtocolViolation",
    ],
    ["an empty close packet", rawHeader(Tag.Close, 0), "ProtocolViolation"],
    [
      "a close packet with a payload",
      joined([rawHeader(Tag.Close, 1), Uint8Array.of(1)]),
      "InvalidLength",
    ],
    ["the request itself", request, "ProtocolViolation"],
    ["an empty request packet", rawHeader(Tag.DownloadPiece, 0), "InvalidLength"],
    ["error code 0", errorPacket(0), "RemoteUnknown"],
    ["error code 1", errorPacket(1), "RemoteInvalidArgument"],
    ["error code 2", errorPacket(2), "NotFound"],
    ["error code 3", errorPacket(3), "RemoteInternal"],
    ["error code 77", errorPacket(77), "RemoteUnknown"],
    ["error code 2 without a text", errorPacket(2, ""), "NotFound"],
    ["an error without a code", rawHeader(Tag.Error, 0), "InvalidLength"],
    ["an error text announced as 4 GiB", rawHeader(Tag.Error, 0xffffffff), "LimitExceeded"],
    ["an error text that is not UTF-8", notUtf8, "InvalidUtf8"],
    ["a digest that is not UTF-8", digestNotUtf8, "InvalidUtf8"],
    ["a reserved packet announced as 4 GiB", rawHeader(99, 0xffffffff), "LimitExceeded"],
    ["a metadata length of 2^32 - 1", metadataHuge, "InvalidPacket"],
    ["a metadata length of 2^32 - 1 in the longest packet", bothHuge, "InvalidPacket"],
    ["a metadata length of 2^32 - 5 in the longest packet", withinHeader, "LimitExceeded"],
    ["a packet length that fits neither form", joined([neitherForm, content]), "InvalidLength"],
    ["a content length of 2^64 - 1", withMetadata({ length: 2n ** 64n - 1n }), "LimitExceeded"],
    [
      "a content length one byte above the limit",
      withMetadata({ length: 64n * 1024n * 1024n + 1n }),
      "LimitExceeded",
    ],
    ["an offset of 2^64 - 1", withMetadata({ offset: 2n ** 64n - 1n }), "LimitExceeded"],
    [
      "an offset and a length whose sum exceeds 2^53",
      withMetadata({ offset: 2n ** 53n - 40n }),
      "LimitExceeded",
    ],
    ["less content announced than sent", withMetadata({ length: 39n }), "ProtocolViolation"],
    ["a byte after the content", joined([whole, Uint8Array.of(0)]), "ProtocolViolation"],
    ["the answer twice", joined([whole, whole]), "ProtocolViolation"],
    ["a byte of the content changed", otherByte, "DigestMismatch"],
    ["the digest of something else", withMetadata({ digest: "crc32:1" }), "DigestMismatch"],
    [
      "a sha256 of something else",
      withMetadata({ digest: `sha256:${"0".repeat(64)}` }),
      "DigestMismatch",
    ],
    ["a digest of an unknown algorithm", withMetadata({ digest: "md5:00" }), "ProtocolViolation"],
    [
      "a crc32 digest that is not a number",
      withMetadata({ digest: "crc32:12x" }),
      "ProtocolViolation",
    ],
    ["a digest of 33 bits", withMetadata({ digest: "crc32:4294967296" }), "ProtocolViolation"],
  ];
})();

/** Error codes for responses that a client cannot decode, or that exceed a limit. */
const malformed: readonly ErrorCode[] = [
  "InvalidPacket",
  "InvalidLength",
  "InvalidUtf8",
  "LimitExceeded",
];

/**
 * All faults that a {@link hostileVortex} server can send. A task id contains the index of a fault,
 * see {@link vortexFaultId}.
 */
export const vortexFaults: readonly VortexFault[] = [
  {
    name: "a response truncated at any byte, with a clean end",
    group: "cut short",
    variants: whole.length,
    codes: ["TruncatedContent"],
    play: (exchange, cut) => sendAll(exchange, whole.subarray(0, cut)),
  },
  {
    name: "a response with the specification's header length, truncated at any byte",
    group: "cut short",
    variants: whole.length,
    codes: ["TruncatedContent"],
    play: (exchange, cut) =>
      sendAll(exchange, joined([specificationForm(good), content]).subarray(0, cut)),
  },
  {
    name: "a stream reset after any byte",
    group: "reset or lost",
    variants: whole.length,
    // Some transports cannot distinguish a reset from an end.
    codes: ["StreamReset", "TruncatedContent", "ConnectionLost"],
    async play({ send, reset }, cut) {
      await send(whole.subarray(0, cut));
      reset();
    },
  },
  {
    name: "the connection lost after any byte",
    group: "reset or lost",
    variants: whole.length,
    codes: ["ConnectionLost", "StreamReset", "TruncatedContent"],
    async play({ send, drop }, cut) {
      await send(whole.subarray(0, cut));
      drop();
    },
  },
  {
    name: "no response",
    group: "silent",
    codes: ["Stalled"],
    play: async () => {},
  },
  {
    name: "silence after each field",
    group: "silent",
    variants: fieldEnds(good).length,
    codes: ["Stalled"],
    play: async ({ send }, field) => void (await send(packet.subarray(0, fieldEnds(good)[field]))),
  },
  {
    name: "silence within the content",
    group: "silent",
    codes: ["Stalled"],
    play: async ({ send }) => void (await send(whole.subarray(0, -20))),
  },
  {
    name: "silence before the end of the stream",
    group: "silent",
    // Over TCP, the response ends with its content, and the connection is kept.
    codes: ["Stalled", "right"],
    play: async ({ send }) => void (await send(whole)),
  },
  {
    name: "garbage",
    group: "malformed",
    variants: 200,
    codes: [
      ...([
        "InvalidPacket",
        "InvalidLength",
        "InvalidUtf8",
        "ProtocolViolation",
        "LimitExceeded",
        "PieceMismatch",
      ] as const),
      ...(["TruncatedContent", "RemoteUnknown", "DigestMismatch"] as const),
    ],
    play: (exchange, seed) => sendAll(exchange, seededBytes(seed, 1 + seed)),
  },
  ...wrongAnswers.map(
    ([name, bytes, code]): VortexFault => ({
      name,
      group: malformed.includes(code) ? "malformed" : "wrong",
      codes: [code],
      play: (exchange) => sendAll(exchange, bytes),
    }),
  ),
];

/** Encodes a Vortex error packet with an error code and a text. */
export function errorPacket(code: number, message = "why not"): Uint8Array {
  return encodePacket({ type: "error", id: 9, code, message });
}

async function sendAll({ send, finish }: Exchange, bytes: Uint8Array): Promise<void> {
  await send(bytes);
  await finish();
}
