// A small part of Markdown as DOM nodes. Text only ever becomes text nodes, so nothing in it can be
// markup: there is nothing to escape and nothing to forget.
//
//   blocks: paragraphs, # headings, ``` fences, - and 1. lists (nested), > quotes, --- rules
//   inline: `code`, **strong**, *em*, ~~struck~~, [links](https://...)

const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const MAX_DEPTH = 12;

function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

function safe_link(target) {
  try {
    const url = new URL(target);
    return ["https:", "http:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

// The end of a run of `mark` that closes what begins before `from`: not after white space.
function closing(text, mark, from) {
  for (let at = text.indexOf(mark, from); at >= 0; at = text.indexOf(mark, at + 1)) {
    if (at > from && !/\s/.test(text[at - 1])) return at;
  }
  return -1;
}

const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

export function inline(text, depth = 0) {
  const out = document.createDocumentFragment();
  let plain = "";
  const flush = () => {
    if (plain) out.append(plain);
    plain = "";
  };
  const failed = new Set();  // marks that close nowhere: looked for once
  let at = 0;
  scan: while (at < text.length) {
    const char = text[at];
    if (char === "\\" && /[\\`*_~[\]#>-]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
      continue;
    }
    if (char === "`") {
      let length = 1;
      while (text[at + length] === "`") ++length;
      const mark = "`".repeat(length);
      const end = failed.has(mark) ? -1 : text.indexOf(mark, at + length);
      if (end > 0) {
        flush();
        out.append(element("code", text.slice(at + length, end).trim() || " "));
        at = end + length;
      } else {
        failed.add(mark);
        plain += mark;
        at += length;
      }
      continue;
    }
    if (depth < MAX_DEPTH) {
      for (const [mark, name] of MARKS) {
        if (!text.startsWith(mark, at) || failed.has(mark)) continue;
        const inner = at + mark.length;
        const in_word = mark[0] === "_" && /\w/.test(text[at - 1] ?? "");
        if (in_word || /\s/.test(text[inner] ?? " ") || text[inner] === mark[0]) continue;
        const end = closing(text, mark, inner);
        if (end < 0) {
          failed.add(mark);
          continue;
        }
        flush();
        out.append(element(name, inline(text.slice(inner, end), depth + 1)));
        at = end + mark.length;
        continue scan;
      }
      if (char === "[" && !failed.has("[")) {
        const link = /^\[([^\[\]\n]{1,500})\]\(([^()\s]{1,2000})\)/.exec(text.slice(at, at + 2600));
        const target = link && safe_link(link[2]);
        if (target) {
          flush();
          const anchor = element("a", inline(link[1], depth + 1));
          anchor.href = target;
          anchor.rel = "noopener noreferrer nofollow";
          anchor.target = "_blank";
          out.append(anchor);
          at += link[0].length;
          continue;
        }
      }
    }
    plain += char;
    ++at;
  }
  flush();
  return out;
}

function code_block(language, lines) {
  const code = element("code", lines.join("\n"));
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.className = "copy";
  copy.setAttribute("aria-label", "Copy the code");
  const head = element("figcaption", element("span", language || "code"), copy);
  const pre = element("pre", code);
  pre.tabIndex = 0;
  const figure = element("figure", head, pre);
  figure.className = "code";
  return figure;
}

// A list and the lists in it; lines are [indent, ordered, number, text].
function list_block(items, depth) {
  const ordered = items[0].ordered;
  const list = element(ordered ? "ol" : "ul");
  if (ordered && items[0].number !== 1) list.start = items[0].number;
  const indent = items[0].indent;
  for (let at = 0; at < items.length;) {
    const item = element("li", inline(items[at].text));
    let next = at + 1;
    while (next < items.length && items[next].indent > indent + 1) ++next;
    if (next > at + 1 && depth < MAX_DEPTH) {
      item.append(list_block(items.slice(at + 1, next), depth + 1));
    } else {
      next = at + 1;
    }
    list.append(item);
    at = next;
  }
  return list;
}

export function render(text, depth = 0) {
  const out = document.createDocumentFragment();
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  let paragraph = [];
  const flush = () => {
    if (!paragraph.length) return;
    const node = element("p");
    paragraph.forEach((line, index) => {
      if (index) node.append(element("br"));
      node.append(inline(line));
    });
    out.append(node);
    paragraph = [];
  };
  for (let at = 0; at < lines.length; ++at) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (fence) {
      flush();
      const body = [];
      for (++at; at < lines.length && !lines[at].trimStart().startsWith(fence[1]); ++at) body.push(lines[at]);
      out.append(code_block(fence[2], body));
      continue;
    }
    if (!line.trim()) {
      flush();
      continue;
    }
    const heading = HEADING.exec(line);
    if (heading) {
      flush();
      out.append(element(`h${Math.min(6, heading[1].length + 2)}`, inline(heading[2])));
      continue;
    }
    if (RULE.test(line)) {
      flush();
      out.append(element("hr"));
      continue;
    }
    if (QUOTE.test(line) && depth < MAX_DEPTH) {
      flush();
      const body = [];
      for (; at < lines.length && QUOTE.test(lines[at]); ++at) body.push(QUOTE.exec(lines[at])[1]);
      --at;
      out.append(element("blockquote", render(body.join("\n"), depth + 1)));
      continue;
    }
    if (ITEM.test(line)) {
      flush();
      const items = [];
      for (; at < lines.length; ++at) {
        const item = ITEM.exec(lines[at]);
        if (item) {
          const ordered = /\d/.test(item[2]);
          if (items.length && item[1].length <= items[0].indent && ordered !== items[0].ordered) break;
          items.push({indent: item[1].length, ordered, number: parseInt(item[2], 10), text: item[3]});
        } else if (lines[at].trim() && /^\s{2,}/.test(lines[at]) && !FENCE.test(lines[at])) {
          items[items.length - 1].text += ` ${lines[at].trim()}`;
        } else if (!lines[at].trim() && ITEM.test(lines[at + 1] ?? "")) {
          continue;
        } else {
          break;
        }
      }
      --at;
      out.append(list_block(items, 0));
      continue;
    }
    paragraph.push(line);
  }
  flush();
  return out;
}
