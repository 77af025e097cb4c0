// A picture of the memory that models share: one bar as long as the budget, with a segment for each of them. What a
// segment holds now is filled, what it counts for beyond that is hatched; its parts are told when it is looked at.

const MODEL_TINTS = ["#0a7ea4", "#7b61d1", "#d9822b", "#2a9d6f", "#c94f7c", "#5b7fd6", "#8a7a2c", "#b0503c"]
const RESIDENT = new Set(["loading", "ready", "stopping"])

/** What a model takes of the budget: it may have grown over what it counts for. */
function takes(m) {
  return Math.max(m.memory, RESIDENT.has(m.state) ? m.expected : 0)
}

/** Hands out colours: a model keeps its own as long as it is there, and no two have the same while there are enough. */
function palette() {
  const given = new Map()
  const pick = (id) => {
    let sum = 0
    for (const letter of id) sum = (sum * 31 + letter.charCodeAt(0)) >>> 0
    const used = new Set(given.values())
    for (let step = 0; step < MODEL_TINTS.length; step += 1) {
      const place = (sum + step) % MODEL_TINTS.length
      if (!used.has(place)) return place
    }
    return sum % MODEL_TINTS.length
  }
  const settle = (ids) => {
    for (const id of given.keys()) if (!ids.includes(id)) given.delete(id)
    for (const id of ids) if (!given.has(id)) given.set(id, pick(id))
  }
  return {settle, of: (id) => MODEL_TINTS[given.get(id) ?? 0]}
}

// --- what a segment is made of --------------------------------------------------------------------------------------

/** Part by part: what was predicted and what was measured. */
function partsOf(m) {
  const size = m.size || {}
  const past = m.measured && m.measured.loaded ? m.measured : null
  const total = m.size ? size.weights + size.kv + size.transient + size.cache + size.process : null
  return [
    ["Weights", size.weights, past && Math.max(0, past.loaded - past.baseline)],
    ["KV cache", size.kv, m.cache && m.cache.kv_bytes],
    ["Reading a prompt", size.transient, null],
    ["Prompts seen before", size.cache, m.cache && m.cache.bytes],
    ["Process", size.process, past && past.baseline],
    ["Together", total, m.memory || null],
  ]
}

function footnotes(m) {
  const notes = []
  if (m.expected) notes.push(`It counts for ${bytes(m.expected)}`)
  const past = m.measured
  if (past && past.peak) notes.push(`the most it ever took was ${bytes(past.peak)}`)
  if (past && past.predicted && past.loaded) {
    const off = Math.round(100 * (past.predicted / past.loaded - 1))
    notes.push(`its load was predicted with ${bytes(past.predicted)}, ${off ? `${Math.abs(off)} % ${off > 0 ? "more" : "less"} than` : "just what"} it took`)
  }
  return notes.length ? `${notes.join("; ")}.` : ""
}

function modelDetail(m) {
  const rows = partsOf(m).filter(([, predicted, measured]) => predicted || measured)
  const cell = (n) => h("td", {class: "number"}, n == null ? NONE : bytes(n))
  return [h("b", {class: "id"}, m.id),
    rows.length ? h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "Part"), h("th", {class: "number"}, "Predicted"), h("th", {class: "number"}, "Measured"))),
      h("tbody", {}, ...rows.map(([name, predicted, measured]) => h("tr", {}, h("th", {scope: "row"}, name), cell(predicted), cell(measured)))))
      : h("p", {class: "muted"}, `${bytes(m.memory)} measured; nothing was predicted.`),
    h("p", {class: "muted"}, footnotes(m))]
}

function plainDetail(title, text) {
  return [h("b", {}, title), h("p", {class: "muted"}, text)]
}

// --- the bar --------------------------------------------------------------------------------------------------------

/** What lies in the bar, in order: `id`, `size` and `now` in bytes, what is said of it, what is told when it is looked at. */
function segmentsOf(snapshot) {
  const pool = snapshot.pool || {}
  const held = snapshot.models.filter((m) => m.memory > 0 || RESIDENT.has(m.state))
  const found = held.map((m) => ({id: m.id, kind: "model", size: takes(m), now: m.memory, name: m.id.split("/").pop(),
    label: `${m.id}: ${bytes(m.memory)} measured${m.expected ? `, counts for ${bytes(m.expected)}` : ""}`, detail: () => modelDetail(m)}))
  if (pool.spare_memory) {
    found.push({id: "\0spare", kind: "spare", size: pool.spare_memory, now: pool.spare_memory, name: "spare",
      label: `Spare process: ${bytes(pool.spare_memory)}`, detail: () => plainDetail("Spare process",
        `${bytes(pool.spare_memory)}: a process with everything imported, so that the next load starts at once.`)})
  }
  const taken = found.reduce((sum, one) => sum + one.size, 0)
  const whole = Math.max(pool.budget || snapshot.memory_limit, taken)
  const free = whole - taken
  if (free > 0) {
    found.push({id: "\0free", kind: "free", size: free, now: 0, name: `${bytes(free)} free`, label: `Free: ${bytes(free)}`,
      detail: () => plainDetail(`${bytes(free)} free`, pool.budget ? "A model that counts for no more is loaded without unloading another." : "Not used by models.")})
  }
  return {found, whole, taken, free}
}

