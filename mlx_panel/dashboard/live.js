// Cards, memory and models. The document is built once; each snapshot then changes texts, bars and lines in place.

const WINDOW = 120 // seconds of history that are drawn
const STALE = 6000 // milliseconds without a snapshot until the numbers are called old
const STATES = {
  available: ["Available", "calm"], loading: ["Loading", "busy"], ready: ["Ready", "good"],
  stopping: ["Stopping", "warn"], failed: ["Failed", "bad"],
}
const FEW = 6, FEW_NARROW = 3 // models that are shown before somebody asks for all; on a phone one is a tall card
const NARROW = matchMedia("(max-width: 620px)")
const ALL_SHOWN = "mlx-panel-all-models"
const MODEL_TINTS = ["#0a7ea4", "#7b61d1", "#d9822b", "#2a9d6f", "#c94f7c", "#5b7fd6"]

// --- history ------------------------------------------------------------------------------------------------------

function toPoint(sample) {
  const [time, requests, queued, speed, ttft, memory] = sample
  return {time, requests, queued, speed, ttft, memory}
}

function pointOf(s) {
  return {time: s.time, requests: s.requests, queued: s.queued, speed: s.tokens_per_second, ttft: s.ttft_ms,
    memory: s.memory_used}
}

/** The points of the last two minutes, the newest last; one that is not newer than the last is left out. */
function extend(points, snapshot) {
  const next = pointOf(snapshot)
  const known = points.filter((point) => point.time > next.time - WINDOW)
  if (!known.length || known[known.length - 1].time < next.time) known.push(next)
  return known
}

// --- cards --------------------------------------------------------------------------------------------------------

/** The stretches of a line over the window; a missing value or a pause of 5 s ends one. */
function stretches(points, key, now, top) {
  const found = []
  let last = null
  for (const point of points) {
    if (point[key] == null) {
      last = null
      continue
    }
    if (last == null || point.time - last > 5) found.push([])
    const y = 27 - 25 * Math.min(1, point[key] / top)
    found[found.length - 1].push([(100 * (1 - (now - point.time) / WINDOW)).toFixed(2), y.toFixed(2)])
    last = point.time
  }
  return found
}

function sparkline() {
  const line = svg("path", {class: "line"})
  const area = svg("path", {class: "area"})
  const picture = svg("svg", {viewBox: "0 0 100 28", preserveAspectRatio: "none", "aria-hidden": "true"}, area, line)
  const draw = (points, key, now, least) => {
    const top = Math.max(least, ...points.map((point) => point[key] ?? 0)) * 1.05
    const drawn = stretches(points, key, now, top)
    const path = (stretch) => `M${stretch.map((xy) => xy.join(" ")).join("L")}`
    mark(line, "d", drawn.map(path).join("") || "M0 27")
    mark(area, "d", drawn.map((one) => `${path(one)}V28H${one[0][0]}Z`).join("") || "M0 28")
  }
  return {picture, draw}
}

function card(title, spec) {
  const value = h("span", {class: "value"}, NONE)
  const unit = h("span", {class: "unit"})
  const caption = h("div", {class: "caption muted"}, " ")
  const spark = spec.key ? sparkline() : null
  const bar = spec.bar ? meter(`${title} used of the limit`) : null
  const share = spec.share ? meter("Requests answered without an error", "answered") : null
  const node = h("article", {class: "panel card"}, h("h3", {}, title), h("div", {class: "reading"}, value, " ", unit),
    caption, spark && spark.picture, bar && bar.node, share && share.node)
  const show = (snapshot, points) => {
    const [number, unitText, captionText] = spec.read(snapshot)
    say(value, number)
    say(unit, unitText)
    say(caption, captionText)
    mark(node, "data-tone", spec.tone ? spec.tone(snapshot) : null)
    if (spark) spark.draw(points, spec.key, snapshot.time, spec.least)
    if (bar) bar.show(snapshot.memory_used, snapshot.memory_limit, bytes)
    if (share) share.show(snapshot.requests_total - snapshot.errors_total, snapshot.requests_total, count)
  }
  return {node, show}
}

function split(text) {
  const at = text.lastIndexOf(" ")
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)]
}

function errorShare(snapshot) {
  if (!snapshot.errors_total) return "no errors"
  const share = percent(snapshot.errors_total / Math.max(1, snapshot.requests_total))
  return `${count(snapshot.errors_total)} error${snapshot.errors_total === 1 ? "" : "s"} (${share})`
}

