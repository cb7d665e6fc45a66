// Runs protoc-gen-es and replaces each TypeScript enum by a constant object and a type of the same
// name. Runtimes that only strip types cannot run enums, and `erasableSyntaxOnly` rejects them.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { CodeGeneratorResponseSchema } from "@bufbuild/protobuf/wkt";

// Found on the PATH, where buf finds its plugins: `npm run` adds node_modules/.bin.
const { status, stdout, error } = spawnSync("protoc-gen-es", {
  input: readFileSync(0),
  stdio: ["pipe", "pipe", "inherit"],
  maxBuffer: 64 * 1024 * 1024,
});
if (error !== undefined) throw error;
if (status !== 0) process.exit(status ?? 1);

const response = fromBinary(CodeGeneratorResponseSchema, stdout);
for (const file of response.file) {
  file.content = file.content.replaceAll(
    /^export enum (\w+) \{$(.*?)^\}$/gms,
    (_whole, name, values) => {
      const entries = values.replaceAll(/^( {2}\w+) = (-?\d+),$/gm, "$1: $2,");
      return `export const ${name} = {${entries}} as const;\nexport type ${name} = (typeof ${name})[keyof typeof ${name}];`;
    },
  );
}
process.stdout.write(toBinary(CodeGeneratorResponseSchema, response));
