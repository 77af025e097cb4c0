// The presets of a server, a card each, and the editor that takes their place.

const STATES = {
  available: ["Stopped", "calm"], loading: ["Loading", "busy"], ready: ["Running", "good"],
  stopping: ["Stopping", "warn"], failed: ["Failed", "bad"],
}
const MANY = 8 // presets from which on there is a field to look for one

// --- what is said of a preset -----------------------------------------------------------------------------------------

const SAID = {
  temperature: "temperature", top_p: "top p", top_k: "top k", min_p: "min p", repetition_penalty: "repetition penalty", presence_penalty: "presence penalty",
  frequency_penalty: "frequency penalty", max_tokens: "longest answer", seed: "seed",
}

/** What a preset has that is not as by default, a few words each. */
function differences(p) {
  const found = []
  if (p.system_prompt) found.push(`system prompt, ${count(p.system_prompt.length)} characters`)
  for (const [name, words] of Object.entries(SAID)) if (p.sampling && p.sampling[name] != null) found.push(`${words} ${p.sampling[name]}`)
  if (p.sampling && p.sampling.stop) found.push(`${p.sampling.stop.length} stop string${p.sampling.stop.length === 1 ? "" : "s"}`)
  if (p.thinking != null) found.push(p.thinking ? "reasoning on" : "reasoning off")
  for (const [name, value] of Object.entries(p.template || {})) found.push(`${name} = ${value.length > 24 ? `${value.slice(0, 23)}…` : value}`)
  if (p.tools) found.push(`tools: ${p.tools}`)
  if (p.reasoning) found.push(`reasoning: ${p.reasoning}`)
  if (p.context_length) found.push(`context ${count(p.context_length)}`)
  if (p.kv_bits != null) found.push(p.kv_bits ? `KV cache ${p.kv_bits} bits` : "KV cache not quantised")
  if (p.kv_group_size != null) found.push(`KV groups of ${p.kv_group_size}`)
  if (p.auto_start) found.push("loaded with the server")
  if (p.pinned) found.push("kept in memory")
  if (p.priority === "low") found.push("low priority")
  for (const [name, value] of Object.entries(p.timeouts || {})) found.push(`${name} at most ${span(value)}`)
  return found
}

/** Where the API is, seen from this page. */
function apiAddress(model) {
  if (model.url) return model.url
  const shared = new URLSearchParams(location.search).has("page") // one address serves all pages, see `menu.js`
  return `${location.origin}${location.pathname.replace(shared ? /\/[^/]*$/ : /\/(presets)?\/?$/, "")}`
}

function curlLine(p, kind, model) {
  const [path, body] = kind === "embedding" ? ["embeddings", {model: p.name, input: "Hello!"}]
    : ["chat/completions", {model: p.name, messages: [{role: "user", content: "Hello!"}]}]
  return `curl ${apiAddress(model)}/v1/${path} -H 'Content-Type: application/json' -d '${JSON.stringify(body)}'`
}

function freeName(name, presets) {
  const taken = new Set(presets.map((one) => one.name))
  let copy = `${name} copy`
  for (let number = 2; taken.has(copy); number += 1) copy = `${name} copy ${number}`
  return copy
}

// --- a card -----------------------------------------------------------------------------------------------------------

function copyButton(read) {
  const button = h("button", {type: "button", class: "quiet"}, "Copy")
  button.addEventListener("click", () => copyText(read()).then(() => {
    say(button, "Copied")
    setTimeout(() => say(button, "Copy"), 1500)
  }, () => say(button, "Could not copy")))
  return button
}

/** Buttons that are seldom needed, behind one. */
function more(name, entries) {
  const menu = h("div", {class: "menu", role: "group"}, ...entries.map(([text, act, kind]) => h("button", {type: "button", class: `quiet ${kind || ""}`, "aria-label": `${text} ${name}`,
    onclick: () => { node.open = false; act() }}, text)))
  const node = h("details", {class: "more"}, h("summary", {"aria-label": `More for ${name}`, title: "More"}, "⋯"), menu)
  node.addEventListener("focusout", (event) => { if (!node.contains(event.relatedTarget)) node.open = false })
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !node.open) return
    event.preventDefault()
    node.open = false
    node.firstChild.focus()
  })
  return node
}

