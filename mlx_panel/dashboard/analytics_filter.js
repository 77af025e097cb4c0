// The filter of the audit's charts: as pairs of names and values, in the address, as chips, and as a bar to set it with.

const NAMED = ["model", "caller", "status", "endpoint", "backend", "error", "preset"]
const SINGLE_ORDER = ["text", "range", "since", "until", "scope"]
const USUAL_RANGE = "24h"
const OWN_NAMES = ["page", "theme"] // of the address, but not of the filter

/** Names and values of the address, and the charts' options, which are written `chart.option`. */
function fromAddress() {
  const pairs = [], options = {}
  for (const [name, value] of new URLSearchParams(location.search)) {
    const [chart, option] = name.split(".")
    if (OWN_NAMES.includes(name) || name.startsWith("bokeh-")) continue
    if (option) (options[chart] ||= {})[option] = value
    else pairs.push([name, value])
  }
  return {pairs, options}
}

function toAddress(pairs, options, usual) {
  const given = new URLSearchParams(location.search)
  const query = new URLSearchParams()
  for (const [name, value] of given) if (OWN_NAMES.includes(name)) query.append(name, value)
  const plain = timeOf(pairs).range === USUAL_RANGE
  for (const [name, value] of pairs) if (!(plain && name === "range")) query.append(name, value)
  for (const [chart, chosen] of Object.entries(options)) {
    for (const [option, value] of Object.entries(chosen)) if (value !== usual(chart, option)) query.append(`${chart}.${option}`, value)
  }
  const text = query.toString()
  return `${location.pathname}${text ? `?${text}` : ""}${location.hash}`
}

const one = (pairs, name) => pairs.find(([key]) => key === name)?.[1]
const all = (pairs, name) => pairs.filter(([key]) => key === name).map(([, value]) => value)
const without = (pairs, ...names) => pairs.filter(([name]) => !names.includes(name))

/** The time of a filter; what is no moment is none, until Python has said so. */
function timeOf(pairs) {
  const [since, until] = ["since", "until"].map((name) => one(pairs, name)).map((text) => (Number.isNaN(Date.parse(text)) ? undefined : text))
  return {since, until, range: since || until ? "" : one(pairs, "range") || USUAL_RANGE}
}

/** The pairs as Python writes them. */
function ordered(pairs) {
  const place = ([name]) => [...NAMED, ...SINGLE_ORDER].indexOf(name)
  const found = [...pairs].sort((a, b) => place(a) - place(b))
  return timeOf(found).range && !one(found, "range") ? ordered([...found, ["range", USUAL_RANGE]]) : found
}

/** The pairs after a value of a field was chosen: it alone, or with others; chosen again it is taken back. */
function toggled(pairs, field, value, add) {
  const known = all(pairs, field), there = known.includes(value)
  const next = there && (add || known.length === 1) ? known.filter((other) => other !== value) : add ? [...known, value] : [value]
  return [...without(pairs, field), ...next.map((other) => [field, other])]
}

function withTime(pairs, {range, since, until}) {
  const kept = without(pairs, "range", "since", "until")
  const iso = (ms) => new Date(ms).toISOString().replace(".000Z", "Z")
  if (range) return [...kept, ["range", range]]
  return [...kept, ...(since == null ? [] : [["since", iso(since)]]), ...(until == null ? [] : [["until", iso(until)]])]
}

function spanWords({since, until}) {
  if (since && until) return between(Date.parse(since), Date.parse(until))
  return since ? `since ${dayTime.format(new Date(since))}` : `until ${dayTime.format(new Date(until))}`
}

/** Which values of a field are let through: a list to tick, the largest first. */
function fieldMenu(page, name) {
  const list = h("div", {class: "ticks"}), waiting = h("p", {class: "muted"}, "Asking the server…")
  const part = name === "model" ? h("input", {type: "search", placeholder: "Part of a name, then Enter", "aria-label": "Part of a model's name"}) : null
  part?.addEventListener("change", () => page.change([...without(page.pairs, "text"), ...(part.value.trim() ? [["text", part.value.trim()]] : [])]))
  const {box, summary} = popover(FIELD_WORDS[name], h("div", {}, part, waiting, list), (open) => { if (open) page.ask({do: "choices", field: name}) })
  const tick = (value, number) => h("label", {}, h("input", {type: "checkbox", checked: all(page.pairs, name).includes(value),
    onchange: () => page.change(toggled(page.pairs, name, value, true))}), h("span", {class: "clip", title: value}, value), h("small", {}, number == null ? "" : count(number)))
  const show = () => {
    const chosen = all(page.pairs, name), known = page.model.choices[name]
    summary.replaceChildren(FIELD_WORDS[name], ...(chosen.length ? [h("b", {}, String(chosen.length))] : []))
    mark(box, "data-on", chosen.length > 0)
    waiting.hidden = Boolean(known)
    if (part && part !== part.getRootNode().activeElement) part.value = one(page.pairs, "text") || ""
    if (!known) return
    const missing = chosen.filter((value) => !known.some(([other]) => other === value)).map((value) => [value, 0])
    const focused = list.contains(list.getRootNode().activeElement) ? [...list.querySelectorAll("input")].indexOf(list.getRootNode().activeElement) : -1
    list.replaceChildren(...[...missing, ...known].map(([value, number]) => tick(value, number)))
    if (focused >= 0) list.querySelectorAll("input")[focused]?.focus()
    if (!list.childElementCount) list.append(h("p", {class: "muted"}, "None in this time."))
  }
  return {node: box, show}
}

