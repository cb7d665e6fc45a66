/**
 * Length in ms of each unit of time that stock Dragonfly accepts in durations, up to the week.
 * Source: function `parse_duration` of the Rust crate humantime 2.4.
 */
const units: Record<string, number> = {
  ...spellings(1e-6, "ns", "nsec", "nanos"),
  ...spellings(1e-3, "us", "usec", "µs"),
  ...spellings(1, "ms", "msec", "millis"),
  ...spellings(1_000, "s", "sec", "secs", "second", "seconds"),
  ...spellings(60_000, "m", "min", "mins", "minute", "minutes"),
  ...spellings(3_600_000, "h", "hr", "hrs", "hour", "hours"),
  ...spellings(86_400_000, "d", "day", "days"),
  ...spellings(7 * 86_400_000, "w", "wk", "wks", "week", "weeks"),
};

const SPAN = /\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ]+)/y;

/**
 * Parses a duration and returns it in ms. A duration consists of one or more numbers, each with a
 * unit, such as `360s`, `1m30s`, `2h 37min`, `1.5s` or `500ms`. Returns undefined for any other
 * text, such as a number without a unit. Months and years are not supported.
 *
 * No published library fits: `ms` and `@lukeed/ms` accept only one unit, and `parse-duration`
 * accepts malformed text such as "360s;", "1m oops" and "3m5".
 */
export function parseDuration(text: string): number | undefined {
  let milliseconds = 0;
  let at = 0;
  while (at < text.length) {
    SPAN.lastIndex = at;
    const [span, amount, name] = SPAN.exec(text) ?? [];
    if (span === undefined || name === undefined || !Object.hasOwn(units, name)) return undefined;
    milliseconds += Number(amount) * (units[name] ?? 0);
    at += span.length;
  }
  return at === 0 ? undefined : milliseconds;
}

/**
 * Formats a whole number of milliseconds as text that {@link parseDuration} accepts. Uses seconds
 * if the result is a whole number, such as `30s`; else milliseconds, such as `1500ms`.
 */
export function formatDuration(milliseconds: number): string {
  return milliseconds % 1000 === 0 ? `${milliseconds / 1000}s` : `${milliseconds}ms`;
}

function spellings(milliseconds: number, ...names: string[]): Record<string, number> {
  return Object.fromEntries(names.map((name) => [name, milliseconds]));
}