function segment(first, look) {
  const fill = h("i")
  const name = h("span")
  const node = h("button", {type: "button", class: "seg", "data-kind": first.kind}, fill, name)
  const one = {node, data: first}
  node.addEventListener("pointerenter", () => look(one))
  node.addEventListener("focus", () => look(one))
  node.addEventListener("click", () => look(one))
  one.show = (data, whole, tint) => {
    one.data = data
    node.style.flexGrow = String(data.size / whole)
    node.style.setProperty("--tint", tint)
    fill.style.width = `${data.size ? (100 * data.now) / data.size : 0}%`
    say(name, data.name)
    mark(node, "aria-label", data.label)
  }
  return one
}

/** The box that tells a segment's parts. It stays while the pointer is on either, and closes on Escape. */
function detailBox(bar) {
  const box = h("div", {class: "detail panel", hidden: true})
  let shown = null
  const draw = () => box.replaceChildren(...shown.data.detail())
  const look = (one) => {
    if (shown && shown !== one) shown.node.removeAttribute("data-shown")
    shown = one
    mark(one.node, "data-shown", "")
    draw()
    box.hidden = false
    const left = one.node.offsetLeft + one.node.offsetWidth / 2 - box.offsetWidth / 2
    box.style.left = `${Math.max(0, Math.min(left, bar.offsetWidth - box.offsetWidth))}px`
  }
  const close = () => {
    if (shown) shown.node.removeAttribute("data-shown")
    shown = null
    box.hidden = true
  }
  const refresh = (rows) => {
    if (shown && !rows.has(shown.data.id)) close()
    else if (shown) draw()
  }
  return {box, look, close, refresh}
}

/** What the colours stand for. */
function legend() {
  const list = h("ul", {class: "legend"})
  const show = (segments, tints) => {
    const known = JSON.stringify(segments.map((one) => [one.id, one.kind, Math.round(one.size / 1e7), Math.round(one.now / 1e7)]))
    if (list.dataset.known === known) return
    list.dataset.known = known
    list.replaceChildren(...segments.filter((one) => one.kind !== "free").map((one) => h("li", {"data-kind": one.kind, style: `--tint: ${tints.of(one.id)}`},
      h("i", {class: "swatch"}), h("span", {class: "name", title: one.kind === "model" ? one.id : null}, one.kind === "model" ? one.id : "Spare process"),
      h("span", {class: "muted"}, one.size - one.now > 5e6 ? `${bytes(one.now)} of ${bytes(one.size)}` : bytes(one.now)))))
  }
  return {list, show}
}

/** The whole machine's memory as a thin line: how much of it the budget is. */
function machineLine() {
  const used = h("i", {class: "used"}), budget = h("i", {class: "budget"})
  const line = h("div", {class: "machine", "aria-hidden": "true"}, budget, used)
  const words = h("p", {class: "muted"})
  const node = h("div", {class: "context"}, line, words)
  const show = (snapshot, taken) => {
    const whole = snapshot.memory_limit
    const limit = (snapshot.pool || {}).budget || 0
    node.hidden = !whole || !limit
    if (node.hidden) return
    used.style.width = `${Math.min(100, (100 * taken) / whole)}%`
    budget.style.width = `${Math.min(100, (100 * limit) / whole)}%`
    const rest = whole - limit
    say(words, `This machine has ${bytes(whole)}; models may take ${bytes(limit)} of it (${percent(Math.min(1, limit / whole))})`
      + (rest > 0 ? `, ${bytes(rest)} are left to everything else.` : "."))
  }
  return {node, show}
}

function poolWords(snapshot, space) {
  const pool = snapshot.pool || {}
  const words = [pool.budget ? `${bytes(space.taken)} of ${bytes(pool.budget)} taken, ${bytes(space.free)} free`
    : `${bytes(space.free)} of ${bytes(snapshot.memory_limit)} not used by models`]
  if (pool.max_models) words.push(`${pool.resident} of at most ${pool.max_models} models`)
  if (pool.waiting) words.push(`${pool.waiting} waiting for a load`)
  if (pool.evictions) words.push(`${count(pool.evictions)} unloaded to make room`)
  return words.join(" · ")
}

function memoryPart() {
  const rows = new Map()
  const tints = palette()
  const rest = h("span", {class: "muted"})
  const bar = h("div", {class: "budget-bar", role: "group", "aria-label": "Memory of the pool"})
  const detail = detailBox(bar)
  const hover = h("div", {class: "picture"}, bar, detail.box)
  const names = legend()
  const machine = machineLine()
  const node = h("section", {class: "panel memory", "aria-label": "Memory of models"},
    h("header", {}, h("h2", {}, "Memory"), h("span", {class: "grow"}), rest), hover, names.list, machine.node)
  hover.addEventListener("pointerleave", () => { if (!bar.matches(":focus-within")) detail.close() })
  hover.addEventListener("focusout", (event) => { if (!hover.contains(event.relatedTarget)) detail.close() })
  hover.addEventListener("keydown", (event) => { if (event.key === "Escape") detail.close() })
  const show = (snapshot) => {
    const space = segmentsOf(snapshot)
    tints.settle(space.found.filter((one) => one.kind === "model").map((one) => one.id))
    keep(rows, space.found, bar, (one) => segment(one, detail.look))
    space.found.forEach((one) => rows.get(one.id).show(one, space.whole, tints.of(one.id)))
    say(rest, poolWords(snapshot, space))
    mark(node, "data-tone", space.whole > ((snapshot.pool || {}).budget || space.whole) ? "bad" : null)
    names.show(space.found, tints)
    machine.show(snapshot, space.taken)
    detail.refresh(rows)
    node.hidden = !snapshot.memory_limit && !space.taken
  }
  node.hidden = true
  return {node, show}
}
