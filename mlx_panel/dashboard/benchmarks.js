// Starting a benchmark, following it, and the stored ones. Python holds the state; this file draws it and asks.

const LEVELS = [1, 2, 4, 8, 16, 32, 64]
const USUAL = {concurrency: [1, 4, 16], prompt_tokens: "128", output_tokens: "64", requests: "", sampling: "greedy",
  temperature: "0.7", top_p: "0.9", shared: "0", cancel: "0"}
const KEPT = "mlx-panel-benchmark"
const FEWEST = 8, WARMUP = 2, PROBES = 1 // requests of a level at least, before each level, before all of them
const FIELDS = [
  ["prompt_tokens", "Prompt tokens", {min: 1, max: 1e6, help: "Length of each prompt."}],
  ["output_tokens", "Answer tokens", {min: 1, max: 1e5, help: "Longest answer."}],
  ["requests", "Requests a level", {min: 0, max: 10000, blank: true, placeholder: "auto",
    help: "Empty: two a caller."}],
  ["temperature", "Temperature", {min: 0.01, max: 2, part: true, help: "0 would be greedy."}],
  ["top_p", "Top-p", {min: 0.01, max: 1, part: true, help: "1 is off."}],
  ["shared", "Shared prefix, %", {min: 0, max: 100, help: "What all prompts begin with."}],
  ["cancel", "Callers who leave, %", {min: 0, max: 100, help: "Hang up during the answer."}],
]
const STATES = {done: ["Done", "good"], cancelled: ["Cancelled", "warn"], failed: ["Failed", "bad"], running: ["Running", "busy"]}

const stamp = new Intl.DateTimeFormat(undefined, {year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
  hourCycle: "h23"})

function time(iso) {
  return h("time", {datetime: iso, title: iso}, stamp.format(new Date(iso)))
}

// --- the form -----------------------------------------------------------------------------------------------------

function recall() {
  try {
    return {...USUAL, ...JSON.parse(remembered(KEPT) || "{}")}
  } catch {
    return {...USUAL}
  }
}

/** What is wrong with a field's text, or an empty string. */
function fault(text, {min, max, blank, part}) {
  if (text.trim() === "") return blank ? "" : "Enter a number."
  const value = Number(text)
  if (!Number.isFinite(value) || (!part && !Number.isInteger(value))) return part ? "Enter a number." : "Enter a whole number."
  return value < min || value > max ? `From ${count(min)} to ${count(max)}.` : ""
}

function numberField(name, title, spec, values, changed) {
  const id = `bench-${name}`
  const input = h("input", {id, type: "number", min: spec.min, max: spec.max, step: "any", inputmode: "decimal",
    placeholder: spec.placeholder, "aria-describedby": `${id}-help`})
  const help = h("small", {id: `${id}-help`}, spec.help)
  const node = h("div", {class: "field"}, h("label", {for: id}, title), input, help)
  input.value = values[name]
  const check = () => {
    const wrong = node.hidden ? "" : fault(input.value, spec)
    mark(input, "aria-invalid", wrong ? "true" : null)
    mark(node, "data-wrong", wrong ? "" : null)
    say(help, wrong || spec.help)
    return !wrong
  }
  input.addEventListener("input", () => {
    values[name] = input.value
    changed()
  })
  return {node, check}
}

function levelChips(values, changed) {
  const buttons = LEVELS.map((n) => h("button", {type: "button", class: "level", onclick: () => {
    const chosen = new Set(values.concurrency)
    if (!chosen.delete(n)) chosen.add(n)
    values.concurrency = LEVELS.filter((one) => chosen.has(one))
    changed()
  }}, String(n)))
  const help = h("small", {}, "Each is a level of the sweep.")
  const node = h("div", {class: "field wide", role: "group", "aria-label": "Callers at once"},
    h("span", {class: "label"}, "Callers at once"), h("div", {class: "levels"}, ...buttons), help)
  const check = () => {
    buttons.forEach((button, place) => mark(button, "aria-pressed", String(values.concurrency.includes(LEVELS[place]))))
    mark(node, "data-wrong", values.concurrency.length ? null : "")
    say(help, values.concurrency.length ? "Each is a level of the sweep." : "Choose at least one.")
    return values.concurrency.length > 0
  }
  return {node, check}
}

