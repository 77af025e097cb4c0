// Cards, and the pool's two parts beside them. The document is built once; each snapshot then changes texts, bars and
// lines in place.

const WINDOW = 120 // seconds of history that are drawn
const STALE = 6000 // milliseconds without a snapshot until the numbers are called old

// --- history ------------------------------------------------------------------------------------------------------

function toPoint(sample) {
  const [time, requests, queued, speed, ttft, memory] = sample
  return {time, requests, queued, speed, ttft, memory}
}

function pointOf(s) {
  return {time: s.time, requests: s.requests, queued: s.queued, speed: s.tokens_per_second, ttft: s.ttft_ms,
    memory: s.memory_used}
}

/** The points of the last two minutes, the newest last; one that is not newer than the last is left out. */
function extend(points, snapshot) {
  const next = pointOf(snapshot)
  const known = points.filter((point) => point.time > next.time - WINDOW)
  if (!known.length || known[known.length - 1].time < next.time) known.push(next)
  return known
}

// --- cards --------------------------------------------------------------------------------------------------------

/** The stretches of a line over the window; a missing value or a pause of 5 s ends one. */
function stretches(points, key, now, top) {
  const found = []
  let last = null
  for (const point of points) {
    if (point[key] == null) {
      last = null
      continue
    }
    if (last == null || point.time - last > 5) found.push([])
    const y = 27 - 25 * Math.min(1, point[key] / top)
    found[found.length - 1].push([(100 * (1 - (now - point.time) / WINDOW)).toFixed(2), y.toFixed(2)])
    last = point.time
  }
  return found
}

function sparkline() {
  const line = svg("path", {class: "line"})
  const area = svg("path", {class: "area"})
  const picture = svg("svg", {viewBox: "0 0 100 28", preserveAspectRatio: "none", "aria-hidden": "true"}, area, line)
  const draw = (points, key, now, least) => {
    const top = Math.max(least, ...points.map((point) => point[key] ?? 0)) * 1.05
    const drawn = stretches(points, key, now, top)
    const path = (stretch) => `M${stretch.map((xy) => xy.join(" ")).join("L")}`
    mark(line, "d", drawn.map(path).join("") || "M0 27")
    mark(area, "d", drawn.map((one) => `${path(one)}V28H${one[0][0]}Z`).join("") || "M0 28")
  }
  return {picture, draw}
}

function card(title, spec) {
  const value = h("span", {class: "value"}, NONE)
  const unit = h("span", {class: "unit"})
  const caption = h("div", {class: "caption muted"}, " ")
  const spark = spec.key ? sparkline() : null
  const bar = spec.bar ? meter(`${title} used of the limit`) : null
  const share = spec.share ? meter("Requests answered without an error", "answered") : null
  const node = h("article", {class: "panel card"}, h("h3", {}, title), h("div", {class: "reading"}, value, " ", unit),
    caption, spark && spark.picture, bar && bar.node, share && share.node)
  const show = (snapshot, points) => {
    const [number, unitText, captionText] = spec.read(snapshot)
    say(value, number)
    say(unit, unitText)
    say(caption, captionText)
    mark(node, "data-tone", spec.tone ? spec.tone(snapshot) : null)
    if (spark) spark.draw(points, spec.key, snapshot.time, spec.least)
    if (bar) bar.show(snapshot.memory_used, snapshot.memory_limit, bytes)
    if (share) share.show(snapshot.requests_total - snapshot.errors_total, snapshot.requests_total, count)
  }
  return {node, show}
}

function split(text) {
  const at = text.lastIndexOf(" ")
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)]
}

function errorShare(snapshot) {
  if (!snapshot.errors_total) return "no errors"
  const share = percent(snapshot.errors_total / Math.max(1, snapshot.requests_total))
  return `${count(snapshot.errors_total)} error${snapshot.errors_total === 1 ? "" : "s"} (${share})`
}

