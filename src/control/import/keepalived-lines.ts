/**
 * keepalived.conf as a tree of lines (keepalived.conf(5)): words, `#` and `!` begin a comment, a block
 * stands in braces, of which the opening one may follow on the next line.
 */

export interface KaNode {
  readonly line: number;
  readonly words: readonly string[];
  readonly children: KaNode[];
}

interface Word {
  readonly line: number;
  readonly text: string;
  /** The first of its line. */
  readonly isFirst: boolean;
}

function wordsOf(text: string): Word[] {
  return text.split(/\r?\n/).flatMap((one, index) => {
    const bare = one.replace(/(^|\s)[#!].*$/, "$1").replaceAll(/[{}]/g, " $& ");
    const words = bare.match(/"[^"]*"|\S+/g) ?? [];
    return words.map((word, at) => ({
      line: index + 1,
      text: word.replace(/^"(.*)"$/, "$1"),
      isFirst: at === 0,
    }));
  });
}

/** Blocks in blocks, at most: a virtual server has three. */
const DEPTH_MAX = 16;

/**
 * Read a file.
 *
 * @param note - is told of braces that do not match
 */
export function keepalivedTree(
  text: string,
  note: (line: number, message: string) => void,
): KaNode[] {
  const root: KaNode = { line: 1, words: [], children: [] };
  const open: KaNode[] = [root];
  let current: { line: number; words: string[]; children: KaNode[] } | null = null;
  for (const { line, text: word, isFirst } of wordsOf(text)) {
    if (word === "{") {
      const block: KaNode = current ?? { line, words: [], children: [] };
      if (current === null) open.at(-1)!.children.push(block);
      if (open.length > DEPTH_MAX) note(line, "blocks lie too deep");
      else open.push(block);
      current = null;
    } else if (word === "}") {
      current = null;
      if (open.length > 1) open.pop();
      else note(line, "a brace closes nothing");
    } else if (isFirst || current === null) {
      current = { line, words: [word], children: [] };
      open.at(-1)!.children.push(current);
    } else current.words.push(word);
  }
  if (open.length > 1) note(open.at(-1)!.line, "a brace is left open");
  return root.children;
}

/** The node as words, for what follows a brace on its own line. */
export function childOf(node: KaNode, keyword: string): KaNode | undefined {
  return node.children.findLast(({ words }) => words[0] === keyword);
}
