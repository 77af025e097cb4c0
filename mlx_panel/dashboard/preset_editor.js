// The editor of a preset: its fields in groups, each checked while it is typed. A field left empty is as by default and
// is not sent.

const GROUPS = [
  ["What it is", "", [
    ["name", "Name", wordsField, "Requests use it as the model's name."],
    ["model", "Model", modelField, "The model it runs on. Presets of one model share its process."],
    ["description", "Description", areaField, "For people; no request sees it."]]],
  ["System prompt", "", [
    ["system_prompt", "System prompt", areaField, "Stands before conversations that have no system or developer message of their own."]]],
  ["Sampling", "What a request uses where it says nothing itself.", [
    ["sampling.temperature", "Temperature", numberField, "0 always takes the likeliest token."],
    ["sampling.top_p", "Top p", numberField, "The likeliest tokens that together have this probability; 1 is off."],
    ["sampling.top_k", "Top k", numberField, "So many of the likeliest tokens; 0 is off."],
    ["sampling.min_p", "Min p", numberField, "At least this share of the likeliest token's probability; 0 is off."],
    ["sampling.repetition_penalty", "Repetition penalty", numberField, "Against words of prompt and answer; 1 is off."],
    ["sampling.presence_penalty", "Presence penalty", numberField, "Against words the answer has had; 0 is off."],
    ["sampling.frequency_penalty", "Frequency penalty", numberField, "The same, the more often the stronger; 0 is off."],
    ["sampling.max_tokens", "Longest answer", numberField, "Tokens. Empty is up to the model's context."],
    ["sampling.seed", "Seed", seedField, "The same seed draws the same answer. Empty is another one each time."],
    ["sampling.stop", "Stop at", linesField, "Strings that end the answer, one a line."]]],
  ["Chat template", "What the model's chat template is told.", [
    ["thinking", "Reasoning", choiceField, "Whether the model reasons before it answers.", [[null, "as the model does"], [true, "on"], [false, "off"]]],
    ["template", "Further variables", tableField, "Values of the template's own variables. A request's own win."]]],
  ["How answers are read", "", [
    ["tools", "Tool calls", dialectField, "The dialect in which the model writes tool calls."],
    ["reasoning", "Reasoning", dialectField, "The style in which the model marks its reasoning."]]],
  ["Context and KV cache", "", [
    ["context_length", "Context length", numberField, "Tokens of prompt and answer together; empty is what the model has."],
    ["kv_bits", "Bits a value of the KV cache", choiceField, "From the model's next load on; presets of one model have to agree.",
      [[null, "as set for the model"], [0, "not quantised"], [8, "8 bits"], [4, "4 bits"]]],
    ["kv_group_size", "Values that share a scale", choiceField, "Where the KV cache is quantised. From the model's next load on.",
      [[null, "as set for the model"], [32, "32"], [64, "64"], [128, "128"]]]]],
  ["Running", "", [
    ["auto_start", "Load with the server", switchField, "The model is loaded when the server starts."],
    ["pinned", "Keep in memory", switchField, "The model is not unloaded to make room, nor for being idle."],
    ["priority", "Priority", choiceField, "Low requests give way to others, and make no other model leave.", [["normal", "normal"], ["low", "low"]]]]],
  ["Time limits", "Seconds a request may take in all, instead of the server's.", [
    ["timeouts.chat", "Chat", numberField, ""], ["timeouts.completions", "Completions", numberField, ""], ["timeouts.embeddings", "Embeddings", numberField, ""]]],
]
const WIDE = new Set([areaField, tableField, linesField])

function valueAt(preset, path) {
  return path.split(".").reduce((value, key) => (value == null ? undefined : value[key]), preset)
}

function setAt(preset, path, value) {
  const keys = path.split(".")
  const last = keys.pop()
  const home = keys.reduce((table, key) => (table[key] ??= {}), preset)
  home[last] = value
}

// --- kinds of fields: how to read them (undefined is as by default), how to set them, what is wrong -------------------

function wordsField(id, spec, changed) {
  const input = h("input", {id, type: "text", class: "text", maxlength: spec.longest, autocomplete: "off", spellcheck: "false", oninput: changed})
  return {node: input, entry: [input], read: () => input.value.trim() || undefined, set: (value) => { input.value = value ?? "" },
    wrong: () => (input.value.trim() ? "" : "It needs one.")}
}

