// What every component of the dashboard uses: elements, numbers for people, and the eye that tells Python whether
// anybody looks. `CSS` is put before this text; the component's own file follows it.

const NONE = "–"

/** An element with attributes (`on*` are listeners) and children. */
function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value)
    else if (value === true) node.setAttribute(name, "")
    else if (value !== false && value != null) node.setAttribute(name, value)
  }
  node.append(...children.filter((child) => child != null))
  return node
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag)
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value)
  node.append(...children)
  return node
}

/** Set text only where it differs: an unchanged cell costs no layout. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text
}

function mark(node, name, value) {
  if (value == null || value === false) node.removeAttribute(name)
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value)
}

const grouped = new Intl.NumberFormat("en")

function count(n) {
  return n == null ? NONE : grouped.format(n)
}

/** Three figures, never more than the number deserves: 0, 4.7, 47, 1,240. */
function figure(n) {
  if (n == null) return NONE
  return n > 0 && n < 9.95 ? n.toFixed(1) : grouped.format(Math.round(n))
}

function percent(share) {
  const n = 100 * share
  return n > 0 && n < 1 ? "< 1 %" : `${Math.round(n)} %`
}

function bytes(n) {
  if (n == null) return NONE
  const units = ["B", "kB", "MB", "GB", "TB"]
  let power = 0
  while (n >= 999.5 && power < units.length - 1) {
    n /= 1000
    power += 1
  }
  return `${power && n < 99.95 ? n.toFixed(1) : Math.round(n)} ${units[power]}`
}

/** Milliseconds: 240 ms, 3.4 s, 2 min 5 s. */
function duration(ms) {
  if (ms == null) return NONE
  if (ms < 999.5) return `${ms < 9.95 && ms > 0 ? ms.toFixed(1) : Math.round(ms)} ms`
  if (ms < 59950) return `${(ms / 1000).toFixed(1)} s`
  return span(ms / 1000)
}

/** Seconds as the two largest units: 45 s, 15 min, 1 h 30 min, 2 d 4 h. */
function span(seconds) {
  if (seconds == null) return NONE
  if (seconds < 60) return `${Math.round(seconds * 10) / 10} s`
  const whole = Math.round(seconds)
  const parts = [[Math.floor(whole / 86400), "d"], [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]]
  const first = parts.findIndex(([value]) => value)
  return parts.slice(first, first + 2).filter(([value]) => value).map((part) => part.join(" ")).join(" ")
}

/** The component's root element inside the shadow root, with its style sheet. */
function stage(name, ...children) {
  const root = h("div", {class: `mp ${name}`}, ...children)
  return {root, whole: h("div", {class: "frame"}, Object.assign(h("style"), {textContent: CSS}), root)}
}

/** Light or dark as the host is behind this element: the first background that is not see-through decides. */
function matchHost(root) {
  for (let node = root.parentNode; node; node = node.parentNode || node.host) {
    const colour = node instanceof Element ? getComputedStyle(node).backgroundColor.match(/^rgba?\((.*)\)$/) : null
    const [red, green, blue, alpha = 1] = colour ? colour[1].split(",").map(Number) : [0, 0, 0, 0]
    if (alpha < 0.5) continue
    root.style.colorScheme = 0.3 * red + 0.59 * green + 0.11 * blue < 128 ? "dark" : "light"
    return
  }
  root.style.colorScheme = ""
}

/** What a tab remembers until it is closed. In a frame that may keep nothing it forgets. */
function remembered(name, value) {
  try {
    if (value != null) sessionStorage.setItem(name, value)
    return sessionStorage.getItem(name)
  } catch {
    return null
  }
}

/** Call `lost` when the page's connection to its server ends. A notebook has no such connection, so nothing happens. */
function onLost(view, lost) {
  view.model.document?.on_event("connection_lost", lost)
}

/** BokehJS 3.9 takes a model that came in a patch for one the server has never seen, and would send all of it back with
 *  its first message; the server then warns of a reference it knows. */
function isKnown(view) {
  view.model.document?._new_models?.delete(view.model)
}

/** Tell Python when this element is on screen: the page is not hidden and the element has a box. What is shown of a
 *  server that is gone is dimmed, and Python is told nothing more. */
function watchEye(model, view, node) {
  const eye = Math.random().toString(36).slice(2)
  let open = false
  const tell = (now) => {
    if (now === open) return
    open = now
    isKnown(view)
    if (view.model.document != null && !node.classList.contains("lost")) model.send_msg({do: now ? "look" : "leave", eye})
  }
  const check = () => tell(!document.hidden && node.getClientRects().length > 0)
  const boxes = new ResizeObserver(() => {
    matchHost(node)
    check()
  })
  node.addEventListener("pointerenter", () => matchHost(node)) // the host's theme may have been switched
  boxes.observe(node)
  onLost(view, () => node.classList.add("lost"))
  document.addEventListener("visibilitychange", check)
  model.on("lifecycle:remove", () => {
    boxes.disconnect()
    document.removeEventListener("visibilitychange", check)
    tell(false)
  })
}

/** Copying needs no permission this way, also where the page is not served by https. */
function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text)
  const field = h("textarea", {style: "position: fixed; opacity: 0"})
  field.value = text
  document.body.append(field)
  field.select()
  document.execCommand("copy")
  field.remove()
  return Promise.resolve()
}

/** A line for what went wrong; it stays until it is dismissed or answered by a success. */
function noticeLine(model) {
  const text = h("span", {class: "text"})
  const close = h("button", {class: "quiet", type: "button", "aria-label": "Dismiss"}, "✕")
  const line = h("div", {class: "notice", role: "alert", hidden: true}, text, close)
  const show = () => {
    line.hidden = !model.notice.text
    say(text, model.notice.text || "")
  }
  close.addEventListener("click", () => { line.hidden = true })
  model.on("notice", show)
  show()
  return line
}
