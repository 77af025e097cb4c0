// The models of this machine: what they are, whether they fit, and what can be done with them.

const MODEL_STATES = {
  available: ["Available", "calm"], loading: ["Loading", "busy"], ready: ["In memory", "good"], stopping: ["Stopping", "warn"],
  failed: ["Failed", "bad"], incomplete: ["Incomplete", "warn"],
}
const LOAD_WORDS = {loading: "Loading…", stopping: "Stopping…", ready: "Unload", failed: "Try again"}
const SORTS = {
  name: ["Name", (a, b) => a.id.localeCompare(b.id)], used: ["Last used", (a, b) => (b.last_used || 0) - (a.last_used || 0)],
  size: ["Size", (a, b) => b.bytes - a.bytes], new: ["Newest", (a, b) => b.created - a.created],
}
const LOCAL_COLUMNS = [["On disk", "number"], ["Takes in memory", null], ["Last used", null], ["State", null]]
const KEPT_SORT = "mlx-panel-sort"

function describeModel(one) {
  const {architecture, context_length, dimensions, kinds} = one.capabilities
  const context = context_length ? `${count(context_length)} tokens of context` : ""
  const length = kinds.includes("embedding") && dimensions ? `${count(dimensions)} dimensions` : ""
  return [architecture, parameterCount(one.parameters), one.dtype, context, length].filter(Boolean).join(" · ")
}

/** A model's state: what the server says each second, else what its files say. */
function stateOf(one, states) {
  if (!one.complete) return "incomplete"
  return states.models?.[one.id]?.state || one.state
}

/** What can be done with a model beside loading it: [title, action, tone]. */
function deeds(one, page) {
  const link = page.presetLink(one.id)
  const writes = one.capabilities.kinds.includes("text")
  return [
    ["Details", () => openDetails(one.id, page)],
    ["Verify", () => page.begin("verify", one.id)],
    ...(one.complete ? [["Probe", () => page.begin("probe", one.id)]] : []),
    ...(one.complete && writes ? [["Convert…", () => openConvert(one, page)]] : []),
    ...(link ? [["Use as preset", () => { location.href = link }]] : []),
    ["Delete…", () => openDelete(one, page), "bad"],
  ]
}

function loadButton(one, page) {
  const button = h("button", {type: "button"})
  let state = "", does = "load", under = false
  const show = (now) => {
    state = now
    does = now === "ready" ? "unload" : "load"
    const word = LOAD_WORDS[now] || "Load"
    say(button, word)
    button.disabled = under || ["loading", "stopping"].includes(now)
    button.classList.toggle("tonal", does === "load")
    mark(button, "aria-label", `${word} ${one.id}`)
    mark(button, "title", does === "unload" ? "Running requests are finished first" : null)
  }
  button.addEventListener("click", async () => {
    under = true
    show(state)
    const reply = await page.ask(does, {what: one.id})
    under = false
    page.tell(reply)
    show(state)
  })
  return {node: button, show}
}

/** In the place of Load for a model of which files are missing: what came from the hub can be had there. */
function restButton(one, page) {
  const node = h("button", {type: "button", class: "tonal", "aria-label": `Download the rest of ${one.id}`, hidden: one.source === "folder",
    onclick: () => openDownload({id: one.id, verdict: "unknown"}, page)}, "Download the rest")
  return {node, show: () => { node.disabled = Boolean(page.fetched()[one.id]) }}
}

function missingNote(one) {
  if (one.complete) return null
  const where = one.source === "folder" ? ": the details name them" : ""
  return h("div", {class: "fault"}, `${plural(one.missing.length, "file")} missing${where}.`)
}

/** What a model takes: measured where it is in memory, else predicted, and whether that fits. */
function memoryParts(one, now, live, budget) {
  if (now === "ready") return [bytes(live.memory || one.expected)]
  const verdict = one.complete ? verdictChip(live.verdict || one.verdict, one.expected, budget) : null
  return [one.expected ? h("span", {}, bytes(one.expected)) : NONE, verdict].filter(Boolean)
}