function select(id, title, help, change) {
  const node = h("select", {id, onchange: () => change(node.value)})
  return {field: h("div", {class: `field ${id}`}, h("label", {for: id}, title), node, h("small", {}, help)), node}
}

/** Models in memory first; the one chosen stays chosen. */
function modelField(model, values, changed) {
  const {field, node} = select("bench-model", "Model", "One that is not in memory is loaded first.", (value) => {
    values.model = value
    changed()
  })
  const fill = () => {
    const order = [...model.models].sort((a, b) => (b.state === "ready") - (a.state === "ready") || a.id.localeCompare(b.id))
    const known = order.map((one) => `${one.id} ${one.state}`).join()
    if (node.dataset.known !== known) {
      node.dataset.known = known
      node.replaceChildren(...order.map((one) => h("option", {value: one.id}, one.state === "ready" ? one.id : `${one.id} (not loaded)`)))
    }
    if (!order.some((one) => one.id === values.model)) values.model = order[0]?.id
    node.value = values.model ?? ""
  }
  return {node: field, fill}
}

function orderOf(values) {
  const sampled = values.sampling === "sampled"
  return {model: values.model, concurrency: values.concurrency, prompt_tokens: Number(values.prompt_tokens),
    output_tokens: Number(values.output_tokens), requests: Number(values.requests || 0),
    temperature: sampled ? Number(values.temperature) : 0, top_p: sampled ? Number(values.top_p) : 1,
    shared_prefix: Number(values.shared) / 100, cancel: Number(values.cancel) / 100}
}

/** How much that will be, in words. */
function estimate(order) {
  const levels = order.concurrency.length
  const counted = order.concurrency.reduce((sum, n) => sum + (order.requests || Math.max(FEWEST, 2 * n)), 0)
  const tokens = counted * order.output_tokens
  return `${levels} level${levels === 1 ? "" : "s"}, ${count(counted)} requests and ${levels * WARMUP + PROBES} to warm up; `
    + `at most ${count(tokens)} answer tokens.`
}

function formPart(model) {
  const values = recall()
  const start = h("button", {class: "main", type: "submit"}, "Start")
  const size = h("span", {class: "muted size"})
  const chips = levelChips(values, () => changed())
  const models = modelField(model, values, () => changed())
  const sampling = select("bench-sampling", "Sampling", "How tokens are chosen.", (value) => {
    values.sampling = value
    changed()
  })
  sampling.node.append(h("option", {value: "greedy"}, "Greedy"), h("option", {value: "sampled"}, "Sampled"))
  sampling.node.value = values.sampling
  const fields = Object.fromEntries(FIELDS.map(([name, title, spec]) => [name, numberField(name, title, spec, values, () => changed())]))
  const {prompt_tokens, output_tokens, requests, temperature, top_p, shared, cancel} = fields
  const changed = () => {
    temperature.node.hidden = top_p.node.hidden = values.sampling !== "sampled"
    const right = [chips, ...Object.values(fields)].map((one) => one.check()).every(Boolean) && Boolean(values.model)
    const running = model.job.state === "running"
    start.disabled = !right || running || model.busy
    mark(start, "title", running ? "One benchmark at a time" : null)
    say(size, right ? estimate(orderOf(values)) : model.models.length ? "" : "There is no model on this machine yet.")
    remembered(KEPT, JSON.stringify(values))
  }
  const submit = (event) => {
    event.preventDefault()
    if (!start.disabled) model.send_msg({do: "start", order: orderOf(values)})
  }
  const node = h("section", {class: "panel", "aria-label": "New benchmark"},
    h("header", {}, h("h2", {}, "New benchmark"), h("span", {class: "muted"}, "How fast this server is, for more and more callers at once.")),
    h("form", {novalidate: true, onsubmit: submit},
      h("div", {class: "fields"}, models.node, chips.node, requests.node, sampling.field, prompt_tokens.node, output_tokens.node,
        shared.node, cancel.node, temperature.node, top_p.node),
      h("div", {class: "buttons"}, start, size),
      h("p", {class: "muted note"}, "These are ordinary requests: they wait their turn among all others, and each leaves its row in "
        + "the audit log. The load comes from a process of its own and goes on when this page is closed.")))
  const show = () => {
    models.fill()
    changed()
  }
  for (const name of ["models", "job", "busy"]) model.on(name, show)
  return {node, show, press: () => start.click()}
}

