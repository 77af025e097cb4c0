// The audit log's file: what it takes of what it may, what became of its rows, and the settings that decide it.

const GROUPS = [
  ["How long it is kept", {audit_retention_days: "Keep rows for", audit_max_mb: "Room for the log"}],
  ["What else is kept", {audit_block_hashes: "Hashes of prompts for replay"}],
  ["What tokens cost", {audit_prices: "Prices by model or provider"}],
  ["SQL", {sql_timeout_seconds: "Longest time of a query", sql_memory_mb: "Memory of a query", sql_max_rows: "Most rows of an answer"}],
]
const CHOICES = {}
const SPECIAL = {audit_prices: pricesKind}
const AMOUNT = /^\s*\d+(\.\d+)?\s*$/
const MIB = 1024 * 1024

// --- prices: a row a model, three amounts --------------------------------------------------------------------------------

function priceField(name, what, value, changed) {
  return h("input", {type: "text", inputmode: "decimal", class: "price", "aria-label": `${what} of ${name}, US dollars per million tokens`,
    placeholder: what === "Cached" ? "as input" : "0", value, oninput: changed})
}

function pricesKind(option, id, changed) {
  const rows = new Map()
  const body = h("tbody")
  const table = h("table", {class: "prices", hidden: true}, h("thead", {}, h("tr", {}, h("th", {}, "Model or provider"), h("th", {}, "Input"),
    h("th", {}, "Cached"), h("th", {}, "Output"), h("th", {}, h("span", {class: "hush"}, "Remove")))), body)
  const drop = (name) => {
    rows.get(name)?.node.remove()
    rows.delete(name)
    table.hidden = !rows.size
  }
  const put = (name, text) => {
    drop(name)
    const [input, output, cached = ""] = text.split("/")
    const fields = {input: priceField(name, "Input", input, changed), cached: priceField(name, "Cached", cached, changed), output: priceField(name, "Output", output, changed)}
    const gone = h("button", {type: "button", class: "quiet", "aria-label": `Remove the price of ${name}`, onclick: () => { drop(name); changed() }}, "✕")
    rows.set(name, {fields, node: h("tr", {}, h("td", {class: "who"}, name), h("td", {}, fields.input), h("td", {}, fields.cached), h("td", {}, fields.output), h("td", {}, gone))})
    body.append(rows.get(name).node)
    table.hidden = false
  }
  const name = h("input", {id, type: "text", class: "text", list: "priced-names", placeholder: "model or provider", "aria-describedby": `${id}-help`, autocomplete: "off"})
  const add = () => {
    const one = name.value.trim()
    if (one && !rows.has(one)) put(one, "0/0")
    rows.get(one)?.fields.input.select()
    name.value = ""
    changed()
  }
  name.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return
    event.preventDefault()
    add()
  })
  const node = h("div", {class: "listing", role: "group", "aria-labelledby": `${id}-label`}, table,
    h("div", {class: "adding"}, name, h("button", {type: "button", onclick: add}, "Add")))
  const said = ({fields}) => [fields.input, fields.output, fields.cached].map((field) => field.value.trim()).filter((part, place) => place < 2 || part !== "").join("/")
  const wrong = () => ([...rows.values()].some((row) => !said(row).split("/").every((part) => AMOUNT.test(part))) ? "Enter US dollars per million tokens, such as 2.5." : "")
  const read = () => Object.fromEntries([...rows].map(([one, row]) => [one, said(row)]))
  const set = (value) => {
    for (const one of [...rows.keys()]) drop(one)
    for (const [one, text] of Object.entries(value)) put(one, text)
  }
  return {node, block: true, entry: [node], wrong, read, set}
}

// --- the picture -----------------------------------------------------------------------------------------------------------

const moments = new Intl.DateTimeFormat("en", {dateStyle: "medium", timeStyle: "short"})

/** A moment for people, and how long ago or ahead it is. */
function when(text) {
  return text ? moments.format(new Date(text)) : NONE
}

function away(text) {
  const seconds = (new Date(text).getTime() - Date.now()) / 1000
  const words = span(Math.max(1, Math.round(Math.abs(seconds))))
  return seconds >= 0 ? `in ${words}` : `${words} ago`
}

