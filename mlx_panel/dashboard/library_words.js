// What downloads and library have in common: words for people, lists whose rows stay, dialogs, menus and questions.

const CAPABILITIES = {
  text: ["Text", "Writes and chats"], embedding: ["Embeddings", "Turns text into vectors"],
  tools: ["Tools", "Calls functions it is given"], reasoning: ["Reasoning", "Thinks before it answers"],
  vision: ["Vision", "Takes images; this server gives it text only"], audio: ["Audio", "Takes sound; this server gives it text only"],
}
const JUST_NOW = 45 // seconds

/** How long ago a Unix time was: just now, 5 min ago, 3 h ago, yesterday, a date. */
function ago(time) {
  if (!time) return NONE
  const seconds = Date.now() / 1000 - time
  if (seconds < JUST_NOW) return "just now"
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`
  if (seconds < 30 * 86400) return `${Math.round(seconds / 86400)} d ago`
  return new Date(time * 1000).toLocaleDateString(undefined, {year: "numeric", month: "short", day: "numeric"})
}

/** A time that says how long ago it was, and when exactly where the pointer rests. */
function moment(time) {
  return time ? h("time", {datetime: new Date(time * 1000).toISOString(), title: new Date(time * 1000).toLocaleString()}, ago(time))
    : h("span", {}, NONE)
}

/** Large counts in few signs: 940, 12k, 3.4M. */
function short(n) {
  if (n == null) return NONE
  if (n < 1000) return String(n)
  const [value, unit] = n < 999500 ? [n / 1000, "k"] : [n / 1e6, "M"]
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)}${unit}`
}

function parameterCount(n) {
  if (!n) return ""
  if (n >= 9.95e9) return `${Math.round(n / 1e9)}B`
  return n >= 1e9 ? `${(n / 1e9).toFixed(1)}B` : `${Math.max(1, Math.round(n / 1e6))}M`
}