function localRow(one, page) {
  const name = h("button", {type: "button", class: "quiet name", onclick: () => openDetails(one.id, page)}, one.id)
  const state = h("span", {class: "chip"})
  const memory = h("span")
  const reason = h("div", {class: "fault"})
  const load = one.complete ? loadButton(one, page) : restButton(one, page)
  const cell = (title, kind, ...children) => h("td", {class: kind, "data-label": title}, ...children)
  const used = one.last_used ? moment(one.last_used) : h("span", {class: "muted"}, "never")
  const unsupported = one.capabilities.supported ? null : h("div", {class: "fault"}, one.capabilities.reason || "It cannot be run here.")
  const about = [h("small", {}, describeModel(one)), badges(one.capabilities.kinds, one.capabilities.source === "probe"), missingNote(one), unsupported]
  const node = h("tr", {}, h("th", {scope: "row", class: "model"}, name, ...about, reason), cell("On disk", "number", bytes(one.bytes)),
    cell("Takes in memory", "fit", memory), cell("Last used", "", used), cell("State", "", state),
    h("td", {class: "do"}, load.node, menuButton(one.id, () => deeds(one, page))))
  const show = (states) => {
    const now = stateOf(one, states), live = states.models?.[one.id] || {}
    const [word, tone] = MODEL_STATES[now] || [now, "calm"]
    say(state, word)
    mark(state, "data-tone", tone)
    say(reason, live.reason || "")
    load.show(now)
    const parts = memoryParts(one, now, live, states.budget)
    const drawn = parts.map((part) => part.textContent ?? part).join()
    if (memory.dataset.drawn === drawn) return
    memory.dataset.drawn = drawn
    memory.replaceChildren(...parts)
  }
  return {node, show}
}

function localTools(page, changed) {
  const text = h("input", {type: "search", placeholder: "Name or architecture", "aria-label": "Filter models of this machine", oninput: changed})
  const kind = choice([["", "Every kind"], ...Object.entries(CAPABILITIES).map(([key, [title]]) => [key, title])])
  const sort = choice(Object.entries(SORTS).map(([key, [title]]) => [key, title]), remembered(KEPT_SORT) || "name")
  mark(kind, "aria-label", "Filter by capability")
  mark(sort, "aria-label", "Sort by")
  kind.addEventListener("change", changed)
  sort.addEventListener("change", () => {
    remembered(KEPT_SORT, sort.value)
    changed()
  })
  const node = h("div", {class: "tools"}, text, kind, h("label", {class: "sorted"}, "Sort by ", sort), h("span", {class: "grow"}),
    h("button", {type: "button", onclick: () => openImport(page)}, "Import GGUF…"))
  const fitting = (one) => (!kind.value || one.capabilities.kinds.includes(kind.value))
    && `${one.id} ${one.capabilities.architecture}`.toLowerCase().includes(text.value.trim().toLowerCase())
  const clear = () => {
    text.value = kind.value = ""
    changed()
  }
  return {node, choose: (all) => all.filter(fitting).sort(SORTS[sort.value][1]), clear}
}

function localPart(model, page) {
  const rows = new Map()
  const body = h("tbody")
  const table = h("div", {class: "scroll"}, h("table", {}, headRow(LOCAL_COLUMNS, "Actions"), body))
  const empty = h("div", {class: "empty"}, "Looking for models…")
  const tools = localTools(page, () => show())
  const tasks = tasksPart(model, page.ask, page.tell)
  const node = h("div", {class: "view local", role: "tabpanel", "aria-label": "On this machine"}, tools.node, tasks.node, table, empty)
  const nothing = (all) => {
    if (!model.local) return ["Looking for models…"]
    if (all.length) return [h("p", {}, "No model of this machine matches."), h("button", {type: "button", onclick: tools.clear}, "Show all")]
    const find = h("button", {type: "button", class: "main", onclick: () => page.go("hub")}, "Find one on the hub")
    return [h("p", {}, "No model on this machine yet. The hub has thousands that were made for MLX."), find]
  }
  const show = () => {
    const all = page.locals(), states = page.states()
    const shown = tools.choose(all)
    const keyOf = (one) => JSON.stringify({...one, state: "", verdict: ""})
    keyed(rows, shown, body, keyOf, (one) => localRow(one, page))
    shown.forEach((one) => rows.get(keyOf(one)).show(states))
    table.hidden = shown.length === 0
    empty.hidden = shown.length > 0
    if (!shown.length) empty.replaceChildren(...nothing(all))
  }
  model.on("local", show)
  model.on("states", show)
  model.on("downloads", show)
  tasks.show()
  return {node, show}
}
