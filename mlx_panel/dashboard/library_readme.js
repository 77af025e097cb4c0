// A stranger's Markdown as elements. Text only ever becomes text nodes, never HTML; nothing in it is fetched: an image
// shows its description, and a link leads only where http does.

const TAGS = "a|b|br|center|details|div|em|font|h[1-6]|i|p|picture|source|span|strong|sub|summary|sup"
const LAYOUT_TAGS = new RegExp(String.raw`<!--[\s\S]{0,2000}?-->|</?(?:${TAGS})(?:\s[^<>]*)?/?>`, "gi")
const TARGET = String.raw`\(([^)\s]*)(?:\s"[^"]*")?\)` // of a link or an image
// Code, an image, a link, bold in two ways, italics, and an address as it is: in the order of `inline`'s groups.
const INLINE = new RegExp([
  "(`+)([\\s\\S]+?)\\1", String.raw`!\[([^\]]*)\]${TARGET}`, String.raw`\[((?:[^[\]]|\[[^\]]*\])*)\]${TARGET}`,
  String.raw`\*\*([^*]+)\*\*`, "__([^_]+)__", String.raw`\*([^*\s][^*]*)\*`, String.raw`(https?://[^\s<>()"'${"`"}]+[^\s<>()"'${"`"}.,;:!?])`,
].join("|"))
const DEEPEST = 4 // of what stands within something else
// Longer pieces stay plain: looking for marks costs the square of the length, and a stranger chose it.
const LONGEST_MARKED = 2000, LONGEST_RULE = 500

function webAddress(text) {
  try {
    const address = new URL(text)
    return ["http:", "https:"].includes(address.protocol) ? address.href : ""
  } catch {
    return ""
  }
}

/** A link to the web; the page it leads to learns nothing of this one. */
function webLink(address, ...children) {
  return h("a", {href: address, target: "_blank", rel: "noopener noreferrer nofollow"}, ...children)
}

/** Text with code, emphasis and links as nodes. */
function inline(text, depth = 0) {
  const nodes = []
  let rest = text.slice(0, LONGEST_MARKED)
  for (let found = INLINE.exec(rest); found && depth < DEEPEST; found = INLINE.exec(rest)) {
    const [whole, , code, image, , title, target, bold, strong, slanted, bare] = found
    nodes.push(rest.slice(0, found.index))
    rest = rest.slice(found.index + whole.length)
    if (code != null) nodes.push(h("code", {}, code.trim()))
    else if (image != null) nodes.push(image ? h("em", {class: "muted"}, `[image: ${image}]`) : "")
    else if (title != null) {
      const address = webAddress(target)
      nodes.push(address ? webLink(address, ...inline(title, depth + 1)) : h("span", {}, ...inline(title, depth + 1)))
    } else if (bare != null) nodes.push(webLink(bare, bare))
    else if (slanted != null) nodes.push(h("em", {}, ...inline(slanted, depth + 1)))
    else nodes.push(h("strong", {}, ...inline(bold ?? strong, depth + 1)))
  }
  return [...nodes, rest, text.slice(LONGEST_MARKED)].filter((node) => node !== "")
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim())
}

function tableNode(lines) {
  const row = (tag, line) => h("tr", {}, ...cells(line).map((cell) => h(tag, {}, ...inline(cell))))
  const body = lines.slice(2).map((line) => row("td", line))
  return h("div", {class: "scroll"}, h("table", {}, h("thead", {}, row("th", lines[0])), h("tbody", {}, ...body)))
}

/** How many lines from `at` on pass a test. */
function run(lines, at, test) {
  let end = at
  while (end < lines.length && test(lines[end])) end += 1
  return end - at
}

function isShort(line) {
  return line != null && line.length < LONGEST_RULE
}

/** A heading without its marks, those at its end too. */
function headingText(line) {
  return line.replace(/^#+\s+/, "").trimEnd().replace(/#+$/, "").trimEnd()
}

const ITEM = /^\s*(?:[-*+]|\d+[.)])\s+/

// Each kind of block: how many lines it takes from `at` on (0: it is none of these), and what they become.
const BLOCKS = [
  [(lines, at) => (/^\s*(```|~~~)/.test(lines[at]) ? 1 + run(lines, at + 1, (line) => !/^\s*(```|~~~)\s*$/.test(line)) + 1 : 0),
    (lines) => h("pre", {}, h("code", {}, lines.slice(1, -1).join("\n")))],
  [(lines, at) => (/^#{1,6}\s/.test(lines[at]) ? 1 : 0),
    ([line]) => h(`h${Math.min(6, line.match(/^#+/)[0].length + 2)}`, {}, ...inline(headingText(line)))],
  [(lines, at) => (isShort(lines[at]) && /^\s*([-*_])(\s*\1){2,}\s*$/.test(lines[at]) ? 1 : 0), () => h("hr")],
  [(lines, at) => (lines[at].includes("|") && isShort(lines[at + 1]) && /^[\s|:-]*-[\s|:-]*$/.test(lines[at + 1]) && lines[at + 1].includes("|")
    ? run(lines, at, (line) => line.includes("|")) : 0), tableNode],
  [(lines, at) => run(lines, at, (line) => /^\s*>/.test(line)),
    (lines) => h("blockquote", {}, ...inline(lines.map((line) => line.replace(/^\s*>\s?/, "")).join(" ")))],
  [(lines, at) => (ITEM.test(lines[at]) ? run(lines, at, (line) => ITEM.test(line) || /^\s{2,}\S/.test(line)) : 0), (lines) => {
    const items = []
    for (const line of lines) {
      if (ITEM.test(line)) items.push(line.replace(ITEM, ""))
      else items[items.length - 1] += ` ${line.trim()}`
    }
    return h(/^\s*\d/.test(lines[0]) ? "ol" : "ul", {}, ...items.map((item) => h("li", {}, ...inline(item))))
  }],
]

/** Without the block of fields at its head, which the details show, and without tags that only lay out. */
function plainMarkdown(text) {
  return text.replace(/\r\n?/g, "\n").replace(/^---\n[\s\S]*?\n---[^\n]*(\n|$)/, "").replace(LAYOUT_TAGS, "")
}

/** A README as one element. */
function readmeNode(text) {
  const lines = plainMarkdown(text).split("\n")
  const node = h("div", {class: "readme"})
  for (let at = 0; at < lines.length;) {
    const block = BLOCKS.map(([measure, make]) => [measure(lines, at), make]).find(([taken]) => taken)
    const starts = (line, place) => BLOCKS.some(([measure]) => measure(lines, place) > 0)
    if (!lines[at].trim()) at += 1
    else if (block) {
      node.append(block[1](lines.slice(at, at + block[0])))
      at += block[0]
    } else {
      let end = at + 1
      while (end < lines.length && lines[end].trim() && !starts(lines[end], end)) end += 1
      node.append(h("p", {}, ...inline(lines.slice(at, end).join(" "))))
      at = end
    }
  }
  return node
}
