// A form of the engine's settings, for every model or for one. Save sends only what differs from what the server holds.

const SOURCES = {default: "default", file: "settings file", environment: "environment", "command line": "command line",
  live: "set here"}
const GROUPS = [
  ["Sharing the time", {max_batch: "Requests at once", max_decode_stall_ms: "Longest pause of an answer",
    decode_share: "Share of the time for answers", prefill_step: "Prompt tokens in one pass", admission_order: "Whose prompt is next"}],
  ["Prompts seen before", {prefix_cache_mb: "Room in memory", prefix_cache_disk: "Keep on disk too", prefix_cache_disk_mb: "Room on disk",
    strip_rules: "Lines left out of prompts"}],
  ["KV cache and memory", {kv_bits: "Bits a value", kv_group_size: "Values that share a scale", wired_limit_mb: "Wired memory"}],
  ["Guessing tokens", {speculation: "How", draft_model: "Draft model"}],
]
const NAMED = new Map(GROUPS.flatMap(([group, titles]) => Object.entries(titles).map(([name, title]) => [name, {group, title}])))
const OTHER = "Further settings"

function titleOf(name) {
  return NAMED.get(name)?.title || name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase())
}

function worded(value) {
  if (typeof value === "boolean") return value ? "on" : "off"
  if (Array.isArray(value)) return value.length ? value.join(", ") : "none"
  return value === "" ? "none" : typeof value === "number" ? count(value) : String(value)
}

// --- kinds of fields: each has a node, how to read it and how to set it -------------------------------------------

function numberKind(option, id, changed) {
  const input = h("input", {id, type: "number", step: "any", inputmode: "decimal", min: option.minimum, max: option.maximum,
    "aria-describedby": `${id}-help`, oninput: changed})
  const whole = Number.isInteger(option.default) && !["decode_share", "max_decode_stall_ms"].includes(option.name)
  const wrong = () => {
    const value = Number(input.value)
    if (input.value.trim() === "" || !Number.isFinite(value)) return "Enter a number."
    if (whole && !Number.isInteger(value)) return "Enter a whole number."
    return value < option.minimum || value > option.maximum ? `From ${count(option.minimum)} to ${count(option.maximum)}.` : ""
  }
  return {node: input, entry: [input, h("span", {class: "unit muted"}, option.unit)], wrong,
    read: () => Number(input.value), set: (value) => { input.value = String(value) }}
}

function switchKind(option, id, changed) {
  const input = h("input", {id, type: "checkbox", role: "switch", "aria-describedby": `${id}-help`, onchange: changed})
  return {node: input, entry: [input], wrong: () => "", read: () => input.checked, set: (value) => { input.checked = value }}
}

function choiceKind(option, id, changed) {
  const input = h("select", {id, "aria-describedby": `${id}-help`, onchange: changed},
    ...option.choices.map((one, place) => h("option", {value: String(place)}, one === 0 ? "off (0)" : String(one))))
  return {node: input, entry: [input, h("span", {class: "unit muted"}, option.unit)], wrong: () => "",
    read: () => option.choices[Number(input.value)], set: (value) => { input.value = String(option.choices.indexOf(value)) }}
}

function textKind(option, id, changed) {
  const input = h("input", {id, type: "text", class: "text", list: "engine-models", placeholder: "none", "aria-describedby": `${id}-help`,
    oninput: changed})
  return {node: input, entry: [input], wrong: () => "", read: () => input.value.trim(), set: (value) => { input.value = value }}
}

function listKind(option, id, changed, rules) {
  const boxes = option.choices.map((name) => {
    const input = h("input", {type: "checkbox", role: "switch", onchange: changed})
    return {name, input, node: h("label", {class: "rule"}, input, h("span", {}, h("code", {}, name), h("small", {}, rules[name] || "")))}
  })
  const node = h("div", {class: "rules", role: "group", "aria-labelledby": `${id}-label`}, ...boxes.map((box) => box.node))
  return {node, entry: [node], wrong: () => "", read: () => boxes.filter((box) => box.input.checked).map((box) => box.name),
    set: (value) => boxes.forEach((box) => { box.input.checked = value.includes(box.name) })}
}

