// A form of options. Save sends only what differs from what the server holds. The file after this one says how they are
// grouped and called (`GROUPS`), and which of them have a field of their own kind (`SPECIAL`).

const SOURCES = {default: "default", file: "settings file", environment: "environment", "command line": "command line",
  live: "set here"}
const OTHER = "Further settings"

/** The group of an option, and what it is called there. */
function placeOf(name) {
  const [group, titles] = GROUPS.find(([, titles]) => name in titles) || [OTHER, {}]
  return {group, title: titles[name]}
}

function titleOf(name) {
  return placeOf(name).title || name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase())
}

function worded(value) {
  if (typeof value === "boolean") return value ? "on" : "off"
  if (Array.isArray(value)) return value.length ? value.join(", ") : "none"
  if (value && typeof value === "object") return Object.keys(value).length ? count(Object.keys(value).length) : "none"
  return value === "" ? "none" : typeof value === "number" ? count(value) : String(value)
}

/** A number with its unit, seconds as people say them. */
function measured(option, value) {
  if (option.unit === "s") return span(value)
  return option.unit ? `${count(value)} ${option.unit}` : count(value)
}

// --- kinds of fields: each has a node, how to read it and how to set it -------------------------------------------

function numberKind(option, id, changed) {
  const input = h("input", {id, type: "number", step: "any", inputmode: "decimal", min: option.minimum, max: option.maximum,
    "aria-describedby": `${id}-help`, oninput: () => { tell(); changed() }})
  const whole = Number.isInteger(option.default) && option.unit !== "s" && !["decode_share", "max_decode_stall_ms"].includes(option.name)
  const human = h("span", {class: "human muted"})
  const tell = () => say(human, option.unit === "s" && Number(input.value) >= 60 ? `= ${span(Number(input.value))}` : "")
  const wrong = () => {
    const value = Number(input.value)
    if (input.value.trim() === "" || !Number.isFinite(value)) return "Enter a number."
    if (whole && !Number.isInteger(value)) return "Enter a whole number."
    return value < option.minimum || value > option.maximum ? `From ${count(option.minimum)} to ${count(option.maximum)}.` : ""
  }
  const set = (value) => {
    input.value = String(value)
    tell()
  }
  return {node: input, entry: [input, h("span", {class: "unit muted"}, option.unit), human], wrong, read: () => Number(input.value), set}
}

function switchKind(option, id, changed) {
  const input = h("input", {id, type: "checkbox", role: "switch", "aria-describedby": `${id}-help`, onchange: changed})
  return {node: input, entry: [input], wrong: () => "", read: () => input.checked, set: (value) => { input.checked = value }}
}

function choiceKind(option, id, changed) {
  const input = h("select", {id, "aria-describedby": `${id}-help`, onchange: changed},
    ...option.choices.map((one, place) => h("option", {value: String(place)}, one === 0 ? "off (0)" : CHOICES[one] || String(one))))
  return {node: input, entry: [input, h("span", {class: "unit muted"}, option.unit)], wrong: () => "",
    read: () => option.choices[Number(input.value)], set: (value) => { input.value = String(option.choices.indexOf(value)) }}
}

function textKind(option, id, changed) {
  const input = h("input", {id, type: "text", class: "text", list: "known-models", placeholder: "none", "aria-describedby": `${id}-help`,
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
  if (SPECIAL[option.name]) return SPECIAL[option.name]
  if (Array.isArray(option.value)) return listKind
  if (typeof option.value === "boolean") return switchKind
  if (option.choices.length) return choiceKind
  return typeof option.value === "number" ? numberKind : textKind
}

// --- a field --------------------------------------------------------------------------------------------------------

function bounds(option) {
  if (typeof option.default !== "number" || option.minimum == null) return `Default: ${worded(option.default)}.`
  if (option.unit === "s") return `${measured(option, option.minimum)} to ${measured(option, option.maximum)}, default ${measured(option, option.default)}.`
  const unit = option.unit ? ` ${option.unit}` : ""
  return `${count(option.minimum)} to ${count(option.maximum)}${unit}, default ${count(option.default)}.`
}

function field(first, model, changed) {
  let option = first
  const id = `option-${first.name}`
  const kind = kindOf(first)(first, id, () => { check(); changed() }, model.rules)
  const origin = h("span", {class: "chip origin"})
  const back = h("button", {type: "button", class: "quiet back", title: "Back to what is configured",
    "aria-label": `Reset ${titleOf(first.name)}`, onclick: () => model.send_msg({do: "save", values: {[first.name]: null}})}, "↺")
  const help = h("small", {id: `${id}-help`})
  const list = Array.isArray(first.value) && !SPECIAL[first.name]
  const block = list || kind.block
  const node = h("div", {class: `field${list ? " wide" : ""}`}, h("div", {class: "head"},
    list ? h("span", {class: "label", id: `${id}-label`}, titleOf(first.name)) : h("label", {for: id, id: `${id}-label`}, titleOf(first.name)),
    h("code", {class: "muted"}, first.name), ...(block ? [h("span", {class: "grow"}), back, origin] : [])),
    h("div", {class: "entry"}, ...kind.entry, ...(block ? [] : [h("span", {class: "grow"}), back, origin])), help)
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
    const order = GROUPS.flatMap(([, titles]) => Object.keys(titles))
    const place = (option) => (order.includes(option.name) ? order.indexOf(option.name) : order.length)
    for (const option of [...model.options].sort((a, b) => place(a) - place(b))) {
      const one = field(option, model, changed)
      fields.set(option.name, one)
      groups.get(placeOf(option.name).group).append(one.node)
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