// --- the one that runs ----------------------------------------------------------------------------------------------

function levelsTable(levels) {
  const rows = levels.map((one) => h("tr", {}, h("td", {}, one.label), h("td", {class: "number"}, `${figure(one.tokens_per_second)} tok/s`),
    h("td", {class: "number"}, duration(one.ttft_p50)), h("td", {class: "number"}, duration(one.itl_p50)),
    h("td", {class: "number"}, one.failed ? `${count(one.failed)} failed` : "")))
  const head = h("tr", {}, ...[["Measured", null], ["Speed", "number"], ["First token", "number"], ["Between tokens", "number"], ["", "number"]]
    .map(([title, kind]) => h("th", {class: kind}, title)))
  return h("div", {class: "scroll"}, h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows)))
}

function doing(job) {
  if (!job.label) return "Starting…"
  const place = `Level ${Math.min(job.step + 1, job.steps)} of ${job.steps}: ${job.label}`
  return job.done ? place : `${place}, warming up`
}

function ending(job) {
  const levels = `${job.levels.length} of ${job.steps} levels measured`
  if (job.state === "failed") return job.error
  return job.result ? `${levels}, and stored below.` : `${levels}; nothing was stored.`
}

function jobPart(model) {
  const chip = h("span", {class: "chip"})
  const what = h("span", {class: "what", role: "status"})
  const cancel = h("button", {type: "button", onclick: () => model.send_msg({do: "cancel"})}, "Cancel")
  const fill = h("i")
  const bar = h("div", {class: "bar", role: "progressbar", "aria-label": "Benchmark", "aria-valuemin": 0, "aria-valuemax": 100}, fill)
  const about = h("span", {class: "muted"})
  const left = h("span", {class: "muted"})
  const line = h("div", {class: "line"}, about, h("span", {class: "grow"}), left)
  const levels = h("div")
  const node = h("section", {class: "panel job", "aria-label": "The benchmark that runs", hidden: true},
    h("header", {}, h("h2", {}, "Benchmark"), chip, what, h("span", {class: "grow"}), cancel), bar, line, levels)
  const show = () => {
    const {job, busy} = model
    const running = job.state === "running"
    node.hidden = !job.state
    if (node.hidden) return
    const [word, tone] = STATES[job.state]
    say(chip, word)
    mark(chip, "data-tone", tone)
    say(what, running ? doing(job) : ending(job))
    cancel.hidden = !running
    cancel.disabled = busy
    bar.hidden = line.hidden = !running
    fill.style.width = `${100 * job.fraction}%`
    mark(bar, "aria-valuenow", Math.round(100 * job.fraction))
    const speed = job.tokens_per_second ? `, ${figure(job.tokens_per_second)} tok/s` : ""
    say(about, `${job.order.model}: ${job.done} of ${job.total || "…"} requests of this level${speed}`)
    say(left, job.seconds_left == null ? "" : `about ${span(Math.ceil(job.seconds_left))} left`)
    levels.replaceChildren(...(running && job.levels.length ? [levelsTable(job.levels)] : []))
  }
  for (const name of ["job", "busy"]) model.on(name, show)
  return {node, show}
}

