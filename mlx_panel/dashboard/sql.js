// The SQL console: the editor with its buttons, what came of a query, and the shelf beside them.

const LONGEST_ADDRESS = 6000
const MOST_PAST = 30
const ROWS = [[100, "100 rows"], [1000, "1,000 rows"], [10000, "10,000 rows"], [0, "as many as allowed"]]
const DRAFT = "mlx-panel-sql-draft"
const PAST = "mlx-panel-sql-past"
const clock = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"})

// --- the address and the past ------------------------------------------------------------------------------------------

function fromAddress(linked) {
  return (linked && new URLSearchParams(location.search).get("q")) || ""
}

function toAddress(linked, sql) {
  if (!linked) return
  const here = new URL(location.href)
  if (sql && sql.length <= LONGEST_ADDRESS) here.searchParams.set("q", sql)
  else here.searchParams.delete("q")
  history.replaceState(history.state, "", here)
}

function past() {
  try {
    return JSON.parse(remembered(PAST) || "[]")
  } catch {
    return []
  }
}

function keepPast(entry) {
  remembered(PAST, JSON.stringify([entry, ...past().filter((one) => one.sql !== entry.sql)].slice(0, MOST_PAST)))
}

function pastPart(open) {
  const list = h("ul", {class: "queries"})
  const node = h("details", {class: "past"}, h("summary", {}, "Past queries of this tab"), list)
  const show = () => {
    const entries = past()
    list.replaceChildren(...entries.map((one) => h("li", {}, h("button", {type: "button", class: "open", title: one.sql, onclick: () => { node.open = false; open(one.sql) }},
      h("code", {}, one.sql.replace(/\s+/g, " ").slice(0, 120)), h("small", {}, `${clock.format(new Date(one.at))}, ${one.said}`)))))
    node.hidden = !entries.length
  }
  return {node, show}
}

// --- buttons -----------------------------------------------------------------------------------------------------------

/** The field for a name, in the place of the buttons, until it is saved or left. */
function namePart(save) {
  const field = h("input", {type: "text", maxlength: "80", placeholder: "Name of the query", "aria-label": "Name of the query"})
  const yes = h("button", {type: "submit", class: "main"}, "Save")
  const no = h("button", {type: "button"}, "Cancel")
  const node = h("form", {class: "naming", hidden: true}, field, yes, no)
  let context = null
  const close = () => { node.hidden = true }
  node.addEventListener("submit", (event) => {
    event.preventDefault()
    if (!field.value.trim()) return field.focus()
    save({...context, name: field.value.trim()})
    close()
  })
  no.addEventListener("click", close)
  node.addEventListener("keydown", (event) => { if (event.key === "Escape") close() })
  return {node, open: (found) => {
    context = found
    field.value = found.name
    say(yes, found.replaces ? "Rename" : "Save")
    node.hidden = false
    field.focus()
    field.select()
  }}
}

/** A word on what runs, for how long, and then on what came of it. */
function statusPart() {
  const node = h("span", {class: "muted said", role: "status"})
  let timer = null
  const stop = () => { clearInterval(timer); timer = null }
  return {node, stop, say: (text) => { stop(); say(node, text) }, count: () => {
    if (timer) return
    const begun = performance.now()
    const tick = () => say(node, `Running for ${((performance.now() - begun) / 1000).toFixed(1)} s`)
    timer = setInterval(tick, 100)
    tick()
  }}
}

function rowsWords(result) {
  const many = `${count(result.rows.length)} row${result.rows.length === 1 ? "" : "s"}`
  return result.truncated ? `the first ${many} of more` : many
}

// --- the result --------------------------------------------------------------------------------------------------------

