// One card a chart: title, choices, legend, figure or table, file, and what is read of it.

const MOST_TABLE_ROWS = 500
const LOOKS = {
  requests: {layers: ["bars"], draw: drawRequests, time: true, whole: true},
  tokens: {layers: ["bars"], draw: drawTokens, time: true},
  latency: {layers: ["lines", "dots"], draw: drawLatency, time: true},
  percentiles: {layers: ["lines", "dots"], draw: drawPercentiles, wide: true},
  heatmap: {layers: ["cells"], draw: drawHeatmap},
  throughput: {layers: ["areas", "lines", "dots"], draw: drawThroughput, time: true},
  concurrency: {layers: ["areas", "lines", "dots"], draw: drawConcurrency, time: true},
  cache: {layers: ["areas", "lines", "dots", "bars"], draw: drawCache, time: true},
  errors: {layers: ["bars"], draw: drawErrors, time: true},
  callers: {layers: ["spans"], draw: drawCallers, wide: true},
  cost: {layers: ["bars"], draw: drawCost, time: true},
  loads: {layers: ["spans", "dots"], draw: drawLoads, time: true, wide: true, whole: true},
  slowest: {table: true, whole: true},
}
// What a card chooses by itself, beside the options of its chart.
const SHOWS = {cache: ["Show", [["share", "share"], ["saved", "time saved"]]], latency: ["Scale", [["linear", "linear"], ["log", "logarithmic"]]]}
const EMPTY = {
  requests: "No request in this time.", tokens: "No tokens in this time.", latency: "No request got that far in this time.",
  percentiles: "No request got that far in this time.", heatmap: "Nothing in this time.", throughput: "No answers in this time.",
  concurrency: "No request ran in this time.", cache: "No prompts in this time.", errors: "No errors and no timeouts in this time.",
  callers: "No caller in this time.", slowest: "No request in this time.", loads: "No model was loaded or unloaded in this time.",
  cost: "No cost in this time.",
}
const PRICES = ["Nothing to show: cloud models cost what you say they do. Set US dollars per million tokens, input and output, as the setting ",
  ["audit_prices"], ", for instance ", ['{"gpt-4o": "2.5/10"}'], ". Local models cost nothing."]

function optionSelect(label, values, value, change) {
  const select = h("select", {"aria-label": label, onchange: () => change(select.value)}, ...values.map(([key, word]) => h("option", {value: key}, word)))
  select.value = value
  return h("label", {class: "option"}, h("small", {}, label), select)
}

function optionFields(page, info) {
  const fields = Object.entries(info.options).filter(([name]) => name !== "offset").map(([name, values]) =>
    optionSelect(OPTION_LABELS[name] || name, values.map((value) => [value, optionWord(value)]), page.option(info.name, name), (value) => page.setOption(info.name, name, value)))
  if (SHOWS[info.name]) fields.push(optionSelect(...SHOWS[info.name], page.option(info.name, "show"), (value) => page.setOption(info.name, "show", value)))
  return fields
}

function fileMenu(page, info) {
  const save = (format) => () => {
    menu.close()
    page.ask({do: "file", chart: info.name, format})
  }
  const menu = popover(`Download ${info.title}`, h("div", {class: "files"}, h("button", {type: "button", class: "quiet", onclick: save("csv")}, "CSV"),
    h("button", {type: "button", class: "quiet", onclick: save("parquet")}, "Parquet")))
  menu.summary.textContent = "⤓"
  menu.summary.title = "Download what is drawn"
  return menu.box
}

function swatch({colour, dash, marker, soft}) {
  const kind = marker ? `mark-${marker}` : dash ? (dash === "dashed" ? "dashes" : "stroke") : soft ? "soft" : null
  return h("i", {class: `swatch ${kind || ""}`, style: `--colour: ${colour}`})
}

/** Groups of a drawing, in the order they stand in the table. */
function legendOf(answer, drawing, paint) {
  if (drawing.legend) return drawing.legend
  const found = new Map()
  for (const stop of drawing.stops) for (const line of stop.lines) if (!found.has(line.name)) found.set(line.name, line)
  const at = index(answer, "group")
  const order = at < 0 ? [] : [...new Set(answer.rows.map((row) => row[at]))]
  const items = [...found.values()].sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name))
  return items.length === 1 && items[0].name === "all" ? [] : items
}

