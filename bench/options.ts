/** Option parsers of the programs in this folder. */

/**
 * Parses a number above 0.
 *
 * @throws `Error` with a message for the user
 */
export function positive(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new Error(`${name} ${text}: expected a positive number`);
  return value;
}

/**
 * Parses known words, separated by commas.
 *
 * @throws `Error` with a message for the user
 */
export function choices<T extends string>(
  name: string,
  text: string,
  known: readonly T[],
): readonly T[] {
  return text.split(",").map((word) => {
    const choice = known.find((each) => each === word);
    if (choice === undefined)
      throw new Error(`${name} ${word}: expected some of ${known.join(", ")}`);
    return choice;
  });
}