function resultPart(examples) {
  const table = resultTable()
  const chart = resultChart()
  const said = h("span", {class: "muted"})
  const views = {table: h("button", {type: "button", role: "tab"}, "Table"), chart: h("button", {type: "button", role: "tab"}, "Chart")}
  const copy = h("button", {type: "button"}, "Copy")
  const csv = h("button", {type: "button", onclick: () => download("query.csv", "text/csv", toCsv(table.sorted()))}, "CSV")
  const json = h("button", {type: "button", onclick: () => download("query.json", "application/json", JSON.stringify(table.sorted(), null, 1))}, "JSON")
  const none = h("p", {class: "empty", hidden: true}, "The query found no rows.")
  const body = h("div", {class: "view"}, table.node, chart.node)
  const tools = h("header", {}, h("h2", {}, "Result"), said, h("span", {class: "grow"}), h("div", {class: "tabs", role: "tablist", "aria-label": "Show as"}, views.table, views.chart), copy, csv, json)
  const node = h("section", {class: "panel result", "aria-label": "Result of the query"}, tools, none, body, examples)
  let shown = "table"
  let result = null
  const look = (name) => {
    shown = name
    for (const [key, button] of Object.entries(views)) mark(button, "aria-selected", String(key === name))
    table.node.hidden = name !== "table"
    chart.node.hidden = name !== "chart"
    if (name === "chart" && result) chart.show(result)
  }
  for (const [key, button] of Object.entries(views)) button.addEventListener("click", () => look(key))
  views.table.parentNode.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return
    look(shown === "table" ? "chart" : "table")
    views[shown].focus()
  })
  copy.addEventListener("click", () => copyText(toTabs(table.sorted())).then(() => {
    say(copy, "Copied")
    setTimeout(() => say(copy, "Copy"), 1500)
  }, () => say(copy, "Could not copy")))
  const show = (found) => {
    result = found
    tools.hidden = !found
    examples.hidden = Boolean(found)
    none.hidden = !found || found.rows.length > 0
    body.hidden = !found
    if (!found) return
    say(said, `${rowsWords(found)}, ${duration(found.took_ms)}${found.as_of ? `, as of ${clock.format(new Date(found.as_of))}` : ""}`)
    mark(said, "title", found.as_of ? `The log as it was at ${found.as_of}` : null)
    table.show(found)
    look(shown)
  }
  show(null)
  return {node, show, redraw: () => { if (shown === "chart") chart.redraw() }}
}

/** What to begin with, where there is no result yet. */
function examplesPart(model, open) {
  const cards = h("div", {class: "examples"})
  const node = h("div", {class: "start"}, h("h2", {}, "Ask the log a question"), h("p", {class: "muted"},
    "One SELECT at a time, in DuckDB's SQL. It runs on a copy of the log, in a process that reaches nothing else. Begin with one of these, or write your own."), cards)
  const show = () => {
    const queries = model.queries ? JSON.parse(model.queries).filter((one) => one.built_in) : []
    cards.replaceChildren(...queries.map((one) => h("button", {type: "button", class: "card", onclick: () => open(one)}, h("b", {}, one.name), h("small", {}, one.doc))))
  }
  model.on("queries", show)
  return {node, show}
}

// --- the whole ---------------------------------------------------------------------------------------------------------

