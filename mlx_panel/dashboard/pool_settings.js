// The pool's settings: the memory models may take together, who stays, who goes.

const GROUPS = [
  ["Memory", {memory_limit: "Memory for all models", max_models: "Models at once", plan_context: "Context to have room for",
    plan_batch: "Answers to have room for"}],
  ["Who stays and who goes", {idle_ttl_seconds: "Unload when idle for", eviction: "Who leaves first",
    models: "Loaded at start", pins: "Pinned models", model_ttls: "Unload when idle, model by model"}],
  ["Loading", {load_timeout_seconds: "Longest time a load may take", load_wait_seconds: "Wait for memory that others use", warm_spare: "Spare process"}],
  ["Health", {health_interval_seconds: "Look at processes every", heartbeat_seconds: "Not responding after", watchdog_seconds: "Restart without progress after"}],
]
const CHOICES = {lru: "least recently used (lru)", lfu: "least often used (lfu)", ttl: "next to expire (ttl)"}
const SPECIAL = {memory_limit: limitKind, pins: namesKind, models: namesKind, model_ttls: ttlKind}
const LIMIT = /^\s*(\d+(?:\.\d+)?)\s*(%|[a-z]+)\s*$/i

// --- an amount: automatic, so much, or a share ------------------------------------------------------------------------

function limitKind(option, id, changed) {
  const number = h("input", {id: `${id}-number`, type: "number", step: "any", min: 0, inputmode: "decimal", "aria-label": "How much", oninput: changed})
  const unit = h("select", {id, "aria-describedby": `${id}-help`, onchange: () => { number.hidden = unit.value === "auto"; changed() }},
    ...[["auto", "automatic"], ["GB", "GB"], ["MB", "MB"], ["%", "% of the usable memory"]].map(([value, text]) => h("option", {value}, text)))
  const wrong = () => {
    if (unit.value === "auto") return ""
    const value = Number(number.value)
    if (number.value.trim() === "" || !(value > 0)) return "Enter a number above 0."
    return unit.value === "%" && value > 100 ? "At most 100 %." : ""
  }
  let raw = "auto", shown = "auto" // as it is stored, and how the fields say it
  const said = () => (unit.value === "auto" ? "auto" : `${Number(number.value)}${unit.value}`)
  const read = () => (said() === shown ? raw : said())
  const set = (value) => {
    const found = LIMIT.exec(value)
    const name = found ? found[2].toUpperCase().replace("IB", "iB") : "auto"
    if (![...unit.options].some((one) => one.value === name)) unit.append(h("option", {value: name}, name))
    unit.value = name
    number.value = found ? found[1] : ""
    number.hidden = !found
    raw = value
    shown = said()
  }
  return {node: number, entry: [number, unit], wrong, read, set}
}

// --- lists of models --------------------------------------------------------------------------------------------------

/** A field to add a model's name to a list: Enter or the button. */
function adder(id, label, add) {
  const input = h("input", {id, type: "text", class: "text", list: "known-models", placeholder: "model", "aria-describedby": `${id}-help`, autocomplete: "off"})
  const put = () => {
    const name = input.value.trim()
    if (name) add(name)
    input.value = ""
    input.focus()
  }
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return
    event.preventDefault()
    put()
  })
  return [input, h("button", {type: "button", "aria-label": label, onclick: put}, "Add")]
}

function namesKind(option, id, changed) {
  let names = []
  const list = h("ul", {class: "names"})
  const draw = () => {
    list.replaceChildren(...names.map((name) => h("li", {class: "name"}, h("span", {}, name), h("button", {type: "button", class: "quiet",
      "aria-label": `Remove ${name} from ${titleOf(option.name)}`, onclick: () => { names = names.filter((one) => one !== name); draw(); changed() }}, "✕"))))
    list.hidden = !names.length
  }
  const [input, button] = adder(id, `Add to ${titleOf(option.name)}`, (name) => {
    if (!names.includes(name)) names = [...names, name]
    draw()
    changed()
  })
  const node = h("div", {class: "listing", role: "group", "aria-labelledby": `${id}-label`}, list, h("div", {class: "adding"}, input, button))
  return {node, block: true, entry: [node], wrong: () => "", read: () => names, set: (value) => { names = [...value]; draw() }}
}

/** A table of seconds by models' names. */
function ttlKind(option, id, changed) {
  const rows = new Map()
  const list = h("ul", {class: "names"})
  const put = (name, seconds) => {
    const human = h("small")
    const input = h("input", {type: "number", min: 0, step: "any", "aria-label": `Seconds until ${name} is unloaded`, value: String(seconds)})
    const tell = () => say(human, Number(input.value) === 0 ? "never" : `= ${span(Number(input.value))}`)
    input.addEventListener("input", () => { tell(); changed() })
    const gone = h("button", {type: "button", class: "quiet", "aria-label": `Remove the time of ${name}`, onclick: () => {
      rows.get(name).node.remove()
      rows.delete(name)
      list.hidden = !rows.size
      changed()
    }}, "✕")
    rows.get(name)?.node.remove()
    rows.set(name, {input, node: h("li", {class: "name"}, h("span", {}, name), input, h("span", {class: "muted"}, "s"), human, gone)})
    list.append(rows.get(name).node)
    list.hidden = false
    tell()
  }
  const [input, button] = adder(id, `Add to ${titleOf(option.name)}`, (name) => { if (!rows.has(name)) put(name, 600); changed() })
  const node = h("div", {class: "listing", role: "group", "aria-labelledby": `${id}-label`}, list, h("div", {class: "adding"}, input, button))
  const wrong = () => ([...rows.values()].some((row) => row.input.value.trim() === "" || !(Number(row.input.value) >= 0)) ? "Enter seconds, 0 for never." : "")
  const read = () => Object.fromEntries([...rows].map(([name, row]) => [name, Number(row.input.value)]))
  const set = (value) => {
    for (const row of rows.values()) row.node.remove()
    rows.clear()
    list.hidden = true
    for (const [name, seconds] of Object.entries(value)) put(name, seconds)
  }
  return {node, block: true, entry: [node], wrong, read, set}
}

// --- the form ---------------------------------------------------------------------------------------------------------

function limitWords(model) {
  if (!model.budget) return "What models may take together, who stays in memory and who makes room."
  const share = model.memory ? `, ${percent(model.budget / model.memory)} of this machine's ${bytes(model.memory)}` : ""
  return `Models may take ${bytes(model.budget)} together now${share}.`
}

export function render({model, view}) {
  const form = createForm(model)
  const submit = listen(form, model)
  const words = h("span", {class: "muted grow"})
  const names = h("datalist", {id: "known-models"})
  const show = () => {
    say(words, limitWords(model))
    names.replaceChildren(...model.models.map((id) => h("option", {value: id})))
  }
  for (const what of ["models", "budget", "memory"]) model.on(what, show)
  const buttons = h("div", {class: "buttons"}, form.save, form.undo, form.reset, form.saved)
  const panel = h("section", {class: "panel", "aria-label": "Pool"}, h("header", {}, h("h2", {}, "Model pool"), words, names),
    h("div", {class: "notices"}, noticeLine(model)), h("form", {novalidate: true, onsubmit: submit}, form.list, buttons))
  const {root, whole} = stage("pool-settings", panel)
  show()
  form.fill(true)
  watchEye(model, view, root)
  return whole
}
