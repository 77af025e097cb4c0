// One row for each model: what it does, what it takes, whether it would fit, and the buttons. A row has a second line
// while there is more to say: how far a load is, whom it would unload, why it failed.

const STATES = {
  available: ["Available", "calm"], loading: ["Loading", "busy"], ready: ["Ready", "good"],
  stopping: ["Stopping", "warn"], failed: ["Failed", "bad"],
}
const STAGES = {waiting: "Waiting for memory that others use", starting: "Starting a process", weights: "Reading weights",
  warming: "Warming up", ready: "Ready", failed: "Failed"}
const FEW = 6, FEW_NARROW = 3 // models that are shown before somebody asks for all; on a phone one is a tall card
const NARROW = matchMedia("(max-width: 620px)")
const ALL_SHOWN = "mlx-panel-all-models"
const PIN = "M9.6 1.4l5 5-1.2.9-1-.2-2.9 2.9.2 2.7-1 1-3-3-3.8 3.9H1v-.9l3.9-3.8-3-3 1-1 2.7.2 2.9-2.9-.2-1z"

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

// --- what is said of a model ----------------------------------------------------------------------------------------

/** A number with its word, nothing for 0. */
function some(n, one, more) {
  return n ? `${count(n)} ${n === 1 ? one : more}` : ""
}

function idleWords(m) {
  if (m.state !== "ready" || m.idle == null || m.leases) return ""
  const idle = `idle ${span(Math.floor(m.idle))}`
  if (m.pinned) return idle
  return m.ttl ? `${idle}\nunloads in ${span(Math.max(0, Math.ceil(m.ttl - m.idle)))}` : idle
}

function memoryWords(m) {
  if (RESIDENT.has(m.state)) return m.expected ? `counts for ${bytes(m.expected)}` : ""
  return m.expected ? `would take ${bytes(m.expected)}` : ""
}

const COLUMNS = [
  ["Memory", (m) => (m.memory ? bytes(m.memory) : NONE), memoryWords],
  ["On disk", (m) => (m.disk ? bytes(m.disk) : NONE), (m) => m.dtype],
  ["Context", (m) => (m.context_length ? count(m.context_length) : NONE), () => ""],
  ["Requests", (m) => (m.queued ? `${m.running} + ${m.queued} waiting` : count(m.running)),
    (m) => [some(m.waiting, "waits for the load", "wait for the load"), m.leases ? `in use by ${count(m.leases)}` : ""].filter(Boolean).join("\n")],
  ["Speed", (m) => (m.state === "ready" && m.kind !== "embedding" ? `${figure(m.tokens_per_second)} tok/s` : NONE),
    (m) => (m.cpu == null ? "" : `CPU ${Math.round(m.cpu)} %`)],
  ["Up", (m) => (m.uptime == null ? NONE : span(Math.floor(m.uptime))), idleWords],
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
  return [m.architecture, parameters(m.parameters), kind, reasons, tools, m.needed ? "loaded at start" : "", restarts].filter(Boolean).join(" · ")
}

/** Who would be unloaded for a model to be loaded, as the server plans it now. */
function victims(m, snapshot) {
  return snapshot.models.filter((one) => (m.evicts || []).includes(one.id))
}

/** Whether others have to leave first: for their memory, or for their place. */
function makesRoom(m) {
  return m.verdict === "evicts" || (m.evicts || []).length > 0
}