// --- those stored ---------------------------------------------------------------------------------------------------

/** Delete asks once more in its own place, and forgets the question when one leaves. */
function deleteButton(model, id, name) {
  const button = h("button", {type: "button", "aria-label": `Delete ${name}`}, "Delete")
  let sure = false
  const calm = () => {
    sure = false
    say(button, "Delete")
    mark(button, "class", null)
    mark(button, "aria-label", `Delete ${name}`)
  }
  button.addEventListener("click", () => {
    if (sure) return model.send_msg({do: "delete", id})
    sure = true
    say(button, "Really?")
    mark(button, "class", "danger")
    mark(button, "aria-label", `Really delete ${name}`)
  })
  button.addEventListener("blur", calm)
  return button
}

function versionsOf(versions) {
  return ["mlx-panel", "mlx", "mlx-lm"].filter((name) => versions[name]).map((name) => `${name} ${versions[name]}`).join(", ")
}

/** Workloads in few words: those that differ in their callers alone are one. */
function measured(labels) {
  const groups = new Map()
  for (const label of labels) {
    const [, callers, what] = label.match(/^(\d+) × (.*)$/) || [null, "", label]
    groups.set(what, [...(groups.get(what) || []), callers].filter(Boolean))
  }
  const lines = [...groups].map(([what, callers]) => [what, callers.length ? `${callers.join(", ")} callers` : ""])
  const more = lines.length > 2 ? [h("small", {}, `and ${lines.length - 2} more kinds`)] : []
  return [...lines.slice(0, 2).map(([what, callers]) => h("div", {}, what, " ", h("small", {}, callers))), ...more]
}

function storedRow(model, one, choose) {
  const name = `${one.models.join(" and ")}, ${stamp.format(new Date(one.created))}`
  const pick = h("button", {type: "button", class: "pick", "aria-label": `Show ${name}`, onclick: () => choose(one.id)})
  const cell = (title, kind, ...children) => h("td", {class: kind, "data-label": title}, ...children)
  const failed = one.failed ? h("span", {class: "chip", "data-tone": "bad"}, `${count(one.failed)} of ${count(one.requests)}`) : "none"
  const node = h("tr", {}, h("td", {class: "picks"}, pick),
    h("th", {scope: "row", class: "model"}, h("div", {class: "id"}, one.models.join(" · ") || NONE), h("small", {}, time(one.created),
      one.complete ? "" : " · interrupted", one.kind === "sweep" ? "" : ` · ${one.kind}`)),
    cell("Measured", "words", ...measured(one.workloads)),
    cell("Best", "number", `${figure(one.best)} tok/s`, h("small", {}, one.best_at ? `at ${one.best_at}` : "")),
    cell("Errors", "number", failed),
    cell("On", "words machine", h("div", {}, one.machine), h("small", {}, versionsOf(one.versions))),
    h("td", {class: "do number"}, h("button", {type: "button", "aria-label": `Download ${name}`,
      onclick: () => model.send_msg({do: "download", id: one.id})}, "Download"), " ", deleteButton(model, one.id, name)))
  const show = () => {
    const place = model.chosen.indexOf(one.id)
    say(pick, "AB"[place] || "")
    mark(pick, "aria-pressed", String(place >= 0))
    mark(pick, "data-letter", "AB"[place] || null)
    mark(pick, "title", place < 0 ? "Show; with another one shown, compare" : "Shown; press to leave it out")
    mark(node, "data-chosen", place < 0 ? null : "")
  }
  return {node, show}
}

/** What is shown after a press: a third one takes the place of the second. */
function toggled(chosen, id) {
  if (chosen.includes(id)) return chosen.filter((one) => one !== id)
  return [...chosen.slice(0, 1), id]
}