/** What a card's first button does now, and whether it can be started again. */
function runAction(live, busy) {
  if (!live) return ["Start", null]
  if (busy || live.state === "loading" || live.state === "stopping") return [live.state === "ready" || live.state === "stopping" ? "Stopping…" : "Starting…", null]
  if (live.state === "ready") return ["Stop", "stop"]
  return [live.state === "failed" ? "Try again" : "Start", "start"]
}

function liveWords(live, others) {
  if (!live) return "Its model is not on this machine."
  const words = []
  if (live.state === "ready") words.push(`${count(live.running)} running${live.queued ? `, ${count(live.queued)} waiting` : ""}`)
  if (live.memory) words.push(bytes(live.memory))
  if (others.length) words.push(`shares its process with ${others.join(", ")}`)
  if (live.pending && live.pending.length) words.push(`${live.pending.join(", ")} hold from its next load on`)
  return words.join(" · ")
}

/** A question in a card, with an answer that does it and one that does not. */
function asking() {
  const text = h("span", {class: "text"})
  const yes = h("button", {type: "button", class: "danger"})
  const no = h("button", {type: "button"}, "Cancel")
  const node = h("div", {class: "banner", role: "group", hidden: true}, text, yes, no)
  let back = null
  const close = () => {
    node.hidden = true
    if (back) back.focus()
  }
  const open = (words, label, act, from) => {
    back = from
    say(text, words)
    say(yes, label)
    yes.onclick = () => { close(); act() }
    node.hidden = false
    yes.focus()
  }
  no.addEventListener("click", close)
  node.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.preventDefault(); close() } })
  return {node, open, close}
}

function presetCard(first, model, actions) {
  const chip = h("span", {class: "chip"})
  const modelName = h("code", {class: "of"})
  const about = h("p", {class: "about"})
  const now = h("p", {class: "muted now"})
  const reason = h("p", {class: "reason"})
  const chips = h("ul", {class: "diffs", "aria-label": "What is not as by default"})
  const run = h("button", {type: "button"})
  const again = h("button", {type: "button", "aria-label": `Restart ${first.id}`, onclick: () => actions.send("restart", first.id)}, "Restart")
  const edit = h("button", {type: "button", "aria-label": `Edit ${first.id}`, onclick: () => actions.edit(first.id)}, "Edit")
  const line = h("code", {class: "line", tabindex: "0", "aria-label": `How to ask ${first.id}`})
  const question = asking()
  const menu = more(first.id, [["Duplicate", () => actions.duplicate(first.id)], ["Export", () => actions.send("export", first.id)],
    ["Delete", () => question.open(`Delete ${first.id}? Requests that name it will be refused.`, "Delete", () => actions.send("delete", first.id), menu.firstChild), "bad"]])
  const node = h("article", {class: "panel preset", "aria-label": first.id}, h("header", {}, h("h3", {}, first.id), chip, h("span", {class: "grow"}), menu), modelName, about, chips, now, reason,
    h("details", {class: "call"}, h("summary", {}, "Ask it with curl"), h("div", {class: "curl"}, line, copyButton(() => line.textContent))), question.node,
    h("footer", {}, run, again, h("span", {class: "grow"}), edit))
  let does = null
  let leaving = []
  run.addEventListener("click", () => {
    if (does === "start" && leaving.length) question.open(`Starting it unloads ${leaving.join(", ")}.`, "Unload and start", () => actions.send("start", first.id), run)
    else if (does) actions.send(does, first.id)
  })
  const show = (p, live, others, busy) => {
    const [text, tone] = live ? STATES[live.state] || [live.state, "calm"] : ["No model", "warn"]
    say(chip, text)
    mark(chip, "data-tone", tone)
    say(modelName, p.model)
    say(about, p.description || "")
    say(now, liveWords(live, others))
    say(reason, live && live.state === "failed" ? live.reason : "")
    say(line, curlLine(p, live && live.kind, model))
    const diffs = differences(p)
    if (chips.dataset.known !== JSON.stringify(diffs)) {
      chips.dataset.known = JSON.stringify(diffs)
      chips.replaceChildren(...(diffs.length ? diffs.map((one) => h("li", {}, one)) : [h("li", {class: "none"}, "all as by default")]))
    }
    const [label, action] = runAction(live, busy)
    does = action
    leaving = (live && live.evicts) || []
    say(run, label)
    mark(run, "aria-label", `${label} ${p.name}`)
    run.disabled = !action
    run.classList.toggle("tonal", action === "start")
    again.hidden = !live || live.state !== "ready" || busy
  }
  const block = (blocked) => question.open(blocked.text, blocked.what === "stop" ? "Stop anyway" : "Restart anyway", () => actions.send(blocked.what, first.id, {force: true}), run)
  return {node, show, block, focus: () => edit.focus()}
}

