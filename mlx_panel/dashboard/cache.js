// What the prefix cache holds, what it saved, and request by request what it found.

const PAUSE = 1000 // milliseconds between two questions for the requests
const FEW = 12 // requests that are shown before somebody asks for all
const PLACES = {memory: ["memory", "good"], disk: ["disk", "busy"], none: ["computed", "calm"]}
const clock = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"})


/** Bytes in the units of the settings: 668 MiB, 1.0 GiB. */
function binary(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"]
  let power = 0
  while (n >= 1023.5 && power < units.length - 1) {
    n /= 1024
    power += 1
  }
  return `${power && n < 9.95 ? n.toFixed(1) : count(Math.round(n))} ${units[power]}`
}

// --- a model --------------------------------------------------------------------------------------------------------

function gauge(title) {
  const fill = h("i")
  const text = h("span", {class: "number"})
  const bar = h("div", {class: "meter", role: "meter", "aria-label": title, "aria-valuemin": 0}, fill)
  const node = h("div", {class: "gauge"}, h("span", {class: "muted"}, title), bar, text)
  return {node, show: (used, budget, blocks) => {
    const off = !budget && !used
    fill.style.width = `${budget ? Math.min(100, (100 * used) / budget) : 0}%`
    mark(bar, "aria-valuemax", budget)
    mark(bar, "aria-valuenow", Math.min(used, budget || used))
    mark(bar, "aria-valuetext", off ? "off" : `${binary(used)} of ${binary(budget)}`)
    say(text, off ? "off" : `${binary(used)} of ${binary(budget)}, ${count(blocks)} block${blocks === 1 ? "" : "s"}`)
  }}
}

const FACTS = [
  ["Prompts found", (c) => (c.lookups ? percent(c.hits / c.lookups) : NONE), (c) => `${count(c.hits)} of ${count(c.lookups)} requests`],
  ["Tokens saved", (c) => (c.tokens_asked ? percent(c.tokens_cached / c.tokens_asked) : NONE),
    (c) => `${count(c.tokens_cached)} of ${count(c.tokens_asked)} prompt tokens`],
  ["KV cache in use", (c) => binary(c.kv_bytes), (c) => (c.kv_dtype ? `stored as ${c.kv_dtype}` : "nothing runs")],
  ["Thrown out", (c) => count(c.evicted), (c) => (c.refused ? `${count(c.refused)} bad blocks on disk` : "blocks, to make room")],
  ["Guessed right", (c) => (c.drafted ? percent(c.accepted / c.drafted) : NONE),
    (c) => (c.drafted ? `${count(c.accepted)} of ${count(c.drafted)} tokens` : "nothing was guessed")],
]

function fact(title, value, about) {
  const number = h("b")
  const small = h("small")
  return {node: h("div", {class: "fact"}, h("span", {class: "muted"}, title), number, small), show: (cache) => {
    say(number, value(cache))
    say(small, about(cache))
  }}
}

/** Clear asks once more in its own place. */
function clearButton(model, id) {
  const button = h("button", {type: "button"})
  let sure = false
  const show = () => {
    const busy = model.busy.includes(id)
    button.disabled = busy
    say(button, busy ? "Clearing…" : sure ? "Really clear?" : "Clear")
    mark(button, "class", sure && !busy ? "danger" : null)
    mark(button, "aria-label", `${sure ? "Really clear" : "Clear"} the prefix cache of ${id}`)
    mark(button, "title", "Memory and disk; the next prompts are computed anew")
  }
  button.addEventListener("click", () => {
    if (sure) model.send_msg({do: "clear", model: id})
    sure = !sure
    show()
  })
  button.addEventListener("blur", () => {
    sure = false
    show()
  })
  return {button, show}
}

function modelBlock(model, id) {
  const memory = gauge("Memory")
  const disk = gauge("Disk")
  const facts = FACTS.map((spec) => fact(...spec))
  const {button, show: showButton} = clearButton(model, id)
  const node = h("article", {class: "block"}, h("div", {class: "title"}, h("h3", {}, id), h("span", {class: "grow"}), button),
    memory.node, disk.node, h("div", {class: "facts"}, ...facts.map((one) => one.node)))
  return {node, show: (cache) => {
    memory.show(cache.bytes, cache.budget, cache.blocks)
    disk.show(cache.disk_bytes, cache.disk_budget, cache.disk_blocks)
    facts.forEach((one) => one.show(cache))
    showButton()
  }}
}

function modelsPart(model) {
  const blocks = new Map()
  const list = h("div", {class: "blocks"})
  const empty = h("div", {class: "empty"}, "No model is in memory. Its cache is shown here once one is.")
  const node = h("section", {class: "panel", "aria-label": "Prefix cache"}, h("header", {}, h("h2", {}, "Prefix cache"),
    h("span", {class: "muted"}, "What a prompt has in common with an earlier one is not computed again.")),
    h("div", {class: "notices"}, noticeLine(model)), list, empty)
  const show = () => {
    if (!model.figures) return
    const figures = JSON.parse(model.figures)
    for (const [id, block] of blocks) {
      if (!figures.some((one) => one.id === id)) {
        block.node.remove()
        blocks.delete(id)
      }
    }
    for (const {id, cache} of figures) {
      if (!blocks.has(id)) {
        blocks.set(id, modelBlock(model, id))
        list.append(blocks.get(id).node)
      }
      blocks.get(id).show(cache)
    }
    empty.hidden = figures.length > 0
  }
  model.on("figures", show)
  model.on("busy", show)
  return {node, show}
}