const CARDS = [
  ["Speed", {key: "speed", least: 10,
    read: (s) => [figure(s.tokens_per_second), "tok/s", `prompt ${figure(s.prompt_tokens_per_second)} tok/s`]}],
  ["In flight", {key: "requests", least: 4,
    read: (s) => [count(s.requests), s.requests === 1 ? "request" : "requests", "being answered now"]}],
  ["Queue", {key: "queued", least: 4, tone: (s) => (s.queued ? "warn" : null),
    read: (s) => [count(s.queued), "waiting", s.queued ? "for a free slot" : "nobody has to wait"]}],
  ["First token", {key: "ttft", least: 100,
    read: (s) => [...split(duration(s.ttft_ms)), s.ttft_ms == null ? "none in the last minute" : "median, last minute"]}],
  ["Memory", {bar: true, tone: (s) => (s.memory_limit && s.memory_used > 0.92 * s.memory_limit ? "bad" : null),
    read: (s) => [...split(bytes(s.memory_used)), s.memory_limit ? `of ${bytes(s.memory_limit)}` : "no limit set"]}],
  ["Served", {share: true, read: (s) => [count(s.requests_total), "requests", errorShare(s)]}],
]

function cardsPart() {
  const cards = CARDS.map(([title, spec]) => card(title, spec))
  const node = h("section", {class: "cards", "aria-label": "Server"}, ...cards.map((one) => one.node))
  return {node, show: (snapshot, points) => cards.forEach((one) => one.show(snapshot, points))}
}

// --- memory -------------------------------------------------------------------------------------------------------

function meter(label, kind = "") {
  const fill = h("i")
  const node = h("div", {class: `meter ${kind}`, role: "meter", "aria-label": label, "aria-valuemin": 0}, fill)
  const show = (used, limit, name) => {
    fill.style.width = `${limit ? Math.min(100, (100 * used) / limit) : 0}%`
    mark(node, "aria-valuemax", limit)
    mark(node, "aria-valuenow", Math.min(used, limit || used))
    mark(node, "aria-valuetext", `${name(used)} of ${name(limit)}`)
  }
  return {node, show}
}

function memoryRow(model, tint) {
  const size = h("span", {class: "number"})
  const bar = meter(`Memory of ${model.id}`)
  const node = h("div", {class: "memory-row", style: `--tint: ${tint}`},
    h("span", {class: "name", title: model.id}, model.id), bar.node, size)
  return {node, show: (now, limit) => {
    bar.show(now.memory, limit, bytes)
    say(size, limit ? `${bytes(now.memory)} · ${percent(now.memory / limit)}` : bytes(now.memory))
  }}
}

function memoryPart() {
  const rows = new Map()
  const list = h("div", {class: "memory-rows"})
  const rest = h("span", {class: "muted"})
  const node = h("section", {class: "panel memory", "aria-label": "Memory by model"},
    h("header", {}, h("h2", {}, "Memory by model"), h("span", {class: "grow"}), rest), list)
  const show = (snapshot) => {
    const held = snapshot.models.filter((model) => model.memory > 0)
    keep(rows, held, list, (model) => memoryRow(model, MODEL_TINTS[tintOf(model.id)]))
    held.forEach((model) => rows.get(model.id).show(model, snapshot.memory_limit))
    const free = Math.max(0, snapshot.memory_limit - snapshot.memory_used)
    say(rest, snapshot.memory_limit ? `${bytes(free)} of ${bytes(snapshot.memory_limit)} not used by models` : "")
    node.hidden = held.length === 0
  }
  node.hidden = true
  return {node, show}
}

/** A model keeps its colour whatever else is loaded. */
function tintOf(id) {
  let sum = 0
  for (const letter of id) sum = (sum * 31 + letter.charCodeAt(0)) >>> 0
  return sum % MODEL_TINTS.length
}

/** Make `rows` hold one row for each model, in the models' order, and nothing else. */
function keep(rows, models, parent, make) {
  const wanted = new Set(models.map((model) => model.id))
  for (const [id, row] of rows) {
    if (!wanted.has(id)) {
      row.node.remove()
      rows.delete(id)
    }
  }
  models.forEach((model, index) => {
    if (!rows.has(model.id)) rows.set(model.id, make(model))
    const node = rows.get(model.id).node
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] || null)
  })
}

// --- models -------------------------------------------------------------------------------------------------------

