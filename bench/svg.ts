/** What the pictures of this folder have in common: a ground of their own, so that they can be read on a light and on a dark page. */

const STYLE = `
  .ground { fill: #ffffff; stroke: #d0d7de }
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .head { font-weight: 600; font-size: 14px }
  .faint { fill: #59636e }`;
const DARK_STYLE = `
    .ground { fill: #0d1117; stroke: #3d444d }
    text { fill: #e6edf3 } .faint { fill: #9198a1 }`;

/** What a picture is made of. */
export interface Picture {
  readonly title: string;
  readonly width: number;
  readonly height: number;
  /** Rules for the classes of its own. */
  readonly style: string;
  /** Those that differ on a dark page. */
  readonly darkStyle: string;
  /** Elements, in the order in which they are drawn. */
  readonly parts: readonly string[];
}

/** The picture as an SVG document. */
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

/** A line of class `kind`. */
export function line(kind: string, x1: number, y1: number, x2: number, y2: number): string {
  return `<line class="${kind}" x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}"/>`;
}

/** A text of class `kind`. */
export function text(x: number, y: number, content: string, kind = "", anchor = "start"): string {
  return `<text x="${round(x)}" y="${round(y)}" class="${kind}" text-anchor="${anchor}">${escaped(content)}</text>`;
}

/** A coordinate, to a tenth. */
export function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function escaped(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
