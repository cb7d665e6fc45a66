/** Module whose exports break both rules of `test/unit/project/exported-types.test.ts`. */
interface Options {
  readonly name: string;
}

/** Type that no exported signature mentions. */
export interface Unused {
  readonly size: number;
}

/** Function whose options type is not exported. */
export function open(options: Options): string {
  return options.name;
}