function modelField(id, spec, changed, model) {
  const names = h("datalist", {id: `${id}-list`})
  const one = wordsField(id, spec, () => { changed(); ask() })
  let timer = null
  const ask = () => {
    clearTimeout(timer)
    timer = setTimeout(() => known().some((m) => m.id === one.read()) && model.send_msg({do: "about", model: one.read()}), 250)
  }
  const known = () => JSON.parse(model.live)
  const chip = h("span", {class: "chip"})
  const tell = () => {
    const found = known().find((m) => m.id === one.read())
    chip.hidden = !one.read()
    const [text, tone] = found ? STATES[found.state] || [found.state, "calm"] : ["not on this machine", "warn"]
    say(chip, text)
    mark(chip, "data-tone", tone)
  }
  const fill = () => {
    names.replaceChildren(...known().map((m) => h("option", {value: m.id}, m.kind === "embedding" ? "embeddings" : "")))
    tell()
  }
  mark(one.node, "list", `${id}-list`)
  mark(one.node, "placeholder", "a model on this machine")
  one.node.addEventListener("input", tell)
  one.node.addEventListener("focus", fill)
  const set = (value) => {
    one.set(value)
    fill()
    ask()
  }
  return {...one, entry: [one.node, names, chip], set, live: fill}
}

function areaField(id, spec, changed) {
  const amount = h("small", {class: "amount"})
  const input = h("textarea", {id, rows: spec.longest > 5000 ? 7 : 2, maxlength: spec.longest, oninput: () => { tell(); changed() }})
  const tell = () => say(amount, `${count(input.value.length)} of ${count(spec.longest)} characters`)
  return {node: input, entry: [input, amount], read: () => input.value || undefined, set: (value) => { input.value = value ?? ""; tell() }, wrong: () => ""}
}

function numberField(id, spec, changed) {
  const usual = spec.default == null ? "" : String(spec.default)
  const input = h("input", {id, type: "number", step: "any", inputmode: "decimal", placeholder: usual || "default", min: spec.minimum, max: spec.maximum, oninput: changed})
  const wrong = () => {
    if (input.validity.badInput) return "Enter a number."
    if (input.value.trim() === "") return ""
    const value = Number(input.value)
    if (spec.type === "integer" && !Number.isInteger(value)) return "Enter a whole number."
    const low = spec.above != null ? value <= spec.above : value < spec.minimum
    return low || value > spec.maximum ? `${spec.above != null ? `Above ${count(spec.above)}` : `From ${count(spec.minimum)}`} to ${count(spec.maximum)}.` : ""
  }
  const read = () => (input.value.trim() === "" ? undefined : Number(input.value))
  const set = (value) => { input.value = value == null ? "" : String(value) }
  return {node: input, entry: [input], read, set, wrong, usual: (text) => mark(input, "placeholder", text), default: usual}
}

function seedField(id, spec, changed) {
  const input = h("input", {id, type: "text", inputmode: "numeric", class: "digits", placeholder: "random", autocomplete: "off", oninput: changed})
  const wrong = () => (/^-?\d{0,19}$/.test(input.value.trim()) ? "" : "Enter a whole number of 64 bits.")
  return {node: input, entry: [input], read: () => input.value.trim() || undefined, set: (value) => { input.value = value ?? "" }, wrong}
}

function linesField(id, spec, changed) {
  const input = h("textarea", {id, rows: 2, spellcheck: "false", class: "mono", oninput: changed})
  const read = () => {
    const lines = input.value.split("\n").filter((line) => line !== "").map((line) => line.replaceAll("\\n", "\n"))
    return lines.length ? lines : undefined
  }
  return {node: input, entry: [input, h("small", {class: "amount"}, "\\n stands for a line's end")], read, wrong: () => "",
    set: (value) => { input.value = (value ?? []).map((line) => line.replaceAll("\n", "\\n")).join("\n") }}
}

function choiceField(id, spec, changed, model, choices) {
  const input = h("select", {id, onchange: changed}, ...choices.map(([, text], place) => h("option", {value: String(place)}, text)))
  const read = () => {
    const value = choices[Number(input.value)][0]
    return value == null || value === "normal" ? undefined : value
  }
  return {node: input, entry: [input], read, wrong: () => "",
    set: (value) => { input.value = String(Math.max(0, choices.findIndex(([one]) => one === (value ?? choices[0][0])))) }}
}

function dialectField(id, spec, changed, model) {
  const own = h("option", {value: ""}, "the model's own")
  const input = h("select", {id, onchange: changed}, own, ...(spec.choices || []).map((name) => h("option", {value: name}, name)))
  const what = id.split("-").pop()
  const about = () => say(own, model.about[what] ? `the model's own (${model.about[what]})` : "the model's own")
  return {node: input, entry: [input], read: () => input.value || undefined, set: (value) => { input.value = value ?? "" }, wrong: () => "", about}
}

