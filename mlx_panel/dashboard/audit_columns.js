// The columns of the table of requests: what stands in each, and which of them are shown.

const STATUS_TONES = {success: "good", error: "bad", timeout: "warn", cancelled: "calm", rejected: "warn"}
const COLUMNS_KEY = "mlx-panel-audit-columns"

const clock = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"})
const dated = new Intl.DateTimeFormat(undefined, {month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
  second: "2-digit", hourCycle: "h23"})

function when(row) {
  const time = new Date(row.timestamp)
  const today = time.toDateString() === new Date().toDateString()
  return h("time", {datetime: row.timestamp, title: time.toISOString()}, (today ? clock : dated).format(time))
}

function shortId(id) {
  return id.length > 12 ? `${id.slice(0, 11)}…` : id
}

/** Two sheets of paper: copy. */
function sheets() {
  const sheet = (at) => svg("rect", {x: at, y: at, width: 8, height: 8, rx: 1.5, fill: "none", stroke: "currentColor", "stroke-width": 1.2})
  return svg("svg", {viewBox: "0 0 13 13", width: 13, height: 13, "aria-hidden": "true"}, sheet(1), sheet(4))
}

function copyButton(row, text) {
  const button = h("button", {class: `quiet mono copy${text ? "" : " icon"}`, type: "button", title: `${row.request_id} – click to copy`,
    "aria-label": `Copy request id ${row.request_id}`}, text || sheets())
  button.addEventListener("click", async () => {
    await copyText(row.request_id)
    button.textContent = text ? "Copied ✓" : "✓"
    setTimeout(() => button.replaceChildren(text || sheets()), 1200)
  })
  return button
}

/** The request's id, which leads to its page where there is one. */
function requestId(row, table) {
  const place = requestAddress(row.id, table.here, table.linked)
  if (!place) return copyButton(row, shortId(row.request_id))
  return h("span", {class: "request"}, h("a", {class: "mono", href: place, title: `${row.request_id}: where its time went`}, shortId(row.request_id)), copyButton(row))
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

/** Tokens a second of an answer, from its first token on; with several choices those of all together. */
function speed(row) {
  const made = row.completion_tokens - (row.choices || 1)
  return row.decode_ms > 0 && made > 0 ? figure(made / (row.decode_ms / 1000)) : NONE
}

function cached(row) {
  if (!row.prompt_tokens) return NONE
  return h("span", {title: `${count(row.cached_tokens)} of ${count(row.prompt_tokens)} tokens`}, percent(row.cached_tokens / row.prompt_tokens))
}

/** A value that can be filtered by, where somebody takes it. */
function pickable(table, field, value, node) {
  if (!table.choose || value == null) return node
  return h("button", {type: "button", class: "quiet pick", title: `Show only ${value}`,
    onclick: (event) => table.choose(field, value, event.ctrlKey || event.metaKey || event.shiftKey)}, node)
}

function modelCell(row, table) {
  const used = row.model_used || row.model_requested || NONE
  const asked = row.model_requested && row.model_requested !== used ? `asked for ${row.model_requested}` : ""
  return pickable(table, "model", row.model_used || row.model_requested, h("span", {class: "clip", title: asked ? `${used}, ${asked}` : used}, used))
}

function plainCell(field, name) {
  return (row, table) => pickable(table, field, row[name], h("span", {class: "clip", title: row[name]}, row[name] || NONE))
}

// Name, title, content, kind, and where it is shown unless a person says otherwise: everywhere, on its own page, or not.
const COLUMNS = [
  ["time", "Time", when, "", "always"], ["request", "Request", requestId, "", "always"],
  ["endpoint", "Endpoint", (row, table) => pickable(table, "endpoint", row.endpoint, h("code", {}, row.endpoint)), "", "usual"],
  ["model", "Model", modelCell, "", "usual"], ["preset", "Preset", plainCell("preset", "preset"), "", "page"],
  ["status", "Status", (row, table) => pickable(table, "status", row.status, chip(row.status, STATUS_TONES[row.status] || "calm")), "", "usual"],
  ["http", "HTTP", (row) => String(row.http_status), "number", "usual"],
  ["stream", "Stream", (row) => (row.stream ? "yes" : "no"), "", "short"],
  ["queue", "Queue", (row) => duration(row.queue_ms), "number", "never"],
  ["ttft", "First token", (row) => duration(row.ttft_ms), "number", "usual"], ["duration", "Duration", (row) => duration(row.duration_ms), "number", "usual"],
  ["speed", "Tok/s", speed, "number", "page"],
  ["prompt", "Prompt", (row) => count(row.prompt_tokens), "number", "usual"], ["cached", "Cached", cached, "number", "page"],
  ["answer", "Answer", answer, "number", "usual"], ["finish", "Finish", finish, "", "usual"],
  ["error", "Error", plainCell("error", "error_type"), "", "usual"], ["caller", "Caller", plainCell("caller", "caller"), "", "usual"],
]

/** Which columns are shown: those a person chose in this browser, else those that suit the place. */
function columnChoice(place, changed) {
  const key = `${COLUMNS_KEY}-${place}`
  const usual = (kind) => kind === "always" || kind === "usual" || kind === (place === "page" ? "page" : "short")
  const read = () => {
    try {
      return JSON.parse(localStorage.getItem(key))
    } catch {
      return null
    }
  }
  let shown = new Set(read() || COLUMNS.filter(([, , , , kind]) => usual(kind)).map(([name]) => name))
  const set = (name, on) => {
    shown[on ? "add" : "delete"](name)
    try {
      localStorage.setItem(key, JSON.stringify([...shown]))
    } catch {
      // a frame that may keep nothing: it holds until the page is closed
    }
    changed()
  }
  const ticks = h("div", {class: "ticks"})
  const tick = ([name, title]) => h("label", {}, h("input", {type: "checkbox", checked: shown.has(name), onchange: (event) => set(name, event.target.checked)}), title)
  const menu = popover("Columns", ticks, (open) => ticks.replaceChildren(...(open ? COLUMNS.filter(([, , , , kind]) => kind !== "always").map(tick) : [])))
  menu.summary.textContent = "Columns"
  return {node: menu.box, shown: () => COLUMNS.filter(([name, , , , kind]) => kind === "always" || shown.has(name))}
}
