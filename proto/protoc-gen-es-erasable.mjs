// protoc-gen-es writes TypeScript enums, which a runtime that only strips types cannot run and `erasableSyntaxOnly`
// refuses. This is protoc-gen-es with each enum turned into a constant object and a type of the same name.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { CodeGeneratorResponseSchema } from "@bufbuild/protobuf/wkt";

// Found on the PATH, as buf finds its plugins: `npm run` puts node_modules/.bin there.
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
