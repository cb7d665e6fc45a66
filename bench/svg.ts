/**
 * Shared parts of the SVG charts. They have a background, so that they are readable on light and
 * dark pages.
 */

const STYLE = `
  .ground { fill: #ffffff; stroke: #d0d7de }
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .head { font-weight: 600; font-size: 14px }
  .faint { fill: #59636e }`;
const DARK_STYLE = `
    .ground { fill: #0d1117; stroke: #3d444d }
    text { fill: #e6edf3 } .faint { fill: #9198a1 }`;

/** Content of a chart. */
export interface Picture {
  readonly title: string;
  readonly width: number;
  readonly height: number;
  /** CSS rules for the classes of this chart. */
  readonly style: string;
  /** CSS rules for dark pages. */
  readonly darkStyle: string;
  /** Elements in drawing order. */
  readonly parts: readonly string[];
}

/** Returns the chart as an SVG document. */
export function svgOf({ title, width, height, style, darkStyle, parts }: Picture): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escaped(title)}</title>`,
    `<style>${STYLE}${style}\n  @media (prefers-color-scheme: dark) {${DARK_STYLE}${darkStyle}\n  }\n</style>`,
    `<rect class="ground" x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="6"/>`,
    ...parts,
    "</svg>\n",
  ].join("\n");
}

/** Returns a line of class `kind`. */
export function line(kind: string, x1: number, y1: number, x2: number, y2: number): string {
  return `<line class="${kind}" x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}"/>`;
}

/** Returns a text of class `kind`. */
export function text(x: number, y: number, content: string, kind = "", anchor = "start"): string {
  return `<text x="${round(x)}" y="${round(y)}" class="${kind}" text-anchor="${anchor}">${escaped(content)}</text>`;
}

/** Rounds a coordinate to a tenth. */
export function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function escaped(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