// --- rules ----------------------------------------------------------------------------------------------------------

function rulesPart(model) {
  const list = h("div", {class: "rules"})
  const node = h("section", {class: "panel", "aria-label": "Lines that change", hidden: true}, h("header", {}, h("h2", {}, "Lines that change"),
    h("span", {class: "muted"}, "Agents write them anew into each request, and all after them is computed again. Leave them out; the next request shows the effect.")), list)
  const rows = new Map()
  const show = () => {
    node.hidden = !model.rules.length
    for (const rule of model.rules) {
      if (!rows.has(rule.name)) {
        const input = h("input", {type: "checkbox", role: "switch", onchange: () => model.send_msg({do: "rule", name: rule.name, on: input.checked})})
        const used = h("small", {class: "used"})
        list.append(h("label", {class: "rule"}, input, h("span", {}, h("code", {}, rule.name), h("small", {}, rule.description), used)))
        rows.set(rule.name, {input, used})
      }
      const {input, used} = rows.get(rule.name)
      input.checked = rule.enabled
      input.disabled = model.busy.includes(rule.name)
      say(used, rule.stripped ? `${count(rule.stripped)} line${rule.stripped === 1 ? "" : "s"} left out since the start` : "")
    }
  }
  model.on("rules", show)
  model.on("busy", show)
  return {node, show}
}

// --- requests -------------------------------------------------------------------------------------------------------

/** What would have helped, with its switch; one that is on by now needs no word. */
function hint(model, name) {
  const rule = model.rules.find((one) => one.name === name)
  if (!rule || rule.enabled) return null
  return h("button", {type: "button", class: "tonal hint", title: rule.description,
    onclick: () => model.send_msg({do: "rule", name, on: true})}, `Leave out: ${name}`)
}

function recordRow(model, one) {
  const {report} = one
  const share = report.prompt_tokens ? report.cached_tokens / report.prompt_tokens : 0
  const [place, tone] = PLACES[report.tier] || [report.tier, "calm"]
  const hints = one.helpful.map((name) => hint(model, name)).filter(Boolean)
  return h("tr", {}, h("td", {class: "when"}, h("time", {title: new Date(one.time * 1000).toISOString()}, clock.format(new Date(one.time * 1000)))),
    h("td", {}, h("code", {title: one.request_id}, one.request_id.length > 12 ? `${one.request_id.slice(0, 11)}…` : one.request_id)),
    h("td", {}, h("span", {class: "clip", title: one.model}, one.model)),
    h("td", {class: "number reused"}, `${count(report.cached_tokens)} of ${count(report.prompt_tokens)}`,
      h("div", {class: "meter small", "aria-hidden": "true"}, h("i", {style: `width: ${100 * share}%`}))),
    h("td", {}, h("span", {class: "chip", "data-tone": tone}, place)),
    h("td", {class: "text"}, one.text, hints.length ? h("div", {class: "hints"}, ...hints) : null))
}

function requestsPart(model) {
  let all = false
  const button = h("button", {class: "quiet", type: "button", onclick: () => {
    all = !all
    show()
  }})
  const more = h("footer", {class: "fold", hidden: true}, button)
  const body = h("tbody")
  const heads = [["Time"], ["Request"], ["Model"], ["Reused", "number"], ["From"], ["What that means"]]
  const table = h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Requests and the cache"}, h("table", {},
    h("thead", {}, h("tr", {}, ...heads.map(([title, kind]) => h("th", {scope: "col", class: kind}, title)))), body))
  const empty = h("div", {class: "empty"}, "No request has asked the cache yet.")
  const node = h("section", {class: "panel requests", "aria-label": "Requests"}, h("header", {}, h("h2", {}, "Request by request"),
    h("span", {class: "muted"}, "The latest, kept in memory alone; never their text.")), table, more, empty)
  const show = () => {
    const records = model.records || []
    body.replaceChildren(...records.slice(0, all ? records.length : FEW).map((one) => recordRow(model, one)))
    more.hidden = records.length <= FEW
    mark(button, "aria-expanded", String(all))
    say(button, all ? "Show fewer requests" : `Show the last ${records.length} requests`)
    table.hidden = !records.length
    empty.hidden = records.length > 0
    if (model.records == null) say(empty, "Asking the server…")
    else say(empty, "No request has asked the cache yet.")
  }
  model.on("records", show)
  model.on("rules", show)
  return {node, show}
}

/** Ask again when requests were answered: at most once a second, and only where it would be seen. */
function asker(model, root) {
  let last = 0
  let timer = null
  const send = () => {
    last = performance.now()
    timer = null
    model.send_msg({do: "ask"})
  }
  model.on("written", () => {
    if (timer || document.hidden || !root.getClientRects().length) return
    timer = setTimeout(send, Math.max(0, PAUSE - (performance.now() - last)))
  })
}

export function render({model, view}) {
  const parts = [modelsPart(model), rulesPart(model), requestsPart(model)]
  const {root, whole} = stage("cache", ...parts.map((part) => part.node))
  parts.forEach((part) => part.show())
  asker(model, root)
  watchEye(model, view, root)
  return whole
}