function legendItem(page, item) {
  if (!item.field) return h("span", {class: "key"}, swatch(item), item.name)
  const on = all(page.pairs, item.field).includes(item.choice)
  return h("button", {type: "button", class: "key", "aria-pressed": String(on), title: on ? "Show all again" : `Show only ${item.name}`,
    onclick: (event) => page.choose(item.field, item.choice, event.ctrlKey || event.metaKey || event.shiftKey)}, swatch(item), h("span", {class: "clip"}, item.name))
}

function ramp([low, high, colours]) {
  return [h("span", {class: "key"}, low, h("i", {class: "ramp", style: `background: linear-gradient(90deg, ${colours.join(", ")})`}), high)]
}

// --- the same as a table ------------------------------------------------------------------------------------

const GROUP_FIELDS = {model: "model", caller: "caller", status: "status", endpoint: "endpoint"}

function cell(page, answer, column, value) {
  const {name, unit} = column
  const field = name === "group" ? (answer.name === "errors" ? "error" : answer.options.by) : GROUP_FIELDS[name]
  if (unit === "id") return linkToRequest(page, value, String(value))
  if (name === "request_id") return h("code", {class: "clip", title: value}, value)
  if (name === "weekday") return WHOLE_WEEKDAYS[value]
  if (name === "hour") return `${value}:00`
  if (name === "kind") return EVENT_WORDS[value] || value
  if (value != null && unit === "" && field && field !== "none" && filterable(field, value)) {
    return h("button", {type: "button", class: "quiet pickable clip", title: `Show only ${value}`, onclick: (event) => page.choose(field, value, event.ctrlKey || event.metaKey)}, String(value))
  }
  return worded(unit, value)
}

function linkToRequest(page, id, text) {
  const place = requestAddress(id, "/audit", page.model.linked)
  return place ? h("a", {href: place, title: "Where the time of this request went"}, text) : text
}

/** Rows that say something: a chart over time has one for each group in each bucket. */
function telling(answer) {
  const at = index(answer, "time")
  if (!answer.bucket_seconds || at < 0) return answer.rows
  return answer.rows.filter((row) => row.some((value, place) => place !== at && typeof value === "number" && value !== 0))
}

function tableNode(page, answer) {
  const rows = telling(answer), shown = answer.bucket_seconds ? rows.slice(-MOST_TABLE_ROWS).reverse() : rows.slice(0, MOST_TABLE_ROWS)
  const number = (column) => (column.unit && column.unit !== "time" && column.unit !== "id" && !["weekday", "hour"].includes(column.name) ? "number" : null)
  const when = (value) => (answer.bucket_seconds ? between(value, value + answer.bucket_seconds * 1000) : worded("time", value))
  return h("table", {}, h("thead", {}, h("tr", {}, ...answer.columns.map((column) => h("th", {scope: "col", class: number(column)}, COLUMN_WORDS[column.name] || column.name)))),
    h("tbody", {}, ...shown.map((row) => h("tr", {}, ...row.map((value, place) => h("td", {class: number(answer.columns[place])},
      answer.columns[place].unit === "time" ? when(value) : cell(page, answer, answer.columns[place], value)))))))
}

// --- the card ------------------------------------------------------------------------------------------------

function noteOf(answer, drawing) {
  const notes = []
  if (answer.sampled > 1) notes.push(`Percentiles are of one request in ${count(answer.sampled)}, of ${count(answer.total)}.`)
  if (drawing?.more > 0) notes.push(`${count(drawing.more)} more in the table.`)
  return notes.join(" ")
}

/** Whether an answer is one to what is asked now. */
function answersTo(page, answer) {
  return JSON.stringify(answer.filter) === JSON.stringify(page.pairs)
    && Object.entries(answer.options || {}).every(([name, value]) => name === "offset" || page.option(answer.name, name) === value)
}