const CARDS = [
  ["Speed", {key: "speed", least: 10,
    read: (s) => [figure(s.tokens_per_second), "tok/s", `prompt ${figure(s.prompt_tokens_per_second)} tok/s`]}],
  ["In flight", {key: "requests", least: 4,
    read: (s) => [count(s.requests), s.requests === 1 ? "request" : "requests", "being answered now"]}],
  ["Queue", {key: "queued", least: 4, tone: (s) => (s.queued ? "warn" : null),
    read: (s) => [count(s.queued), "waiting", s.queued ? "for a free slot" : "nobody has to wait"]}],
  ["First token", {key: "ttft", least: 100,
    read: (s) => [...split(duration(s.ttft_ms)), s.ttft_ms == null ? "none in the last minute" : "median, last minute"]}],
  ["Memory", {bar: true, tone: (s) => (s.memory_limit && s.memory_used > 0.92 * s.memory_limit ? "bad" : null),
    read: (s) => [...split(bytes(s.memory_used)), s.memory_limit ? `of ${bytes(s.memory_limit)}` : "no limit set"]}],
  ["Served", {share: true, read: (s) => [count(s.requests_total), "requests", errorShare(s)]}],
]

function cardsPart() {
  const cards = CARDS.map(([title, spec]) => card(title, spec))
  const node = h("section", {class: "cards", "aria-label": "Server"}, ...cards.map((one) => one.node))
  return {node, show: (snapshot, points) => cards.forEach((one) => one.show(snapshot, points))}
}

function meter(label, kind = "") {
  const fill = h("i")
  const node = h("div", {class: `meter ${kind}`, role: "meter", "aria-label": label, "aria-valuemin": 0}, fill)
  const show = (used, limit, name) => {
    fill.style.width = `${limit ? Math.min(100, (100 * used) / limit) : 0}%`
    mark(node, "aria-valuemax", limit)
    mark(node, "aria-valuenow", Math.min(used, limit || used))
    mark(node, "aria-valuetext", `${name(used)} of ${name(limit)}`)
  }
  return {node, show}
}

// --- the whole ----------------------------------------------------------------------------------------------------

/** Speaks when a model changes its state, and only then. */
function announcer() {
  const node = h("div", {class: "hush", role: "status", "aria-live": "polite"})
  let before = null
  const show = (snapshot) => {
    const states = new Map(snapshot.models.map((one) => [one.id, one.state]))
    const news = before && [...states].filter(([id, state]) => before.has(id) && before.get(id) !== state)
    if (news && news.length) say(node, news.map(([id, state]) => `${id}: ${(STATES[state] || [state])[0]}`).join(", "))
    before = states
  }
  return {node, show}
}

function banner() {
  const text = h("span", {class: "text"})
  const node = h("div", {class: "banner", role: "status", hidden: true}, text)
  const show = (message) => {
    node.hidden = !message
    say(text, message)
  }
  return {node, show}
}

/** Says so when snapshots stop coming while the page is looked at. */
function staleness(model, root, line) {
  let arrived = performance.now()
  let shown = null
  let draining = null
  const tell = () => {
    const late = !document.hidden && performance.now() - arrived > STALE
    const old = draining != null && (late || isLost())
    const since = new Date(arrived + performance.timeOrigin).toLocaleTimeString()
    const ending = draining && "Shutting down. Running requests are finished, new ones are refused."
    const text = old ? `No news from the server since ${since}. The numbers below are from then.` : ending || ""
    if (text === shown) return
    shown = text
    line.show(text)
    root.classList.toggle("stale", Boolean(old))
  }
  const timer = setInterval(tell, 1000)
  const isLost = () => root.classList.contains("lost")
  const wake = () => { if (!isLost()) arrived = performance.now() }
  document.addEventListener("visibilitychange", wake)
  model.on("lifecycle:remove", () => {
    clearInterval(timer)
    document.removeEventListener("visibilitychange", wake)
  })
  return (snapshot) => {
    draining = snapshot.draining
    wake()
    tell()
  }
}

const PARTS = {cards: cardsPart, memory: memoryPart, models: modelsPart}

export function render({model, view}) {
  const speaker = announcer()
  const line = banner()
  const notice = noticeLine(model)
  const parts = model.parts.map((name) => PARTS[name](model, notice))
  const {root, whole} = stage("live", speaker.node, line.node, ...parts.map((part) => part.node))
  const fresh = staleness(model, root, line)
  const past = () => JSON.parse(model.history).map(toPoint)
  let points = past()
  const show = () => {
    const snapshot = JSON.parse(model.snapshot)
    if (!snapshot.models) return
    points = extend(points, snapshot)
    parts.forEach((part) => part.show(snapshot, points))
    speaker.show(snapshot)
    fresh(snapshot)
  }
  model.on("history", () => {
    points = past()
    show()
  })
  model.on("snapshot", show)
  show()
  watchEye(model, view, root)
  return whole
}