function storedPart(model, start) {
  const body = h("tbody")
  const heads = [["Show", "picks"], ["Model", null], ["Measured", null], ["Best", "number"], ["Errors", "number"], ["On", null]]
  const head = h("tr", {}, ...heads.map(([title, kind]) => h("th", {class: kind, scope: "col"}, title)),
    h("th", {}, h("span", {class: "hush"}, "Actions")))
  const table = h("div", {class: "scroll"}, h("table", {}, h("thead", {}, head), body))
  const first = h("button", {type: "button", class: "tonal", onclick: start}, "Start one now")
  const empty = h("div", {class: "empty"}, h("p", {}, "No benchmark has been stored yet: a first sweep takes a minute or two."), first)
  const skipped = h("div", {class: "skipped muted"})
  const node = h("section", {class: "panel stored", "aria-label": "Stored benchmarks", hidden: true},
    h("header", {}, h("h2", {}, "Stored benchmarks"), h("span", {class: "muted"}, "Choose one to see its curves, two to compare them.")),
    table, empty, skipped)
  const choose = (id) => model.send_msg({do: "choose", ids: toggled(model.chosen, id)})
  let known = ""
  let rows = []
  const show = () => {
    const {stored} = model
    node.hidden = stored == null
    if (stored == null) return
    const now = JSON.stringify(stored)
    if (now !== known) { // else a question that was asked in a row would be forgotten
      known = now
      rows = stored.map((one) => storedRow(model, one, choose))
      body.replaceChildren(...rows.map((row) => row.node))
    }
    rows.forEach((row) => row.show())
    table.hidden = stored.length === 0
    empty.hidden = stored.length > 0
    first.disabled = model.job.state === "running"
    skipped.hidden = model.skipped.length === 0
    skipped.replaceChildren(...model.skipped.map((text) => h("div", {}, `Not read: ${text}`)))
  }
  for (const name of ["stored", "chosen"]) model.on(name, show)
  return {node, show}
}

function keepFile({name, text}) {
  const link = h("a", {download: name, href: URL.createObjectURL(new Blob([text], {type: "application/json"}))})
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60000)
}

// --- what is shown of them ------------------------------------------------------------------------------------------

function swatch(colour) {
  return h("i", {class: "swatch", style: `background: ${colour}`})
}

function legend(result, alone) {
  const lines = result.series.map((line) => h("span", {class: "key"}, swatch(line.colour), line.name))
  return h("div", {class: "legend"}, alone ? null : h("b", {class: "letter", "data-letter": result.letter}, result.letter), ...lines,
    ...result.titles.map((text) => h("small", {class: "title"}, text)))
}

/** Whose curves follow, and in which colours. */
function shownPart(model) {
  const legends = h("div", {class: "legends"})
  const swap = h("button", {type: "button", onclick: () => model.send_msg({do: "choose", ids: [...model.chosen].reverse()})}, "Swap A and B")
  const title = h("h2")
  const node = h("section", {class: "panel shown", "aria-label": "Curves", hidden: true}, h("header", {}, title, h("span", {class: "grow"}), swap), legends)
  const show = () => {
    const {results = []} = model.shown
    node.hidden = !results.length
    say(title, results.length === 2 ? "A compared with B" : "Curves")
    swap.hidden = results.length < 2
    legends.replaceChildren(...results.map((result) => legend(result, results.length < 2)))
  }
  model.on("shown", show)
  return {node, show}
}

export function render({model, view}) {
  const form = formPart(model)
  const parts = [form, jobPart(model), storedPart(model, form.press), shownPart(model)]
  const {root, whole} = stage("benchmarks", h("div", {class: "notices"}, noticeLine(model)), ...parts.map((part) => part.node))
  model.on("file", () => keepFile(model.file))
  model.on("news", () => model.send_msg({do: "ask"}))
  parts.forEach((part) => part.show())
  watchEye(model, view, root)
  return whole
}