const COLUMNS = [
  ["Memory", (m) => (m.memory ? bytes(m.memory) : NONE)],
  ["On disk", (m) => (m.disk ? bytes(m.disk) : NONE)],
  ["Type", (m) => m.dtype || NONE, "words"],
  ["Context", (m) => (m.context_length ? count(m.context_length) : NONE)],
  ["Requests", (m) => (m.queued ? `${m.running} + ${m.queued} waiting` : count(m.running))],
  ["Speed", (m) => (m.state === "ready" && m.kind !== "embedding" ? `${figure(m.tokens_per_second)} tok/s` : NONE)],
  ["Up", (m) => (m.uptime == null ? NONE : span(Math.floor(m.uptime)))],
]

function parameters(n) {
  if (!n) return ""
  return n >= 1e9 ? `${(n / 1e9).toFixed(1)}B parameters` : `${Math.round(n / 1e6)}M parameters`
}

function describe(m) {
  const restarts = m.restarts ? `restarted ${m.restarts}×` : ""
  const kind = m.kind === "embedding" ? "embeddings" : ""
  const reasons = m.reasoning ? "reasons" : ""
  const tools = m.tools ? `tools: ${m.tools}` : ""
  return [m.architecture, parameters(m.parameters), kind, reasons, tools, m.needed ? "kept loaded" : "", restarts].filter(Boolean).join(" · ")
}

/** What the button of a model says and does; null does nothing. */
function actionOf(m, busy) {
  if (m.state === "loading" || (busy && m.state !== "ready" && m.state !== "stopping")) return ["Loading…", null]
  if (m.state === "stopping" || busy) return ["Stopping…", null]
  return m.state === "ready" ? ["Unload", "unload"] : [m.state === "failed" ? "Try again" : "Load", "load"]
}

function modelRow(first, press) {
  const chip = h("span", {class: "chip"})
  const name = h("div", {class: "id"}, first.id)
  const about = h("small")
  const reason = h("div", {class: "reason"})
  const button = h("button", {type: "button"})
  const cells = COLUMNS.map(([title, , kind = "number"]) => h("td", {class: kind, role: "cell", "data-label": title}))
  const node = h("tr", {role: "row"}, h("th", {scope: "row", role: "rowheader", class: "model"}, name, about, reason),
    h("td", {class: "state", role: "cell"}, chip), ...cells, h("td", {class: "do number", role: "cell"}, button))
  let does = null
  button.addEventListener("click", () => does && press(first.id, does))
  const show = (m, busy) => {
    const [text, tone] = STATES[m.state] || [m.state, "calm"]
    say(chip, text)
    mark(chip, "data-tone", tone)
    say(about, describe(m))
    say(reason, m.state === "failed" ? m.reason : "")
    COLUMNS.forEach(([, read], index) => say(cells[index], read(m)))
    const [label, action] = actionOf(m, busy)
    does = action
    say(button, label)
    button.disabled = !action
    button.classList.toggle("tonal", action === "load")
    mark(button, "aria-label", `${label} ${m.id}`)
    mark(button, "title", action === "unload" ? "Running requests are finished first" : null)
  }
  return {node, show}
}

/** A button between the first few models and all of them. `choose` picks those to show: whatever does or did something,
 *  what was `touched` here, and others up to a few; never all but one. */
function fold(touched, changed) {
  let all = remembered(ALL_SHOWN) === "yes"
  const button = h("button", {class: "quiet", type: "button"})
  const node = h("footer", {class: "fold", hidden: true}, button)
  button.addEventListener("click", () => {
    all = !all
    remembered(ALL_SHOWN, all ? "yes" : "no")
    changed()
  })
  const choose = (models) => {
    let room = (NARROW.matches ? FEW_NARROW : FEW) - models.filter((one) => one.state !== "available" || touched.has(one.id)).length
    const first = models.filter((one) => one.state !== "available" || touched.has(one.id) || room-- > 0)
    node.hidden = models.length <= first.length + 1
    mark(button, "aria-expanded", String(all))
    say(button, all ? "Show fewer models" : `Show all ${models.length} models`)
    return all || node.hidden ? models : first
  }
  return {node, choose}
}

