// A result as a table: sorted by a click, aligned by type, and to be taken along.

const PORTION = 200 // rows that are drawn at once; more come when somebody scrolls there
const LONGEST_CELL = 200

function cell(value, kind) {
  const text = cellText(value)
  if (text == null) return h("td", {class: kind === "number" ? "null number" : "null"}, "NULL")
  const shown = kind === "time" ? text.replace("T", " ").replace(/\.(\d{3})\d*/, ".$1") : text
  const long = shown.length > LONGEST_CELL
  return h("td", {class: kind === "number" ? "number" : "", title: long || kind === "time" ? text : null}, long ? `${shown.slice(0, LONGEST_CELL)}…` : shown)
}

function quotedCsv(value) {
  const text = cellText(value)
  return text == null ? "" : /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

function toCsv(result) {
  return [result.columns, ...result.rows].map((row) => row.map(quotedCsv).join(",")).join("\r\n")
}

/** Cells for a spreadsheet's clipboard. */
function toTabs(result) {
  return [result.columns, ...result.rows].map((row) => row.map((one) => (cellText(one) ?? "").replace(/[\t\r\n]+/g, " ")).join("\t")).join("\n")
}

function download(name, type, text) {
  const link = h("a", {href: URL.createObjectURL(new Blob([text], {type})), download: name})
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000)
}

function sortedRows(rows, place, kind, down) {
  const keys = rows.map((row) => sortKey(row[place], kind))
  const order = rows.map((_, one) => one).sort((a, b) => {
    if (keys[a] == null || keys[b] == null) return (keys[a] == null) - (keys[b] == null)
    const less = typeof keys[a] === "string" ? keys[a].localeCompare(keys[b]) : keys[a] - keys[b]
    return down ? -less : less
  })
  return order.map((one) => rows[one])
}

function resultTable() {
  const head = h("tr")
  const body = h("tbody")
  const node = h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Result"}, h("table", {}, h("thead", {}, head), body))
  let result = {columns: [], types: [], rows: []}
  let rows = []
  let sorted = null
  const more = () => {
    const from = body.children.length
    const kinds = result.types.map(kindOf)
    body.append(...rows.slice(from, from + PORTION).map((row, place) => h("tr", {}, h("th", {scope: "row", class: "place"}, count(from + place + 1)),
      ...row.map((value, column) => cell(value, kinds[column])))))
  }
  const draw = () => {
    rows = sorted == null ? result.rows : sortedRows(result.rows, sorted.place, kindOf(result.types[sorted.place]), sorted.down)
    body.replaceChildren()
    more()
    node.scrollTop = 0
    ;[...head.children].slice(1).forEach((one, place) => mark(one, "aria-sort", sorted?.place === place ? (sorted.down ? "descending" : "ascending") : null))
  }
  const sortBy = (place) => {
    if (sorted?.place !== place) sorted = {place, down: kindOf(result.types[place]) === "number"}
    else sorted = sorted.down === (kindOf(result.types[place]) === "number") ? {place, down: !sorted.down} : null
    draw()
  }
  node.addEventListener("scroll", () => {
    if (body.children.length < rows.length && node.scrollTop + node.clientHeight > node.scrollHeight - 400) more()
  })
  const show = (found) => {
    result = found
    sorted = null
    head.replaceChildren(h("th", {class: "place"}, h("span", {class: "hush"}, "Row")), ...found.columns.map((name, place) => h("th", {scope: "col",
      class: kindOf(found.types[place]) === "number" ? "number" : ""}, h("button", {type: "button", class: "quiet", title: `${found.types[place]}\nSort by it`,
      onclick: () => sortBy(place)}, h("span", {}, name), h("small", {}, shortType(found.types[place]))))))
    draw()
  }
  return {node, show, sorted: () => ({...result, rows})}
}