function kindOf(option) {
  if (Array.isArray(option.value)) return listKind
  if (typeof option.value === "boolean") return switchKind
  if (option.choices.length) return choiceKind
  return typeof option.value === "number" ? numberKind : textKind
}

// --- a field --------------------------------------------------------------------------------------------------------

function bounds(option) {
  if (option.minimum == null) return `Default: ${worded(option.default)}.`
  const unit = option.unit ? ` ${option.unit}` : ""
  return `${count(option.minimum)} to ${count(option.maximum)}${unit}, default ${count(option.default)}.`
}

function field(first, model, changed) {
  let option = first
  const id = `engine-${first.name}`
  const kind = kindOf(first)(first, id, () => { check(); changed() }, model.rules)
  const origin = h("span", {class: "chip origin"})
  const back = h("button", {type: "button", class: "quiet back", title: "Back to what is configured",
    "aria-label": `Reset ${titleOf(first.name)}`, onclick: () => model.send_msg({do: "save", values: {[first.name]: null}})}, "↺")
  const help = h("small", {id: `${id}-help`})
  const list = Array.isArray(first.value)
  const node = h("div", {class: `field${list ? " wide" : ""}`}, h("div", {class: "head"},
    list ? h("span", {class: "label", id: `${id}-label`}, titleOf(first.name)) : h("label", {for: id}, titleOf(first.name)),
    h("code", {class: "muted"}, first.name), ...(list ? [h("span", {class: "grow"}), back, origin] : [])),
    h("div", {class: "entry"}, ...kind.entry, ...(list ? [] : [h("span", {class: "grow"}), back, origin])), help)
  const dirty = () => JSON.stringify(kind.read()) !== JSON.stringify(option.value)
  const check = (refused = "") => {
    const wrong = refused || kind.wrong()
    mark(kind.node, "aria-invalid", wrong ? "true" : null)
    mark(node, "data-wrong", wrong ? "" : null)
    mark(node, "data-dirty", dirty() ? "" : null)
    say(help, wrong || [option.doc, bounds(option), option.reload ? "Holds from a model's next load on." : ""].filter(Boolean).join(" "))
  }
  const take = (next, force) => {
    const kept = dirty() && !force
    option = next
    if (!kept) kind.set(next.value)
    const inherited = model.model && !next.own
    say(origin, inherited ? "as for all" : SOURCES[next.source] || next.source)
    mark(origin, "data-tone", !inherited && next.source === "live" ? "busy" : null)
    back.hidden = inherited || next.source !== "live"
    check()
  }
  kind.set(first.value)
  return {node, name: first.name, dirty, check, take, value: kind.read}
}

// --- the form -------------------------------------------------------------------------------------------------------

function createForm(model) {
  const fields = new Map()
  const groups = new Map([...GROUPS.map(([name]) => name), OTHER].map((name) => [name, h("div", {class: "fields"})]))
  const list = h("div", {}, h("div", {class: "empty"}, "Asking the server…"))
  const save = h("button", {class: "main", type: "submit"}, "Save")
  const undo = h("button", {type: "button"}, "Discard changes")
  const reset = h("button", {type: "button"}, "Reset to configured")
  const saved = h("span", {class: "saved", role: "status"})
  const changed = () => {
    say(saved, "")
    enable()
  }
  const build = () => {
    for (const option of model.options) {
      const one = field(option, model, changed)
      fields.set(option.name, one)
      groups.get(NAMED.get(option.name)?.group || OTHER).append(one.node)
    }
    const used = [...groups].filter(([, group]) => group.children.length)
    list.replaceChildren(...used.map(([name, group]) => h("section", {"aria-label": name}, h("h3", {}, name), group)))
  }
  const fill = (force) => {
    if (!fields.size && model.options.length) build()
    for (const option of model.options) fields.get(option.name)?.take(option, force)
    enable()
  }
  const enable = () => {
    const dirty = [...fields.values()].filter((one) => one.dirty())
    const right = dirty.every((one) => !one.node.hasAttribute("data-wrong"))
    save.disabled = model.busy || !dirty.length || !right
    undo.disabled = model.busy || !dirty.length
    reset.disabled = model.busy || !model.options.some((one) => one.source === "live" && (!model.model || one.own))
    say(save, model.busy ? "Saving…" : "Save")
  }
  return {fields, list, save, undo, reset, saved, fill, enable}
}