function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`
}

function chip(text, tone, title) {
  return h("span", {class: "chip", "data-tone": tone, title}, text)
}

/** Badges of what a model can do; `tried` are known from real generations, the others from its files. */
function badges(kinds, tried = false) {
  const how = tried ? "tried with real generations" : "read from its files"
  return h("span", {class: "badges"}, ...kinds.filter((kind) => CAPABILITIES[kind]).map((kind) =>
    h("span", {class: `badge ${tried ? "tried" : ""}`, "data-kind": kind, title: `${CAPABILITIES[kind][1]} (${how})`},
      CAPABILITIES[kind][0], tried ? h("span", {class: "tick", "aria-label": "verified"}, "✓") : null)))
}

/** Whether a model fits into memory, as a chip; none where nobody knows. `needed` and `budget` are bytes. */
function verdictChip(verdict, needed, budget) {
  const large = needed && budget ? `Too large: needs ${bytes(needed)} of ${bytes(budget)}` : "Too large"
  const words = {fits: ["Fits now", "good"], evicts: ["Fits after unloading", "warn", "Others would be unloaded first"],
    too_large: [large, "bad", "More than all models may take together"]}
  return words[verdict] ? chip(...words[verdict]) : null
}

/** A table's head: the model, these columns ([title, class]), and what can be done. */
function headRow(columns, action) {
  const heads = columns.map(([title, kind]) => h("th", {scope: "col", class: kind}, title))
  return h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Model"), ...heads, h("th", {}, h("span", {class: "hush"}, action))))
}

/** Make `rows` (a Map) hold one row an item, in the items' order, and nothing else; rows of items that stay stay. */
function keyed(rows, items, parent, keyOf, make) {
  const wanted = new Set(items.map(keyOf))
  for (const [key, row] of rows) {
    if (wanted.has(key)) continue
    row.node.remove()
    rows.delete(key)
  }
  items.forEach((item, index) => {
    const key = keyOf(item)
    if (!rows.has(key)) rows.set(key, make(item))
    const {node} = rows.get(key)
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] || null)
  })
}

/** A button that asks once more in its own place, and forgets the question when one leaves. */
function twice(text, sure, name, does, hint) {
  let asked = false
  const button = h("button", {type: "button", title: hint, "aria-label": `${text} ${name}`}, text)
  const calm = () => {
    asked = false
    say(button, text)
    button.classList.remove("danger")
    mark(button, "aria-label", `${text} ${name}`)
  }
  button.addEventListener("click", () => {
    if (asked) {
      calm()
      does()
      return
    }
    asked = true
    say(button, sure)
    button.classList.add("danger")
    mark(button, "aria-label", `${sure} ${name}`)
  })
  button.addEventListener("blur", calm)
  return button
}

/** Copy a text; where the browser does not allow that (a page without https) the old way does, within an open dialog too. */
async function copyNear(text, near) {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    const area = h("textarea", {class: "hush"})
    area.value = text
    near.append(area)
    area.select()
    document.execCommand("copy")
    area.remove()
  }
}

function copyButton(title, read) {
  const button = h("button", {type: "button"}, title)
  button.addEventListener("click", async () => {
    await copyNear(read(), button.parentNode)
    say(button, "Copied")
    setTimeout(() => say(button, title), 2000)
  })
  return button
}

/** A bar for a share from 0 to 1; null is a share nobody knows. */
function progressBar(label) {
  const fill = h("i")
  const node = h("div", {class: "bar", role: "progressbar", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100}, fill)
  const show = (share, tone) => {
    fill.style.width = share == null ? "100%" : `${100 * Math.min(1, share)}%`
    node.classList.toggle("unknown", share == null)
    mark(node, "data-tone", tone)
    mark(node, "aria-valuenow", share == null ? null : Math.floor(100 * share))
  }
  return {node, show}
}

// --- dialogs and menus ----------------------------------------------------------------------------------------------

/** A modal dialog in `root`, `kind` "box" or "drawer". Escape and a press beside it close it; it is gone then. */
function openDialog(root, kind, title, ...children) {
  const close = h("button", {type: "button", class: "quiet close", "aria-label": "Close"}, "✕")
  const heading = h("h2", {id: `title-${Math.random().toString(36).slice(2)}`, tabindex: -1}, title)
  const body = h("div", {class: "body"}, ...children)
  const node = h("dialog", {class: kind, "aria-labelledby": heading.id}, h("header", {}, heading, close), body)
  close.addEventListener("click", () => node.close())
  node.addEventListener("pointerdown", (event) => {
    const box = node.getBoundingClientRect()
    const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom
    if (event.target === node && !inside) node.close()
  })
  node.addEventListener("close", () => node.remove())
  root.append(node)
  node.showModal()
  return {node, body, heading, close: () => node.close()}
}

/** A line in a dialog for what went wrong. */
function faultLine() {
  const node = h("p", {class: "fault", role: "alert", hidden: true})
  return {node, show: (text) => {
    node.hidden = !text
    say(node, text)
  }}
}

/** A button with a menu: `items()` gives [title, action, tone] when it opens. Arrow keys move, Escape closes. */
function menuButton(name, items) {
  const list = h("div", {class: "menu-list", role: "menu", popover: "auto"})
  const button = h("button", {type: "button", class: "more", "aria-label": `More about ${name}`, "aria-haspopup": "menu"}, "⋯")
  const node = h("span", {class: "menu-place"}, button, list)
  const move = (step) => {
    const all = [...list.children]
    const at = all.indexOf(node.getRootNode().activeElement)
    all[(at + step + all.length) % all.length].focus()
  }
  button.addEventListener("click", () => {
    list.replaceChildren(...items().map(([title, action, tone]) => h("button", {type: "button", role: "menuitem", class: tone, onclick: () => {
      list.hidePopover()
      action()
    }}, title)))
    list.showPopover()
    const at = button.getBoundingClientRect(), box = list.getBoundingClientRect()
    const below = at.bottom + box.height + 8 < innerHeight
    list.style.top = `${below ? at.bottom + 4 : Math.max(4, at.top - box.height - 4)}px`
    list.style.left = `${Math.max(4, Math.min(at.right - box.width, innerWidth - box.width - 4))}px`
    list.firstChild?.focus()
  })
  list.addEventListener("keydown", (event) => {
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key]
    if (!step) return
    event.preventDefault()
    move(step)
  })
  const hide = () => list.hidePopover()
  list.addEventListener("toggle", (event) => {
    if (event.newState === "open") addEventListener("scroll", hide, {passive: true, capture: true})
    else removeEventListener("scroll", hide, {capture: true})
  })
  return node
}

/** A labelled field with a help text. */
function labelled(id, title, input, help, kind = "") {
  input.id = id
  if (help) input.setAttribute("aria-describedby", `${id}-help`)
  return h("div", {class: `field ${kind}`}, h("label", {for: id}, title), input, help ? h("small", {id: `${id}-help`}, help) : null)
}

function choice(options, value = "") {
  const node = h("select", {}, ...options.map(([key, title]) => h("option", {value: key}, title)))
  node.value = value
  return node
}

// --- questions ------------------------------------------------------------------------------------------------------

/** Ask Python: `ask(do, values)` gives a promise of {error, field, value, ticket}. */
function asking(model) {
  const waiting = new Map()
  model.on("replies", () => {
    for (const reply of model.replies) {
      const done = waiting.get(reply.ticket)
      waiting.delete(reply.ticket)
      if (done) done(reply)
    }
  })
  return (name, values = {}) => new Promise((done) => {
    const ticket = Math.random().toString(36).slice(2)
    waiting.set(ticket, done)
    model.send_msg({do: name, ticket, ...values})
  })
}
