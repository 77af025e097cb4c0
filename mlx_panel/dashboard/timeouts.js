// A form of limits. A field is checked while it is typed; Save sends only what differs from what the server holds.

const SOURCES = {default: "default", file: "settings file", environment: "environment", "command line": "command line",
  live: "set here"}

function shown(limit, value) {
  return limit.unit === "s" ? span(value) : `${count(value)} ${limit.unit}`
}

/** What is wrong with the text of a field, or an empty string. */
function fault(limit, text) {
  const value = Number(text)
  if (text.trim() === "" || !Number.isFinite(value)) return "Enter a number."
  if (value < limit.minimum) return `At least ${shown(limit, limit.minimum)}.`
  if (value > limit.maximum) return `At most ${shown(limit, limit.maximum)}.`
  return ""
}

function field(first, changed) {
  let limit = first
  const id = `limit-${first.name}`
  const input = h("input", {id, type: "number", step: "any", inputmode: "decimal", "aria-describedby": `${id}-help`,
    min: first.minimum, max: first.maximum})
  const human = h("span", {class: "human"})
  const origin = h("span", {class: "chip origin"})
  const help = h("small", {id: `${id}-help`})
  const node = h("div", {class: "field"}, h("label", {for: id}, first.label),
    h("div", {class: "entry"}, input, h("span", {class: "unit muted"}, first.unit), human, origin), help)
  const dirty = () => input.value !== String(limit.value)
  const check = (refused = "") => {
    const wrong = refused || fault(limit, input.value)
    say(human, wrong || limit.unit !== "s" ? "" : `= ${span(Number(input.value))}`)
    mark(input, "aria-invalid", wrong ? "true" : null)
    mark(node, "data-wrong", wrong ? "" : null)
    mark(node, "data-dirty", dirty() ? "" : null)
    const range = `${shown(limit, limit.minimum)} to ${shown(limit, limit.maximum)}, default ${shown(limit, limit.default)}.`
    say(help, wrong || [limit.doc, range].filter(Boolean).join(" "))
    return !wrong
  }
  const take = (next, force) => {
    const kept = dirty() && input.value !== "" && !force
    limit = next
    if (!kept) input.value = String(next.value)
    say(origin, SOURCES[next.source] || next.source)
    mark(origin, "data-tone", next.source === "live" ? "busy" : null)
    check()
  }
  input.addEventListener("input", () => {
    check()
    changed()
  })
  return {node, input, dirty, check, take, name: first.name, value: () => Number(input.value)}
}

function createForm() {
  const fields = new Map()
  const list = h("div", {class: "fields"}, h("div", {class: "empty"}, "Asking the server…"))
  const save = h("button", {class: "main", type: "submit", disabled: true}, "Save")
  const undo = h("button", {type: "button", disabled: true}, "Discard changes")
  const reset = h("button", {type: "button", disabled: true}, "Reset to configured")
  const saved = h("span", {class: "saved", role: "status"})
  return {fields, list, save, undo, reset, saved}
}

function fill(form, model, force, changed) {
  for (const limit of model.limits) {
    if (!form.fields.has(limit.name)) {
      if (!form.fields.size) form.list.replaceChildren()
      form.fields.set(limit.name, field(limit, changed))
      form.list.append(form.fields.get(limit.name).node)
    }
    form.fields.get(limit.name).take(limit, force)
  }
}

/** Which buttons can be pressed now. */
function enable(form, model) {
  const all = [...form.fields.values()]
  const dirty = all.filter((one) => one.dirty())
  const right = dirty.every((one) => !one.node.hasAttribute("data-wrong"))
  form.save.disabled = model.busy || !dirty.length || !right
  form.undo.disabled = model.busy || !dirty.length
  form.reset.disabled = model.busy || !model.limits.some((limit) => limit.source === "live")
  say(form.save, model.busy ? "Saving…" : "Save")
}

function listen(form, model, changed) {
  let sent = false
  const submit = (event) => {
    event.preventDefault()
    if (form.save.disabled) return
    const dirty = [...form.fields.values()].filter((one) => one.dirty())
    sent = true
    model.send_msg({do: "save", values: Object.fromEntries(dirty.map((one) => [one.name, one.value()]))})
  }
  form.undo.addEventListener("click", () => {
    fill(form, model, true, changed)
    changed()
  })
  form.reset.addEventListener("click", () => {
    sent = true
    model.send_msg({do: "reset"})
  })
  model.on("limits", () => {
    fill(form, model, sent, changed)
    enable(form, model)
  })
  model.on("busy", () => {
    if (!model.busy) sent = false
    enable(form, model)
  })
  model.on("saved", () => {
    fill(form, model, true, changed)
    say(form.saved, model.saved.text ? `✓ ${model.saved.text}` : "")
    enable(form, model)
  })
  model.on("notice", () => {
    const wrong = form.fields.get(model.notice.field)
    if (wrong) wrong.check(model.notice.text)
  })
  return submit
}

export function render({model, view}) {
  const form = createForm()
  const changed = () => {
    say(form.saved, "")
    enable(form, model)
  }
  const submit = listen(form, model, changed)
  const buttons = h("div", {class: "buttons"}, form.save, form.undo, form.reset, form.saved)
  const panel = h("section", {class: "panel", "aria-label": "Timeouts"},
    h("header", {}, h("h2", {}, "Request limits"),
      h("span", {class: "muted"}, "How long a request may take in all, its time in the queue included.")),
    h("div", {class: "notices"}, noticeLine(model)),
    h("form", {novalidate: true, onsubmit: submit}, form.list, buttons))
  const {root, whole} = stage("timeouts", panel)
  fill(form, model, true, changed)
  enable(form, model)
  watchEye(model, view, root)
  return whole
}