/** One bar: rows, then free space in the file, then what the log may still take. */
function pictureOf(storage, limit) {
  const inside = storage.contents
  const used = Math.max(0, inside.file_bytes - inside.free_bytes)
  const whole = Math.max(inside.file_bytes, limit, 1)
  const parts = [["rows", used, `${bytes(used)} of rows`], ["free", Math.min(inside.free_bytes, inside.file_bytes), `${bytes(inside.free_bytes)} free in the file`],
    ["room", whole - inside.file_bytes, limit ? `${bytes(whole - inside.file_bytes)} more allowed` : ""]]
  return {parts: parts.filter(([, size]) => size > 0), whole}
}

function bar(storage, limit) {
  const {parts, whole} = pictureOf(storage, limit)
  const words = parts.map(([, , text]) => text).filter(Boolean).join(", ")
  const node = h("div", {class: "bar", role: "img", "aria-label": `The file: ${words}`}, ...parts.map(([kind, size, text]) =>
    h("i", {class: kind, style: `flex-grow: ${size / whole}`, title: text})))
  const key = h("ul", {class: "key"}, ...parts.filter(([, , text]) => text).map(([kind, , text]) => h("li", {}, h("i", {class: kind}), text)))
  return h("div", {class: "picture"}, node, key)
}

function tile(title, value, more, tone) {
  return h("div", {class: "tile", "data-tone": tone || null}, h("span", {class: "muted"}, title), h("b", {}, value), h("small", {}, more || ""))
}

function lastLook(retained) {
  if (!retained) return ["–", "not yet"]
  if (!retained.rows) return ["nothing had to go", away(retained.time)]
  const why = {age: "too old", size: "over the size"}[retained.reason] || retained.reason
  return [`${count(retained.rows)} rows removed`, `${why}, in ${duration(retained.seconds * 1000)}, ${away(retained.time)}`]
}

function tiles(storage) {
  const inside = storage.contents
  const lost = storage.failed
  const [did, detail] = lastLook(storage.retained)
  const share = inside.file_bytes ? inside.free_bytes / inside.file_bytes : 0
  return [
    tile("Requests", count(inside.rows), `${count(inside.details)} with details, ${count(inside.events)} ${inside.events === 1 ? "event" : "events"} of models`),
    tile("File", bytes(inside.file_bytes), `${percent(share)} free, ${bytes(inside.wal_bytes)} write-ahead log`),
    tile("Oldest", when(inside.oldest), inside.oldest ? away(inside.oldest) : "the log is empty"),
    tile("Newest", when(inside.newest), inside.newest ? away(inside.newest) : ""),
    tile("Written since the start", count(storage.written), storage.pending ? `${count(storage.pending)} wait in memory` : "none waits"),
    tile("Lost", count(lost), storage.trouble ? `writing fails: ${storage.trouble}` : lost ? "since the server's start" : "none since the server's start", lost || storage.trouble ? "bad" : null),
    tile("Last look", did, detail),
    tile("Next look", storage.next ? away(storage.next) : NONE, storage.shrunk ? `At start the file went from ${bytes(storage.shrunk.before)} to ${bytes(storage.shrunk.after)}` : ""),
  ]
}

function storagePanel(model) {
  const words = h("span", {class: "muted grow"})
  const picture = h("div")
  const grid = h("div", {class: "tiles"})
  const panel = h("section", {class: "panel", "aria-label": "Storage"}, h("header", {}, h("h2", {}, "Audit log"), words), picture, grid)
  const show = () => {
    const storage = model.storage
    if (!storage.contents) return
    const limit = (model.options.find((one) => one.name === "audit_max_mb")?.value || 0) * MIB
    const name = storage.path.split("/").pop()
    say(words, `${name}, ${limit ? `may take ${bytes(limit)}` : "may grow without a limit"}`)
    words.title = storage.path
    picture.replaceChildren(bar(storage, limit))
    grid.replaceChildren(...tiles(storage))
  }
  for (const what of ["storage", "options"]) model.on(what, show)
  show()
  return panel
}

export function render({model, view}) {
  const form = createForm(model)
  const submit = listen(form, model)
  const names = h("datalist", {id: "priced-names"})
  const show = () => names.replaceChildren(...["openai", "anthropic", ...model.models].map((id) => h("option", {value: id})))
  model.on("models", show)
  const buttons = h("div", {class: "buttons"}, form.save, form.undo, form.reset, form.saved)
  const panel = h("section", {class: "panel settings", "aria-label": "Audit log settings"}, h("header", {}, h("h2", {}, "Settings"), names),
    h("div", {class: "notices"}, noticeLine(model)), h("form", {novalidate: true, onsubmit: submit}, form.list, buttons))
  const {root, whole} = stage("audit-settings", storagePanel(model), panel)
  show()
  form.fill(true)
  watchEye(model, view, root)
  return whole
}