export function render({model, view}) {
  const status = statusPart()
  const wrong = h("div", {class: "notice mistake", role: "alert", hidden: true})
  const rows = h("select", {"aria-label": "Rows at most"}, ...ROWS.map(([value, text]) => h("option", {value, selected: value === 1000}, text)))
  const run = h("button", {type: "button", class: "main", title: "Ctrl+Enter, ⌘+Enter"}, "Run")
  const cancel = h("button", {type: "button", hidden: true, onclick: () => model.send_msg({do: "cancel"})}, "Cancel")
  const keep = h("button", {type: "button"}, "Save…")
  const share = h("button", {type: "button", title: "Copy the address of this page with the query in it", hidden: !model.linked}, "Copy link")
  const saved = h("span", {class: "muted", role: "status"})
  let opened = "" // the kept query that the editor began with

  const start = () => {
    const sql = editor.text()
    if (model.running || !sql.trim()) return
    wrong.hidden = true
    editor.mark(0)
    toAddress(model.linked, sql)
    model.send_msg({do: "run", sql, rows: Number(rows.value)})
    status.count()
  }
  const editor = sqlEditor({names: () => names, run: start, changed: (text) => { remembered(DRAFT, text); keep.disabled = run.disabled = !text.trim(); say(saved, "") }})
  let names = []
  const open = (sql, name = "", at_once = false) => {
    opened = name
    editor.set(sql)
    editor.focus()
    if (at_once) start()
  }
  const naming = namePart(({name, replaces, sql}) => {
    model.send_msg({do: "save", name, sql: sql ?? editor.text(), replaces: replaces || ""})
    opened = name
  })
  const shelf = [
    queriesPart(model, {open: (one) => open(one.sql, one.built_in ? "" : one.name), away: (one) => model.send_msg({do: "delete", name: one.name}),
      rename: (one) => naming.open({name: one.name, replaces: one.name, sql: one.sql})}),
    tablesPart(model, (text) => editor.insert(text)),
  ]
  const before = pastPart((sql) => open(sql))
  const examples = examplesPart(model, (one) => open(one.sql, "", true))
  const result = resultPart(examples.node)

  run.addEventListener("click", start)
  keep.addEventListener("click", () => naming.open({name: opened}))
  share.addEventListener("click", () => {
    toAddress(model.linked, editor.text())
    copyText(location.href).then(() => { say(share, "Copied"); setTimeout(() => say(share, "Copy link"), 1500) }, () => say(share, "Could not copy"))
  })

  const showRunning = () => {
    run.disabled = model.running || !editor.text().trim()
    cancel.hidden = !model.running
    if (model.running) status.count()
    mark(result.node, "aria-busy", model.running ? "true" : null)
  }
  const showMistake = ({text, line, column, length}) => {
    const place = line ? h("button", {type: "button", class: "quiet", onclick: () => editor.goto(line, column)}, `line ${line}, column ${column}`) : null
    wrong.replaceChildren(...[h("span", {class: "text"}, text), place].filter(Boolean))
    wrong.hidden = false
    editor.mark(line, column, length)
  }
  const showAnswer = () => {
    const {sql, error, cancelled, ms} = model.answered
    if (sql == null) return
    const found = !error && !cancelled && model.result ? JSON.parse(model.result) : null
    if (found) result.show(found)
    if (error) showMistake(error)
    status.say(cancelled ? `Cancelled after ${duration(ms)}.` : error ? "" : `Done in ${duration(ms)}.`)
    keepPast({sql, at: Date.now(), said: error ? "failed" : cancelled ? "cancelled" : rowsWords(found)})
    before.show()
  }
  model.on("running", showRunning)
  model.on("answered", showAnswer)
  model.on("tables", () => { names = knownNames(model) })
  model.on("saved", () => say(saved, model.saved.text || ""))

  const desk = h("div", {class: "desk"}, h("section", {class: "panel asking", "aria-label": "Query"}, editor.node, wrong,
    h("div", {class: "buttons"}, run, cancel, rows, keep, share, naming.node, status.node, saved), before.node,
    h("p", {class: "hush", id: "sql-keys"}, "Control or Command with Enter runs the query. Tab indents; Escape, then Tab, leaves the field.")), result.node)
  const side = h("aside", {class: "panel shelf", "aria-label": "Queries and tables"}, ...shelf.map((part) => part.node))
  const {root, whole} = stage("sql", h("div", {class: "notices"}, noticeLine(model)), h("div", {class: "columns"}, desk, side))
  for (const part of [...shelf, before, examples]) part.show()
  names = knownNames(model)
  const asked = fromAddress(model.linked)
  editor.set(asked || remembered(DRAFT) || "")
  if (asked) status.say("From the address: press Run to ask it.")
  if (model.answered.sql != null) showAnswer()
  showRunning()
  watchEye(model, view, root)
  const theme = new ResizeObserver(() => result.redraw())
  theme.observe(root)
  root.addEventListener("pointerenter", () => result.redraw())
  model.on("lifecycle:remove", () => { theme.disconnect(); status.stop() })
  return whole
}