function keepCards(cards, presets, parent, make) {
  const wanted = new Set(presets.map((one) => one.name))
  for (const [name, card] of cards) {
    if (wanted.has(name)) continue
    card.node.remove()
    cards.delete(name)
  }
  presets.forEach((one, index) => {
    if (!cards.has(one.name)) cards.set(one.name, make({id: one.name}))
    const node = cards.get(one.name).node
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] || null)
  })
}

// --- files --------------------------------------------------------------------------------------------------------------

function saveFile(file) {
  const link = h("a", {href: URL.createObjectURL(new Blob([file.text], {type: "application/toml"})), download: file.name})
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}

/** Import: a file is chosen and sent; where names are taken, it can be sent again to replace them. */
function importer(model) {
  let text = ""
  const input = h("input", {type: "file", accept: ".toml,application/toml,text/plain", class: "hush", tabindex: "-1", "aria-label": "File to import"})
  const button = h("button", {type: "button", onclick: () => input.click()}, "Import")
  const question = asking()
  input.addEventListener("change", async () => {
    const file = input.files[0]
    if (!file) return
    text = await file.text()
    input.value = ""
    question.node.hidden = true
    model.send_msg({do: "import", toml: text, replace: false})
  })
  const refused = (notice) => {
    if (!text || !notice.text || !(notice.field === "name" || notice.field === "aliases")) return
    const again = text
    question.open(`${notice.text} Nothing was imported.`, "Replace what is there", () => model.send_msg({do: "import", toml: again, replace: true}), button)
    text = ""
  }
  return {input, button, question: question.node, refused, done: () => { text = "" }}
}

// --- the whole ------------------------------------------------------------------------------------------------------------

const DONE = {save: "Saved", undo: "Restored", duplicate: "Made", import: "Imported"}

/** What was done last; what was deleted can be had back from here. */
function doneLine(model) {
  const text = h("span", {class: "text"})
  const undo = h("button", {type: "button", onclick: () => model.send_msg({do: "undo"})}, "Undo")
  const close = h("button", {type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => { node.hidden = true }}, "✕")
  const node = h("div", {class: "banner good", role: "status", hidden: true}, text, undo, close)
  const show = () => {
    const {what, name} = model.done
    node.hidden = !what
    undo.hidden = what !== "delete" || !model.deleted
    say(text, what === "delete" ? `Deleted ${name}.` : what === "import" && !name ? "Imported; it held no preset." : `${DONE[what]} ${name}. It holds for the next request.`)
  }
  return {node, show}
}