function modelsPart(model, notice) {
  const rows = new Map()
  const pressed = new Set()
  const touched = new Set()
  let latest = null
  const body = h("tbody")
  const total = h("span", {class: "muted"})
  const empty = h("div", {class: "empty"}, "Looking for models…")
  const head = h("tr", {}, h("th", {}, "Model"), h("th", {}, "State"),
    ...COLUMNS.map(([title, , kind = "number"]) => h("th", {class: kind}, title)), h("th", {}, h("span", {class: "hush"}, "Action")))
  const table = h("div", {class: "scroll"}, h("table", {role: "table"}, h("thead", {}, head), body))
  const few = fold(touched, () => show(latest))
  const node = h("section", {class: "panel models", "aria-label": "Models"},
    h("header", {}, h("h2", {}, "Models"), total), h("div", {class: "notices"}, notice), table, few.node, empty)
  const press = (id, action) => {
    pressed.add(id)
    touched.add(id)
    model.send_msg({do: action, model: id})
    show(latest)
  }
  model.on("busy", () => {
    pressed.clear()
    if (latest) show(latest)
  })
  const show = (snapshot) => {
    latest = snapshot
    const shown = few.choose(snapshot.models)
    keep(rows, shown, body, (one) => modelRow(one, press))
    const isBusy = (id) => pressed.has(id) || model.busy.includes(id)
    shown.forEach((one) => rows.get(one.id).show(one, isBusy(one.id)))
    const ready = snapshot.models.filter((one) => one.state === "ready").length
    say(total, `${ready} of ${snapshot.models.length} loaded`)
    table.hidden = snapshot.models.length === 0
    empty.hidden = snapshot.models.length > 0
    if (!snapshot.models.length) empty.replaceChildren("No models on this machine yet.")
  }
  table.hidden = true
  return {node, show}
}

// --- the whole ----------------------------------------------------------------------------------------------------

/** Speaks when a model changes its state, and only then. */
function announcer() {
  const node = h("div", {class: "hush", role: "status", "aria-live": "polite"})
  let before = null
  const show = (snapshot) => {
    const states = new Map(snapshot.models.map((one) => [one.id, one.state]))
    const news = before && [...states].filter(([id, state]) => before.has(id) && before.get(id) !== state)
    if (news && news.length) say(node, news.map(([id, state]) => `${id}: ${(STATES[state] || [state])[0]}`).join(", "))
    before = states
  }
  return {node, show}
}

function banner() {
  const text = h("span", {class: "text"})
  const node = h("div", {class: "banner", role: "status", hidden: true}, text)
  const show = (message) => {
    node.hidden = !message
    say(text, message)
  }
  return {node, show}
}

/** Says so when snapshots stop coming while the page is looked at. */
function staleness(model, root, line) {
  let arrived = performance.now()
  let shown = null
  let draining = null
  const tell = () => {
    const late = !document.hidden && performance.now() - arrived > STALE
    const old = draining != null && (late || isLost())
    const since = new Date(arrived + performance.timeOrigin).toLocaleTimeString()
    const ending = draining && "Shutting down. Running requests are finished, new ones are refused."
    const text = old ? `No news from the server since ${since}. The numbers below are from then.` : ending || ""
    if (text === shown) return
    shown = text
    line.show(text)
    root.classList.toggle("stale", Boolean(old))
  }
  const timer = setInterval(tell, 1000)
  const isLost = () => root.classList.contains("lost")
  const wake = () => { if (!isLost()) arrived = performance.now() }
  document.addEventListener("visibilitychange", wake)
  model.on("lifecycle:remove", () => {
    clearInterval(timer)
    document.removeEventListener("visibilitychange", wake)
  })
  return (snapshot) => {
    draining = snapshot.draining
    wake()
    tell()
  }
}

const PARTS = {cards: cardsPart, memory: memoryPart, models: modelsPart}

export function render({model, view}) {
  const speaker = announcer()
  const line = banner()
  const notice = noticeLine(model)
  const parts = model.parts.map((name) => PARTS[name](model, notice))
  const {root, whole} = stage("live", speaker.node, line.node, ...parts.map((part) => part.node))
  const fresh = staleness(model, root, line)
  const past = () => JSON.parse(model.history).map(toPoint)
  let points = past()
  const show = () => {
    const snapshot = JSON.parse(model.snapshot)
    if (!snapshot.models) return
    points = extend(points, snapshot)
    parts.forEach((part) => part.show(snapshot, points))
    speaker.show(snapshot)
    fresh(snapshot)
  }
  model.on("history", () => {
    points = past()
    show()
  })
  model.on("snapshot", show)
  show()
  watchEye(model, view, root)
  return whole
}
