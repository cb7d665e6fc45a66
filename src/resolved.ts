/** Options of type `T` with every default filled in: no property is absent or undefined. */
export type Resolved<T> = { readonly [Key in keyof T]-?: Exclude<T[Key], undefined> };