function listPart(model, edit) {
  const cards = new Map()
  let asked = ""
  const grid = h("div", {class: "grid"})
  const empty = h("div", {class: "empty"}, "Asking the server…")
  const seek = h("input", {type: "search", placeholder: "Name, model or description", "aria-label": "Look for a preset", hidden: true, oninput: () => { asked = seek.value.toLowerCase(); show() }})
  const total = h("span", {class: "muted"})
  const file = importer(model)
  const made = h("button", {type: "button", class: "main", onclick: () => edit({}, "")}, "New preset")
  const all = h("button", {type: "button", "aria-label": "Export all presets and aliases", onclick: () => send("export", "")}, "Export all")
  const done = doneLine(model)
  const node = h("div", {class: "list"}, h("section", {class: "panel head-panel", "aria-label": "Presets"},
    h("header", {}, h("h2", {}, "Presets"), total, h("span", {class: "grow"}), seek, file.input, file.button, all, made), file.question, empty), done.node, grid)
  const send = (what, name, extra = {}) => model.send_msg({do: what, name, ...extra})
  const known = () => (model.presets ? JSON.parse(model.presets) : [])
  const actions = {send, edit: (name) => edit(known().find((one) => one.name === name), name), duplicate: (name) => send("duplicate", name, {copy: freeName(name, known())})}
  const show = () => {
    if (!model.presets) return
    const presets = known()
    const live = new Map(JSON.parse(model.live).map((one) => [one.id, one]))
    const shown = presets.filter((one) => `${one.name} ${one.model} ${one.description || ""}`.toLowerCase().includes(asked))
    keepCards(cards, shown, grid, (one) => presetCard(one, model, actions))
    for (const one of shown) {
      const others = presets.filter((other) => other.model === one.model && other.name !== one.name).map((other) => other.name)
      cards.get(one.name).show(one, live.get(one.model), others, model.starting.includes(one.name))
    }
    const running = presets.filter((one) => (live.get(one.model) || {}).state === "ready").length
    say(total, presets.length ? `${running} of ${presets.length} running` : "")
    seek.hidden = presets.length < MANY && !asked
    all.hidden = !presets.length
    empty.hidden = shown.length > 0
    say(empty, presets.length ? "No preset matches." : "A preset is a model and a way of using it under a name of its own: system prompt, sampling, limits. Clients use it like a model.")
  }
  return {node, show, known, file, done, cards, made}
}

/** What Python says and the page shows. */
function follow(model, list, editor, close) {
  model.on("news", () => model.send_msg({do: "ask"}))
  model.on("presets", () => {
    list.show()
    const now = list.known().find((one) => one.name === editor.name())
    if (editor.isOpen() && editor.name()) editor.elsewhere.hidden = !editor.moved(now)
  })
  for (const what of ["live", "starting"]) model.on(what, () => { list.show(); if (editor.isOpen()) editor.live() })
  model.on("spec", editor.freshen)
  model.on("about", editor.about)
  model.on("busy", editor.enable)
  model.on("deleted", list.done.show)
  model.on("file", () => model.file.text && saveFile(model.file))
  model.on("blocked", () => model.blocked.name && list.cards.get(model.blocked.name)?.block(model.blocked))
  model.on("notice", () => {
    if (editor.isOpen()) editor.refused(model.notice)
    else list.file.refused(model.notice)
  })
  model.on("done", () => {
    if (model.done.what === "save" && editor.isOpen()) close(model.done.name)
    list.file.done()
    list.done.show()
  })
}

/** The model for which a link of another page wants a new preset (`?new=…`). It is asked for once. */
function askedFor() {
  const here = new URL(location.href)
  const model = here.searchParams.get("new")
  if (model) {
    here.searchParams.delete("new")
    history.replaceState(history.state, "", here)
  }
  return model
}

export function render({model, view}) {
  const edit = (preset, name) => {
    list.node.hidden = true
    editor.node.hidden = false
    editor.open(preset, name)
    editor.title.focus()
    root.scrollIntoView({block: "nearest"})
  }
  const close = (name) => {
    editor.node.hidden = true
    list.node.hidden = false
    const card = list.cards.get(name || editor.name())
    card ? card.focus() : list.made.focus()
  }
  const list = listPart(model, edit)
  const editor = presetEditor(model, close)
  const {root, whole} = stage("presets", h("div", {class: "notices"}, noticeLine(model)), list.node, editor.node)
  follow(model, list, editor, close)
  const guard = (event) => { if (editor.isOpen() && editor.dirty()) event.preventDefault() }
  addEventListener("beforeunload", guard)
  model.on("lifecycle:remove", () => removeEventListener("beforeunload", guard))
  const wanted = askedFor()
  if (wanted) edit({model: wanted}, "")
  list.show()
  watchEye(model, view, root)
  return whole
}
