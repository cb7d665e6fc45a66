/** Patterns of library option names in messages, with the flags that set them. */
const flags: readonly (readonly [option: RegExp, flag: string])[] = [
  [/\btls\.fingerprints\b/g, "--fingerprint"],
  [/\btls\.ca\b/g, "--ca"],
  [/\bgrpc\.tls\b/g, "--grpc-tls"],
  // No flag sets this option, so the hint is removed.
  [/, or set auto\.quicPeers to "any"/g, ""],
];

/** Replaces names of library options in a message by the command's flags. */
export function inFlags(message: string): string {
  return flags.reduce((text, [option, flag]) => text.replaceAll(option, flag), message);
}