function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names[names.length - 1]}`
}

/** Whether a model that is not in memory would fit: the words and their tone. */
function verdictOf(m, snapshot) {
  if (RESIDENT.has(m.state) || m.verdict === "unknown" || !m.verdict) return ["", null]
  if (m.verdict === "fits" && !makesRoom(m)) return ["fits", "good"]
  if (m.verdict === "too_large") {
    return [`too large: needs ${bytes(m.expected)}${snapshot.pool && snapshot.pool.budget ? ` of ${bytes(snapshot.pool.budget)}` : ""}`, "bad"]
  }
  const gone = victims(m, snapshot).map((one) => one.id.split("/").pop())
  return [gone.length ? `fits after unloading ${listed(gone)}` : "fits when others are done", "warn"]
}

/** What the button of a model says and does; null does nothing. */
function actionOf(m, busy) {
  if (m.state === "loading" || (busy && m.state !== "ready" && m.state !== "stopping")) return ["Loading…", null]
  if (m.state === "stopping" || busy) return ["Stopping…", null]
  return m.state === "ready" ? ["Unload", "unload"] : [m.state === "failed" ? "Try again" : "Load", "load"]
}

// --- the second line ------------------------------------------------------------------------------------------------

function progressLine(first, press) {
  const fill = h("i")
  const bar = h("div", {class: "meter", role: "progressbar", "aria-label": `Loading ${first.id}`, "aria-valuemin": 0, "aria-valuemax": 100}, fill)
  const words = h("span")
  const stop = h("button", {type: "button", class: "quiet", "aria-label": `Cancel loading ${first.id}`, onclick: () => press(first.id, "unload")}, "Cancel")
  const node = h("div", {class: "load"}, bar, words, stop)
  const show = (m) => {
    const one = m.loading
    const share = one.stage === "weights" && one.total ? one.done / one.total : one.stage === "warming" ? 1 : null
    fill.style.width = share == null ? "" : `${100 * share}%`
    mark(bar, "data-unknown", share == null || one.stage === "warming" ? "" : null)
    mark(bar, "aria-valuenow", share == null ? null : Math.round(100 * share))
    const amount = one.stage === "weights" && one.total ? `${bytes(one.done)} of ${bytes(one.total)}` : ""
    const text = [STAGES[one.stage] || one.stage, amount, span(Math.floor(one.seconds))].filter(Boolean).join(" · ")
    mark(bar, "aria-valuetext", text)
    say(words, text)
  }
  return {node, show}
}

function failureLine(first) {
  const reason = h("div", {class: "reason"})
  const text = h("pre", {tabindex: "0", "aria-label": `Last lines of the log of ${first.id}`})
  const summary = h("summary")
  const copy = h("button", {type: "button", class: "quiet"}, "Copy")
  const log = h("details", {}, summary, h("div", {class: "log"}, copy, text))
  copy.addEventListener("click", () => copyText(`${reason.textContent}\n\n${text.textContent}`).then(() => {
    say(copy, "Copied")
    setTimeout(() => say(copy, "Copy"), 1500)
  }, () => say(copy, "Could not copy")))
  const node = h("div", {class: "failure"}, reason, log)
  const show = (m) => {
    say(reason, m.reason)
    log.hidden = !m.log.length
    say(summary, `Last ${m.log.length === 1 ? "line" : `${m.log.length} lines`} of its log`)
    say(text, m.log.join("\n"))
  }
  return {node, show}
}

/** Asked before a load that makes others leave. */
function evictionLine(first, answer) {
  const words = h("span", {class: "text"})
  const go = h("button", {type: "button", class: "main", onclick: () => answer(true)}, "Unload and load")
  const no = h("button", {type: "button", onclick: () => answer(false)}, "Cancel")
  const node = h("div", {class: "banner", role: "group", "aria-label": `Load ${first.id}`}, words, go, no)
  node.addEventListener("keydown", (event) => { if (event.key === "Escape") answer(false) })
  const show = (m, snapshot) => {
    const gone = victims(m, snapshot)
    const pool = snapshot.pool || {}
    const free = Math.max(0, pool.budget - pool.reserved)
    const held = gone.map((one) => `${one.id} (${bytes(Math.max(one.memory, one.expected))}${one.idle == null ? "" : `, idle ${span(Math.floor(one.idle))}`})`)
    const full = pool.max_models && pool.resident >= pool.max_models
    say(words, (full ? `There are ${pool.resident} models in memory, and no more are allowed. ` : `It needs ${bytes(m.expected)} and ${bytes(free)} are free. `)
      + (held.length ? `Loading it unloads ${listed(held)}.` : "It is loaded when requests of others have ended."))
    say(go, held.length ? "Unload and load" : "Load anyway")
  }
  return {node, show, focus: () => go.focus()}
}

/** The second line of a row: it is there only while there is something to say. */
function extraLine(first, press, answer) {
  const cell = h("td", {colspan: COLUMNS.length + 4, role: "cell"})
  const node = h("tr", {role: "row", class: "extra"}, cell)
  const kinds = {ask: () => evictionLine(first, answer), load: () => progressLine(first, press), fail: () => failureLine(first)}
  let now = "", line = null
  const show = (m, snapshot, asked) => {
    const wanted = asked ? "ask" : m.loading && m.state === "loading" ? "load" : m.state === "failed" && (m.reason || m.log.length) ? "fail" : ""
    if (wanted !== now) {
      line = wanted ? kinds[wanted]() : null
      cell.replaceChildren(...(line ? [line.node] : []))
      now = wanted
      if (line) line.show(m, snapshot)
      return true
    }
    if (line) line.show(m, snapshot)
    return false
  }
  return {node, show, there: () => Boolean(line), focus: () => line && line.focus && line.focus()}
}

// --- a row ----------------------------------------------------------------------------------------------------------

function pinButton(first, press) {
  const button = h("button", {type: "button", class: "pin"}, svg("svg", {viewBox: "0 0 16 16", "aria-hidden": "true"}, svg("path", {d: PIN})))
  let pinned = false
  button.addEventListener("click", () => press(first.id, pinned ? "unpin" : "pin"))
  const show = (m) => {
    pinned = m.pinned
    mark(button, "aria-pressed", String(pinned))
    mark(button, "aria-label", `Pin ${m.id}`)
    button.disabled = m.needed
    mark(button, "title", m.needed ? "Loaded at start, and so kept in memory" : pinned ? "Pinned: stays in memory whatever else is asked for. Click to unpin."
      : "Pin: keep it in memory, idle or not")
  }
  return {button, show}
}

function modelRow(first, press) {
  const chip = h("span", {class: "chip"})
  const fate = h("small", {class: "verdict"})
  const about = h("small")
  const button = h("button", {type: "button"})
  const pin = pinButton(first, press)
  const cells = COLUMNS.map(([title]) => ({main: h("span"), small: h("small"), title}))
  const main = h("tr", {role: "row"}, h("th", {scope: "row", role: "rowheader", class: "model"}, h("div", {class: "id"}, first.id), about),
    h("td", {class: "state", role: "cell"}, chip, fate),
    ...cells.map((one) => h("td", {class: "number", role: "cell", "data-label": one.title}, one.main, one.small)),
    h("td", {class: "pins", role: "cell"}, pin.button), h("td", {class: "do number", role: "cell"}, button))
  let asked = false, does = null, latest = null
  const extra = extraLine(first, press, (yes) => {
    asked = false
    button.focus()
    if (yes) press(first.id, "load")
    else latest()
  })
  const node = h("tbody", {role: "rowgroup"}, main)
  button.addEventListener("click", () => {
    if (!does) return
    if (does === "ask") {
      asked = true
      latest()
      extra.focus()
    } else press(first.id, does)
  })
  const show = (m, busy, snapshot) => {
    latest = () => show(m, busy, snapshot)
    const [text, tone] = m.responsive === false ? ["Not responding", "warn"] : STATES[m.state] || [m.state, "calm"]
    say(chip, text)
    mark(chip, "data-tone", tone)
    const [words, mood] = verdictOf(m, snapshot)
    say(fate, words)
    mark(fate, "data-tone", mood)
    say(about, describe(m))
    COLUMNS.forEach(([, read, more], index) => {
      say(cells[index].main, read(m))
      say(cells[index].small, more(m))
    })
    pin.show(m)
    const [label, action] = actionOf(m, busy)
    does = action === "load" && makesRoom(m) ? "ask" : action
    asked = asked && does === "ask"
    say(button, label)
    button.disabled = !action || asked || (action === "load" && m.verdict === "too_large")
    button.classList.toggle("tonal", action === "load")
    mark(button, "aria-label", `${label} ${m.id}`)
    mark(button, "title", action === "unload" ? "Running requests are finished first" : null)
    if (extra.show(m, snapshot, asked)) extra.there() ? node.append(extra.node) : extra.node.remove()
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
  const total = h("span", {class: "muted"})
  const empty = h("div", {class: "empty"}, "Looking for models…")
  const hush = (text) => h("th", {role: "columnheader"}, h("span", {class: "hush"}, text))
  const head = h("tr", {role: "row"}, h("th", {role: "columnheader"}, "Model"), h("th", {role: "columnheader"}, "State"),
    ...COLUMNS.map(([title]) => h("th", {class: "number", role: "columnheader"}, title)), hush("Pinned"), hush("Action"))
  const body = h("table", {role: "table"}, h("thead", {role: "rowgroup"}, head))
  const list = {children: {}, insertBefore: (node, next) => body.insertBefore(node, next)}
  const table = h("div", {class: "scroll"}, body)
  const few = fold(touched, () => show(latest))
  const node = h("section", {class: "panel models", "aria-label": "Models"},
    h("header", {}, h("h2", {}, "Models"), total), h("div", {class: "notices"}, notice), table, few.node, empty)
  const press = (id, action) => {
    touched.add(id)
    if (action === "pin" || action === "unpin") return model.send_msg({do: "pin", model: id, pinned: action === "pin"})
    pressed.add(id)
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
    list.children = body.tBodies
    keep(rows, shown, list, (one) => modelRow(one, press))
    const isBusy = (id) => pressed.has(id) || model.busy.includes(id)
    shown.forEach((one) => rows.get(one.id).show(one, isBusy(one.id), snapshot))
    const ready = snapshot.models.filter((one) => one.state === "ready").length
    say(total, `${ready} of ${snapshot.models.length} loaded`)
    table.hidden = snapshot.models.length === 0
    empty.hidden = snapshot.models.length > 0
    if (!snapshot.models.length) empty.replaceChildren("No models on this machine yet.")
  }
  table.hidden = true
  return {node, show}
}