function switchField(id, spec, changed) {
  const input = h("input", {id, type: "checkbox", role: "switch", onchange: changed})
  return {node: input, entry: [input], read: () => input.checked || undefined, set: (value) => { input.checked = Boolean(value) }, wrong: () => ""}
}

/** What a value is: JSON where it reads as JSON, else text. */
function kindOfText(text) {
  try {
    const value = JSON.parse(text)
    if (value === null) return "null"
    return Array.isArray(value) ? "list" : {boolean: "true or false", number: "number", string: "text", object: "table"}[typeof value]
  } catch {
    return "text"
  }
}

/** Rows of a name and a value. Values are JSON, or text as it stands. */
function tableField(id, spec, changed, model) {
  const list = h("div", {class: "rows"})
  const offers = h("div", {class: "offers"})
  const rows = () => [...list.children].map((row) => row.fields)
  const put = (name = "", text = "") => {
    const key = h("input", {type: "text", class: "mono", value: name, placeholder: "variable", "aria-label": "Variable", autocomplete: "off", spellcheck: "false", oninput: changed})
    const value = h("input", {type: "text", class: "mono", value: text, placeholder: "value", "aria-label": "Value", autocomplete: "off", spellcheck: "false", oninput: () => { tell(); changed() }})
    const kind = h("small")
    const tell = () => say(kind, value.value ? kindOfText(value.value) : "")
    const gone = h("button", {type: "button", class: "quiet", "aria-label": "Remove this variable", onclick: () => { row.remove(); changed() }}, "✕")
    const row = Object.assign(h("div", {class: "pair"}, key, value, kind, gone), {fields: {key, value}})
    list.append(row)
    tell()
    return key
  }
  const add = h("button", {type: "button", onclick: () => { put().focus(); changed() }}, "Add a variable")
  const node = h("div", {class: "table", role: "group"}, list, h("div", {class: "adding"}, add, offers))
  const about = () => {
    const free = (model.about.variables || []).filter((name) => !rows().some((row) => row.key.value === name))
    offers.replaceChildren(...free.map((name) => h("button", {type: "button", class: "quiet mono", title: `Set ${name}`, onclick: () => {
      put(name)
      list.lastChild.fields.value.focus()
      changed()
      about()
    }}, `+ ${name}`)))
  }
  const read = () => {
    const pairs = rows().filter((row) => row.key.value.trim() || row.value.value).map((row) => [row.key.value.trim(), row.value.value])
    return pairs.length ? Object.fromEntries(pairs) : undefined
  }
  const wrong = () => {
    const names = rows().filter((row) => row.key.value.trim() || row.value.value).map((row) => row.key.value.trim())
    if (names.some((name) => !/^[A-Za-z_]\w{0,63}$/.test(name))) return "A variable's name has letters, digits and _."
    if (rows().some((row) => kindOfText(row.value.value) === "null")) return "null is no value here; remove the variable instead."
    return new Set(names).size < names.length ? "A variable is there twice." : ""
  }
  const set = (value) => {
    list.replaceChildren()
    for (const [name, text] of Object.entries(value ?? {})) put(name, text)
    about()
  }
  return {node, entry: [node], read, wrong, set, about}
}

// --- a field and the form -------------------------------------------------------------------------------------------

function presetField([path, title, make, doc, choices], model, changed) {
  const id = `preset-${path.replace(".", "-")}`
  const spec = () => model.spec[path] || {}
  const kind = make(id, spec(), () => { check(); changed() }, model, choices)
  const help = h("small", {id: `${id}-help`})
  mark(kind.node, "aria-describedby", `${id}-help`)
  const table = make === tableField
  if (table) mark(kind.node, "aria-labelledby", `${id}-label`)
  const node = h("div", {class: `field${WIDE.has(make) ? " wide" : ""}`},
    h("div", {class: "head"}, table ? h("span", {class: "label", id: `${id}-label`}, title) : h("label", {for: id}, title), h("code", {class: "muted"}, path)),
    h("div", {class: "entry"}, ...kind.entry), help)
  let base
  const text = () => JSON.stringify(kind.read()) ?? ""
  const dirty = () => base !== undefined && text() !== base
  const bounds = () => {
    const one = spec()
    if (make !== numberField) return ""
    const usual = one.default == null ? "" : path.startsWith("timeouts.") ? `The server's: ${span(one.default)}.` : `Default ${count(one.default)}.`
    return `${one.above != null ? `Above ${count(one.above)}` : count(one.minimum)} to ${count(one.maximum)}. ${usual}`
  }
  const check = (refused = "", quiet = false) => {
    const wrong = refused || kind.wrong()
    const told = wrong && !(quiet && !refused)
    mark(kind.node, "aria-invalid", told ? "true" : null)
    mark(node, "data-wrong", told ? "" : null)
    mark(node, "data-dirty", dirty() ? "" : null)
    say(help, told ? wrong : [doc, bounds()].filter(Boolean).join(" "))
    return !wrong
  }
  const set = (value, isBase) => {
    kind.set(value)
    base = isBase ? text() : "nothing yet"
    check("", true)
  }
  const freshen = () => {
    if (kind.usual && spec().default != null) kind.usual(String(spec().default))
    check("", true)
  }
  return {path, node, kind, check, set, dirty, read: kind.read, freshen, focus: () => (kind.node.matches("div") ? kind.node.querySelector("button") : kind.node).focus()}
}

