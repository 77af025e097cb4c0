// The audit log, one page at a time. Python answers a query; this file asks, draws and turns pages.

const REST = 250 // milliseconds without a key until what was typed is asked for
const STATUS_TONES = {success: "good", error: "bad", timeout: "warn", cancelled: "calm", rejected: "warn"}
const EXAMPLE = `curl ${location.origin}/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"model": "…", "messages": [{"role": "user", "content": "Hello"}]}'`

const clock = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"})
const dated = new Intl.DateTimeFormat(undefined, {month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
  second: "2-digit", hourCycle: "h23"})

function when(row) {
  const time = new Date(row.timestamp)
  const today = time.toDateString() === new Date().toDateString()
  return h("time", {datetime: row.timestamp, title: time.toISOString()}, (today ? clock : dated).format(time))
}

function requestId(row) {
  const short = row.request_id.length > 12 ? `${row.request_id.slice(0, 11)}…` : row.request_id
  const button = h("button", {class: "quiet mono copy", type: "button", title: `${row.request_id} – click to copy`,
    "aria-label": `Copy request id ${row.request_id}`}, short)
  button.addEventListener("click", async () => {
    await copyText(row.request_id)
    button.textContent = "Copied ✓"
    setTimeout(() => { button.textContent = short }, 1200)
  })
  return button
}

function modelCell(row) {
  const used = row.model_used || row.model_requested || NONE
  const asked = row.model_requested && row.model_requested !== used ? `asked for ${row.model_requested}` : ""
  return h("span", {class: "clip", title: asked ? `${used}, ${asked}` : used}, used)
}

const plural = (number, one, more) => (number === 1 ? `1 ${one}` : `${count(number)} ${more}`)

function chip(text, tone, title) {
  return h("span", {class: "chip", "data-tone": tone, title}, text)
}

/** Why the answer ended, and what it consisted of beside text. */
function finish(row) {
  const notes = []
  if (row.choices > 1) notes.push(chip(`× ${count(row.choices)}`, "calm", row.finish_reason ? "Choices" : "Inputs"))
  if (row.structure) notes.push(chip(row.structure, "calm", "What the answer was held to"))
  if (row.tool_calls) notes.push(chip(plural(row.tool_calls, "call", "calls"), "calm", "Tool calls"))
  if (row.broken_tool_calls) {
    notes.push(chip(`${count(row.broken_tool_calls)} unreadable`, "warn", "Tool calls that could not be read and came as text"))
  }
  return h("span", {class: "finish"}, row.finish_reason || NONE, ...notes)
}

function answer(row) {
  const title = row.reasoning_tokens ? `${count(row.reasoning_tokens)} of them reasoning` : null
  return h("span", {title}, count(row.completion_tokens))
}

const COLUMNS = [
  ["Time", when], ["Request", requestId], ["Endpoint", (r) => h("code", {}, r.endpoint)], ["Model", modelCell],
  ["Status", (r) => h("span", {class: "chip", "data-tone": STATUS_TONES[r.status] || "calm"}, r.status)],
  ["HTTP", (r) => String(r.http_status), "number"], ["Stream", (r) => (r.stream ? "yes" : "no")],
  ["First token", (r) => duration(r.ttft_ms), "number"], ["Duration", (r) => duration(r.duration_ms), "number"],
  ["Prompt", (r) => count(r.prompt_tokens), "number"], ["Answer", answer, "number"],
  ["Finish", finish], ["Error", (r) => r.error_type || NONE], ["Caller", (r) => r.caller || NONE],
]

function rowNode(row) {
  return h("tr", {}, ...COLUMNS.map(([, read, kind]) => h("td", {class: kind || null}, read(row))))
}

function choice(label, options, change) {
  const select = h("select", {"aria-label": label, onchange: () => change(select.value)},
    ...options.map(([value, text]) => h("option", {value}, text)))
  return select
}

