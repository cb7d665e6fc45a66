// The public face: which names an entry exports, and whether they are whole. A type that an
// exported signature mentions is exported from the same entry, so that a user can name it, and a
// type that no exported signature reaches is not exported.
import { join } from "node:path";
import ts from "typescript";

/** Exports of one entry. */
export interface EntryExports {
  /** Names, in alphabetical order. */
  readonly names: readonly string[];
  /**
   * Types of this project that exported signatures mention and the entry does not export, as `Name
   * (in Where)`.
   */
  readonly missing: readonly string[];
  /** Exported types that no exported value reaches. */
  readonly unreachable: readonly string[];
}

/** Reads the faces of several entries, given as paths within `root`. */
export function exportsOf(
  root: string,
  entries: readonly string[],
): ReadonlyMap<string, EntryExports> {
  const { config } = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  const program = ts.createProgram(
    entries.map((entry) => join(root, entry)),
    options,
  );
  return new Map(entries.map((entry) => [entry, exportsOfEntry(program, join(root, entry))]));
}

function exportsOfEntry(program: ts.Program, path: string): EntryExports {
  const checker = program.getTypeChecker();
  const resolved = (symbol: ts.Symbol): ts.Symbol =>
    symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
  const source = program.getSourceFile(path);
  const module = source && checker.getSymbolAtLocation(source);
  if (module === undefined) throw new Error(`${path}: expected a module`);
  const exported = new Map<ts.Symbol, string>();
  for (const symbol of checker.getExportsOfModule(module))
    exported.set(resolved(symbol), symbol.name);
  const missing = new Set<string>();
  const reached = new Set<ts.Symbol>();
  const visit = (symbol: ts.Symbol): void => {
    if (reached.has(symbol)) return;
    reached.add(symbol);
    for (const declaration of symbol.declarations ?? []) {
      for (const used of mentioned(declaration, checker)) {
        const target = resolved(used);
        if (!isOurs(target)) continue;
        if (exported.has(target)) visit(target);
        else missing.add(`${target.name} (in ${symbol.name})`);
      }
    }
  };
  for (const symbol of exported.keys()) if (symbol.flags & ts.SymbolFlags.Value) visit(symbol);
  const unreachable = [...exported]
    .filter(([symbol]) => !reached.has(symbol))
    .map(([, name]) => name);
  // What an unreachable type lacks is of no interest: the type itself has to go.
  return {
    names: [...exported.values()].sort(),
    missing: [...missing].sort(),
    unreachable: unreachable.sort(),
  };
}

/** Types and values that the signature of a declaration names. */
function mentioned(declaration: ts.Declaration, checker: ts.TypeChecker): ts.Symbol[] {
  const found: ts.Symbol[] = [];
  const names = (node: ts.Node | undefined): void => {
    if (node === undefined) return;
    if (ts.isTypeReferenceNode(node)) add(node.typeName);
    else if (ts.isExpressionWithTypeArguments(node)) add(node.expression);
    else if (ts.isTypeQueryNode(node)) add(node.exprName);
    else if (ts.isImportTypeNode(node) && node.qualifier) add(node.qualifier);
    ts.forEachChild(node, names);
  };
  const add = (name: ts.Node): void => {
    const symbol = checker.getSymbolAtLocation(name);
    if (symbol && !(symbol.flags & ts.SymbolFlags.TypeParameter)) found.push(symbol);
  };
  const signature = (node: ts.SignatureDeclaration): void => {
    for (const parameter of node.parameters) names(parameter.type);
    for (const parameter of node.typeParameters ?? []) names(parameter);
    names(node.type);
  };
  if (ts.isInterfaceDeclaration(declaration) || ts.isTypeAliasDeclaration(declaration)) {
    names(declaration);
  } else if (ts.isClassDeclaration(declaration)) {
    for (const clause of declaration.heritageClauses ?? []) names(clause);
    for (const member of declaration.members) {
      if (isHidden(member)) continue;
      if (ts.isPropertyDeclaration(member)) names(member.type);
      else if (ts.isFunctionLike(member)) signature(member);
    }
  } else if (ts.isFunctionLike(declaration)) signature(declaration);
  else if (ts.isVariableDeclaration(declaration)) names(declaration.type);
  return found;
}

function isHidden(member: ts.ClassElement): boolean {
  if (member.name && ts.isPrivateIdentifier(member.name)) return true;
  const modifiers = ts.canHaveModifiers(member) ? (ts.getModifiers(member) ?? []) : [];
  return modifiers.some(({ kind }) => kind === ts.SyntaxKind.PrivateKeyword);
}

function isOurs(symbol: ts.Symbol): boolean {
  const [declaration] = symbol.declarations ?? [];
  return (
    declaration !== undefined && !declaration.getSourceFile().fileName.includes("/node_modules/")
  );
}