/** The form. `open(preset, name)` fills it; `name` is that of the preset that is changed, empty for a new one. */
function presetEditor(model, close) {
  let name = "", sent = false, opened = ""
  const title = h("h2", {tabindex: "-1"})
  const save = h("button", {class: "main", type: "submit"}, "Save")
  const cancel = h("button", {type: "button", onclick: () => leave()}, "Cancel")
  const state = h("span", {class: "muted", role: "status"})
  const really = h("div", {class: "banner", hidden: true, role: "alertdialog", "aria-label": "Unsaved changes"}, h("span", {class: "text"}, "What you changed is not saved."),
    h("button", {type: "button", onclick: () => { really.hidden = true; leave(true) }}, "Discard"), h("button", {type: "button", class: "main", onclick: () => { really.hidden = true; title.focus() }}, "Keep editing"))
  const elsewhere = h("div", {class: "banner", hidden: true}, h("span", {class: "text"}, "This preset was changed elsewhere since you opened it. Saving puts your version in its place."))
  const fields = new Map()
  const changed = () => enable()
  const sections = GROUPS.map(([heading, words, list]) => {
    const made = list.map((one) => presetField(one, model, changed))
    for (const one of made) fields.set(one.path, one)
    return h("section", {"aria-label": heading}, h("h3", {}, heading), words ? h("p", {class: "muted words"}, words) : null, h("div", {class: "fields"}, ...made.map((one) => one.node)))
  })
  const all = () => [...fields.values()]
  const dirty = () => all().some((one) => one.dirty())
  const enable = () => {
    const number = all().filter((one) => one.dirty()).length
    const right = all().every((one) => !one.kind.wrong())
    save.disabled = model.busy || !right || (!number && name !== "")
    say(save, model.busy && sent ? "Saving…" : name ? "Save" : "Create")
    say(state, number ? `${number} field${number === 1 ? "" : "s"} changed` : "")
  }
  const collect = () => {
    const preset = {}
    for (const one of all()) if (one.read() !== undefined) setAt(preset, one.path, one.read())
    return preset
  }
  const submit = (event) => {
    event.preventDefault()
    const wrong = all().find((one) => !one.check())
    if (wrong) return wrong.focus()
    if (save.disabled) return
    sent = true
    model.send_msg({do: "save", name, preset: collect()})
  }
  const leave = (sure = false) => {
    if (!sure && dirty()) {
      really.hidden = false
      really.querySelector("button.main").focus()
      return
    }
    close()
  }
  const form = h("form", {novalidate: true, onsubmit: submit}, ...sections, h("div", {class: "buttons"}, save, cancel, state, really))
  const node = h("section", {class: "panel editor", hidden: true, "aria-label": "Preset"}, h("header", {}, title), elsewhere, form)
  node.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.defaultPrevented) leave()
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit()
  })
  const open = (preset, known) => {
    name = known
    sent = false
    opened = JSON.stringify(preset)
    really.hidden = elsewhere.hidden = true
    say(title, name ? `Edit ${name}` : "New preset")
    for (const one of all()) one.set(valueAt(preset, one.path), Boolean(name) || !valueAt(preset, one.path))
    enable()
  }
  const refused = (notice) => {
    sent = false
    const field = fields.get(notice.field) || [...fields.values()].find((one) => notice.field && (one.path.endsWith(`.${notice.field}`) || notice.field.startsWith(`${one.path}.`)))
    if (!field) return false
    field.check(notice.text)
    field.focus()
    return true
  }
  const moved = (now) => !sent && JSON.stringify(now) !== opened
  return {node, open, leave, moved, dirty, refused, enable, elsewhere, title, name: () => name, isOpen: () => !node.hidden,
    about: () => all().forEach((one) => one.kind.about && one.kind.about()), live: () => fields.get("model").kind.live(), freshen: () => all().forEach((one) => one.freshen())}
}
