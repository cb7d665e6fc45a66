/** Options of the library that the command has flags for, by the words of messages. */
const flags: readonly (readonly [option: RegExp, flag: string])[] = [
  [/\btls\.fingerprints\b/g, "--fingerprint"],
  [/\btls\.ca\b/g, "--ca"],
  // No flag sets it.
  [/, or set auto\.quicPeers to "any"/g, ""],
];

/** Names flags where a message of the library names options. */
export function inFlags(message: string): string {
  return flags.reduce((text, [option, flag]) => text.replaceAll(option, flag), message);
}