/** The newest query, and how to ask another; every change of a filter starts at the first row. */
function asker(model) {
  let query = {limit: 25, offset: 0, status: null, model: null, scope: "model", ...model.page.query}
  let last = 0
  let timer = null
  let resting = null
  const send = () => {
    last = performance.now()
    timer = null
    model.send_msg({do: "ask", query})
  }
  const filter = (change) => {
    query = {...query, ...change, offset: 0}
    send()
  }
  return {
    get query() { return query },
    turn: (offset) => {
      query = {...query, offset}
      send()
    },
    filter,
    /** A filter that is being typed: ask when the hand rests. */
    type: (change) => {
      clearTimeout(resting)
      resting = setTimeout(() => filter(change), REST)
    },
    /** New rows were written: look again, at most once a second and only where they would be seen. */
    again: (node) => {
      if (query.offset || timer || document.hidden || !node.getClientRects().length) return
      timer = setTimeout(send, Math.max(0, 1000 - (performance.now() - last)))
    },
  }
}

function filters(model, ask) {
  const scope = choice("Which requests", [["model", "Model requests"], ["all", "All API requests"]],
    (value) => ask.filter({scope: value}))
  const status = choice("Status", [["", "Any status"], ...model.statuses.map((name) => [name, name])],
    (value) => ask.filter({status: value || null}))
  const names = h("datalist", {id: "models"})
  const name = h("input", {type: "search", list: "models", placeholder: "Any model", "aria-label": "Model",
    oninput: () => ask.type({model: name.value.trim() || null})})
  const suggest = () => names.replaceChildren(...model.models.map((id) => h("option", {value: id})))
  model.on("models", suggest)
  suggest()
  scope.value = ask.query.scope
  status.value = ask.query.status || ""
  name.value = ask.query.model || ""
  return [scope, status, name, names]
}

function pager(model, ask) {
  const place = h("span", {class: "place muted", "aria-live": "polite"})
  const step = (label, text, move) => h("button", {type: "button", class: "step", "aria-label": label, title: label,
    onclick: () => ask.turn(move(ask.query))}, text)
  const newest = step("Newest", "«", () => 0)
  const newer = step("Newer", "‹", (q) => Math.max(0, q.offset - q.limit))
  const older = step("Older", "›", (q) => q.offset + q.limit)
  const size = choice("Rows a page", model.sizes.map((n) => [String(n), `${n} rows`]),
    (value) => ask.filter({limit: Number(value)}))
  const show = () => {
    const {rows, total, query} = model.page
    const first = rows.length ? query.offset + 1 : 0
    say(place, total ? `${count(first)}–${count(query.offset + rows.length)} of ${count(total)}` : "")
    newest.disabled = newer.disabled = !query.offset
    older.disabled = query.offset + rows.length >= total
    size.value = String(query.limit)
  }
  return {node: h("footer", {class: "pager", hidden: true}, size, h("span", {class: "grow"}), place, newest, newer, older), show}
}

function emptyText(query) {
  if (query.status || query.model) return ["No request matches this filter."]
  return ["No requests yet. Try:", h("br"), h("code", {}, EXAMPLE)]
}

export function render({model, view}) {
  const ask = asker(model)
  const body = h("tbody")
  const empty = h("div", {class: "empty"}, "Asking the server…")
  const head = h("tr", {}, ...COLUMNS.map(([title, , kind]) => h("th", {scope: "col", class: kind || null}, title)))
  const table = h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Requests", hidden: true},
    h("table", {}, h("thead", {}, head), body))
  const pages = pager(model, ask)
  const panel = h("section", {class: "panel", "aria-label": "Audit log"},
    h("header", {}, h("h2", {}, "Audit log"),
      h("span", {class: "muted grow"}, "One row a request, never its text"), ...filters(model, ask)),
    h("div", {class: "notices"}, noticeLine(model)), table, empty, pages.node)
  const {root, whole} = stage("audit", panel)
  const show = () => {
    if (!model.page.rows) return
    body.replaceChildren(...model.page.rows.map(rowNode))
    table.hidden = model.page.rows.length === 0
    empty.hidden = !table.hidden
    if (table.hidden) empty.replaceChildren(...emptyText(model.page.query))
    pages.show()
    pages.node.hidden = model.page.total === 0
  }
  model.on("page", show)
  model.on("written", () => ask.again(root))
  show()
  watchEye(model, view, root)
  return whole
}