/** A chart's card. `draw()` shows the newest answer; the figure is made when it is first on screen. */
function chartCard(page, info) {
  const look = LOOKS[info.name]
  const parts = {
    legend: h("div", {class: "legend"}), empty: h("div", {class: "empty", hidden: true}), note: h("small", {class: "note", hidden: true}),
    error: h("div", {class: "empty", role: "alert", hidden: true}), options: h("span", {class: "options"}),
    table: h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": `${info.title}, table`, hidden: !look.table}),
    host: h("div", {class: "plot", tabindex: "0", role: "application", "aria-roledescription": "chart", "aria-label":
      `${info.title}. Arrow keys read values${look.time ? ", Shift with an arrow takes a time" : ""}, Enter filters.`, hidden: Boolean(look.table)}),
  }
  const state = {figure: null, making: null, table: Boolean(look.table), answer: null}
  const toggle = look.table ? null : h("button", {type: "button", class: "quiet small", "aria-pressed": "false", title: "Show as table", onclick: () => flip()}, "Table")
  const node = h("section", {class: "card", "data-chart": info.name, "data-whole": look.whole, "aria-label": info.title, "aria-busy": "true"},
    h("header", {}, h("div", {class: "name"}, h("h3", {}, info.title), h("small", {}, DOC_WORDS[info.name] || info.doc)), parts.options, toggle, fileMenu(page, info)),
    parts.legend, h("div", {class: "body"}, parts.host, parts.table, parts.empty, parts.error), parts.note)
  const pointer = look.table ? null : readable(parts.host, {
    choose: (stop, line, add) => page.pick(info.name, stop, line, add), zoom: (since, until) => page.zoom(since, until),
    hint: (stop, line) => page.hint(info.name, stop, line)})
  const flip = () => {
    state.table = !state.table
    mark(toggle, "aria-pressed", String(state.table))
    show()
  }
  const figure = (drawing) => (state.making ||= bokehFigure(page.view, parts.host, {...look, name: info.name}, drawing, page.colours(), page.width(look.whole)).then((made) => {
    state.figure = made
  }))
  const show = () => {
    mark(node, "aria-busy", state.answer && answersTo(page, state.answer) ? null : "true")
    showCard(page, info, look, parts, state, pointer, figure)
  }
  return {
    info, node,
    take(text) {
      if (!text) return
      state.answer = JSON.parse(text)
      show()
    },
    show,
    mind: () => parts.options.replaceChildren(...optionFields(page, info)),
    get took() { return state.answer?.took_ms || 0 },
    remove: () => state.figure?.remove(),
  }
}

function showCard(page, info, look, parts, state, pointer, figure) {
  const answer = state.answer && {...state.answer, show: page.option(info.name, "show")}
  if (!answer) return
  const failed = Boolean(answer.error)
  parts.error.hidden = !failed
  parts.host.hidden = parts.table.hidden = parts.empty.hidden = true
  if (failed) {
    parts.legend.replaceChildren()
    parts.error.replaceChildren(answer.error, h("div", {}, h("button", {type: "button", onclick: () => page.ask({do: "refresh"})}, "Try again")))
    return
  }
  const paint = page.paint(), drawing = look.table || !answer.rows.length ? null : look.draw(answer, paint, page.bounds())
  const empty = drawing ? drawing.empty : !answer.rows.length
  parts.empty.hidden = !empty
  if (empty) parts.empty.replaceChildren(...emptyWords(info.name, answer))
  parts.legend.hidden = Boolean(look.table)
  parts.legend.replaceChildren(...(empty || !drawing ? [] : drawing.ramp ? ramp(drawing.ramp) : legendOf(answer, drawing, paint).map((item) => legendItem(page, item))))
  say(parts.note, noteOf(answer, drawing))
  parts.note.hidden = !parts.note.textContent
  if (empty) return
  parts.table.hidden = !state.table
  parts.host.hidden = state.table
  if (state.table) parts.table.replaceChildren(tableNode(page, answer))
  else {
    state.drawing = drawing
    if (state.figure) state.figure.draw(drawing, page.colours(), page.width(look.whole))
    else if (state.making) return // what is newest is drawn when it is there
    else figure(drawing).then(() => {
      if (state.drawing !== drawing) state.figure.draw(state.drawing, page.colours(), page.width(look.whole))
      pointer.show(state.figure, state.drawing)
    })
    if (state.figure) pointer.show(state.figure, drawing)
  }
}

function emptyWords(name, answer) {
  if (name !== "cost" || answer.priced) return [EMPTY[name]]
  return [h("p", {}, ...PRICES.map((part) => (Array.isArray(part) ? h("code", {class: "inline"}, part[0]) : part)))]
}