function listen(form, model) {
  let sent = false
  form.undo.addEventListener("click", () => form.fill(true))
  form.reset.addEventListener("click", () => {
    sent = true
    model.send_msg({do: "reset"})
  })
  model.on("options", () => form.fill(sent))
  model.on("busy", () => {
    if (!model.busy) sent = false
    form.enable()
  })
  model.on("saved", () => {
    form.fill(true)
    say(form.saved, model.saved.text ? `✓ ${model.saved.text}` : "")
  })
  model.on("notice", () => form.fields.get(model.notice.field)?.check(model.notice.text))
  return (event) => {
    event.preventDefault()
    if (form.save.disabled) return
    const dirty = [...form.fields.values()].filter((one) => one.dirty())
    sent = true
    model.send_msg({do: "save", values: Object.fromEntries(dirty.map((one) => [one.name, one.value()]))})
  }
}

/** For whom the values are; those with values of their own are marked. */
function scopePart(model, form) {
  const select = h("select", {"aria-label": "Whose settings", onchange: () => {
    model.send_msg({do: "show", model: select.value})
  }})
  const names = h("datalist", {id: "engine-models"})
  const show = () => {
    const ids = model.models.map((one) => one.id)
    const own = new Set(model.own)
    const known = JSON.stringify([ids, [...own]])
    if (select.dataset.known === known) return
    select.dataset.known = known
    select.replaceChildren(h("option", {value: ""}, "All models"),
      ...ids.map((id) => h("option", {value: id}, own.has(id) ? `${id} (own values)` : id)))
    names.replaceChildren(...ids.map((id) => h("option", {value: id})))
    select.value = model.model
  }
  model.on("models", show)
  model.on("own", show)
  model.on("model", () => form.fill(true))
  show()
  return [select, names]
}

/** Models that run with other values than those saved, until they are loaded anew. */
function pendingPart(model) {
  const node = h("div", {class: "pendings"})
  const show = () => {
    const waiting = model.models.filter((one) => one.pending.length)
    node.hidden = !waiting.length
    node.replaceChildren(...waiting.map((one) => {
      const busy = model.reloading.includes(one.id) || one.state !== "ready"
      const button = h("button", {type: "button", "aria-label": `Reload ${one.id}`, disabled: busy,
        title: "Running requests are finished first", onclick: () => model.send_msg({do: "reload", model: one.id})}, busy ? "Reloading…" : "Reload now")
      return h("div", {class: "banner"}, h("span", {class: "text"}, h("b", {}, one.id), ` was loaded before: ${one.pending.join(", ")} `
        + "will hold from its next load on."), button)
    }))
  }
  model.on("models", show)
  model.on("reloading", show)
  show()
  return node
}

export function render({model, view}) {
  const form = createForm(model)
  const submit = listen(form, model)
  const buttons = h("div", {class: "buttons"}, form.save, form.undo, form.reset, form.saved)
  const panel = h("section", {class: "panel", "aria-label": "Engine"},
    h("header", {}, h("h2", {}, "Engine"), h("span", {class: "muted grow"}, "How a model shares its time and its memory."), ...scopePart(model, form)),
    h("div", {class: "notices"}, noticeLine(model)), pendingPart(model),
    h("form", {novalidate: true, onsubmit: submit}, form.list, buttons))
  const {root, whole} = stage("engine", panel)
  form.fill(true)
  watchEye(model, view, root)
  return whole
}
