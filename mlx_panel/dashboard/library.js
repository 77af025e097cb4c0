// Two views of one panel, and below the hub's how this server stands to it.

const VIEWS = [["local", "On this machine"], ["hub", "On the hub"]]
const SAID = 8000 // milliseconds a word of success stays

/** A line for what was done; it goes by itself. */
function saidLine() {
  const node = h("div", {class: "said", role: "status", hidden: true})
  let timer = 0
  return {node, show: (text) => {
    clearTimeout(timer)
    node.hidden = !text
    say(node, text)
    if (text) timer = setTimeout(() => { node.hidden = true }, SAID)
  }}
}

function faultNotice() {
  const text = h("span", {class: "text"})
  const close = h("button", {class: "quiet", type: "button", "aria-label": "Dismiss"}, "✕")
  const node = h("div", {class: "notice", role: "alert", hidden: true}, text, close)
  close.addEventListener("click", () => { node.hidden = true })
  return {node, show: (words) => {
    node.hidden = !words
    say(text, words)
  }}
}

/** The two views' names; arrow keys move from one to the other. */
function tabs(choose) {
  const tab = (name, title) => h("button", {type: "button", role: "tab", onclick: () => choose(name)}, title, " ", h("span", {class: "tally"}))
  const buttons = new Map(VIEWS.map(([name, title]) => [name, tab(name, title)]))
  const node = h("div", {class: "tabs", role: "tablist", "aria-label": "Models"}, ...buttons.values())
  node.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return
    const other = [...buttons.keys()].find((name) => buttons.get(name).getAttribute("aria-selected") !== "true")
    choose(other)
    buttons.get(other).focus()
  })
  const show = (view, tally) => {
    for (const [name, button] of buttons) {
      mark(button, "aria-selected", String(name === view))
      mark(button, "tabindex", name === view ? 0 : -1)
    }
    say(buttons.get("local").lastChild, tally)
  }
  return {node, show}
}

/** Where the page of the presets is told to begin a new one; empty where there is no such page. */
function presetLink(linked, id) {
  const wish = `new=${encodeURIComponent(id)}`
  if (linked === "query") return `${location.pathname}?page=presets&${wish}`
  return linked === "paths" ? `${location.pathname.replace(/\/models\/?$/, "")}/presets?${wish}` : ""
}

export function render({model, view}) {
  const fault = faultNotice(), said = saidLine()
  const box = h("section", {class: "panel", "aria-label": "Models"})
  const {root, whole} = stage("library", box)
  const tell = (reply) => {
    fault.show(reply.error)
    if (!reply.error && reply.text) said.show(reply.text)
  }
  const ask = asking(model)
  const kept = {}
  const parsed = (name) => { // each text is read once, however often it is looked at
    if (kept[name]?.text !== model[name]) kept[name] = {text: model[name], value: JSON.parse(model[name] || "[]")}
    return kept[name].value
  }
  const locals = () => parsed("local")
  const page = {
    root, ask, tell,
    answer: (name, reply) => {
      const found = JSON.parse(model[name] || "{}")
      return !reply.error && found.ticket === reply.ticket ? found : null
    },
    begin: async (name, id) => tell(await ask(name, {what: id})),
    locals,
    states: () => parsed("states"),
    fetched: () => parsed("downloads"),
    hub: () => model.hub,
    known: () => Boolean(model.local),
    isLocal: (id) => locals().some((one) => one.id === id && one.complete),
    presetLink: (id) => presetLink(model.linked, id),
    go: (name) => choose(name),
  }
  const parts = {local: localPart(model, page), hub: hubPart(model, page)}
  const token = tokenCard(model, page)
  let current = ""
  const choose = (name) => {
    current = name
    if (name === "local") keepInAddress(model.linked, "local", {})
    else parts.hub.open()
    show()
  }
  const heads = tabs(choose)
  box.append(h("header", {}, heads.node), h("div", {class: "notices"}, fault.node, noticeLine(model)), said.node, parts.local.node, parts.hub.node)
  root.append(token.node)
  const show = () => {
    heads.show(current, model.local ? String(locals().length) : "")
    for (const [name, part] of Object.entries(parts)) part.node.hidden = name !== current
    token.show()
    token.node.hidden = current !== "hub" || !model.hub.endpoint
    parts[current].show()
  }
  model.on("local", show)
  model.on("hub", show)
  model.on("news", () => model.send_msg({do: "ask"}))
  const asked = model.linked ? new URLSearchParams(location.search).get("view") : ""
  watchEye(model, view, root)
  setTimeout(() => choose(asked === "hub" ? "hub" : "local"))
  return whole
}