const inputTime = (ms) => (ms == null ? "" : new Date(localised(ms)).toISOString().slice(0, 16))

/** From and to, in local time. */
function customTime(page) {
  const from = h("input", {type: "datetime-local", "aria-label": "From"}), to = h("input", {type: "datetime-local", "aria-label": "To"})
  const wrong = h("p", {class: "wrong", role: "alert", hidden: true}, "“To” is later than “From”.")
  const moment = (input) => (input.value ? new Date(input.value).getTime() : null)
  const apply = (event) => {
    event.preventDefault()
    const since = moment(from), until = moment(to)
    wrong.hidden = since == null || until == null || since < until
    if (!wrong.hidden || (since == null && until == null)) return
    menu.close()
    page.change(withTime(page.pairs, {since, until}))
  }
  const form = h("form", {class: "custom", onsubmit: apply}, h("label", {}, "From", from), h("label", {}, "To", to), wrong,
    h("button", {type: "submit", class: "main"}, "Show"))
  const menu = popover("Custom time", form, (open) => {
    if (!open) return
    const {since, until} = page.bounds()
    from.value = inputTime(since)
    to.value = inputTime(until)
  })
  menu.summary.textContent = "Custom"
  return menu
}

function ranges(page) {
  const buttons = Object.keys(RANGE_WORDS).map((range) => h("button", {type: "button", title: RANGE_WORDS[range], "aria-label": RANGE_WORDS[range], "data-range": range,
    onclick: () => page.change(withTime(page.pairs, {range}))}, RANGE_SHORT[range]))
  const custom = customTime(page)
  const show = () => {
    const {range} = timeOf(page.pairs)
    for (const button of buttons) mark(button, "aria-pressed", String(button.dataset.range === range))
    mark(custom.box, "data-on", !range)
  }
  return {node: h("div", {class: "ranges", role: "group", "aria-label": "Time"}, ...buttons, custom.box), show}
}

/** What is filtered by, each with a way to take it back. */
function chips(page) {
  const node = h("div", {class: "chips", role: "group", "aria-label": "Active filters"})
  const removable = (words, next) => h("button", {type: "button", class: "filter-chip", "aria-label": `Remove ${words}`, title: "Remove",
    onclick: () => page.change(next())}, words, h("span", {"aria-hidden": "true"}, "✕"))
  const show = () => {
    const {pairs} = page, found = []
    const time = timeOf(pairs)
    if (!time.range) found.push(removable(`Time: ${spanWords(time)}`, () => withTime(page.pairs, {range: USUAL_RANGE})))
    for (const [name, value] of pairs) {
      if (name === "text") found.push(removable(`Name has “${value}”`, () => without(page.pairs, "text")))
      if (NAMED.includes(name)) found.push(removable(`${FIELD_WORDS[name]}: ${value}`, () => page.pairs.filter((pair) => pair[0] !== name || pair[1] !== value)))
    }
    if (found.length) found.push(h("button", {type: "button", class: "quiet", onclick: () => page.change(withTime(pairs.filter(([name]) => name === "scope"), {range: time.range || USUAL_RANGE}))}, "Clear all"))
    node.replaceChildren(...found)
    node.hidden = !found.length
  }
  return {node, show}
}

/** What of the address could not be used. */
function problemsLine(model) {
  const node = h("div", {class: "banner", role: "alert", hidden: true})
  const show = () => {
    node.hidden = !model.problems.length
    node.replaceChildren(h("span", {class: "text"}, `Some of this address was left out: ${model.problems.join(" ")}`),
      h("button", {type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => { node.hidden = true }}, "✕"))
  }
  return {node, show}
}

function scopeChoice(page) {
  const select = h("select", {"aria-label": "Which requests", onchange: () => page.change([...without(page.pairs, "scope"), ...(select.value === "model" ? [] : [["scope", select.value]])])},
    h("option", {value: "model"}, "Model requests"), h("option", {value: "all"}, "All API requests"))
  return {node: select, show: () => { select.value = one(page.pairs, "scope") || "model" }}
}

/** Whether new rows are followed; a range that does not end now has nothing to follow. */
function follower(page) {
  const button = h("button", {type: "button", class: "follow", onclick: () => page.pause(!page.paused)})
  const show = () => {
    const still = Boolean(timeOf(page.pairs).until)
    button.disabled = still
    mark(button, "aria-pressed", String(!page.paused && !still))
    say(button, still ? "Fixed time" : page.paused ? "Paused" : "Live")
    button.title = still ? "This time is over: nothing new comes." : page.paused ? "Follow new requests" : "Stop following new requests"
  }
  return {node: button, show}
}

function filterBar(page) {
  const parts = [ranges(page), ...NAMED.map((name) => fieldMenu(page, name)), scopeChoice(page), follower(page)]
  const [time, ...rest] = parts
  const live = rest.pop(), scope = rest.pop()
  const node = h("div", {class: "bar", role: "search", "aria-label": "Filter"}, time.node, h("div", {class: "fields"}, ...rest.map((part) => part.node), scope.node),
    h("span", {class: "grow"}), live.node)
  return {node, show: () => parts.forEach((part) => part.show())}
}
