// What a pointer or the arrow keys do on a figure: read values, choose a group, take a time range.

const NEAR = 14 // pixels within which a point is meant
const MOVED = 6 // pixels after which a press is a drag

/** Where a drawing's stop lies along its axis, in pixels of the host. */
function extent(frame, drawing, from, to, wide) {
  const scale = wide ? drawing.y : drawing.x
  const size = wide ? frame.height : frame.width
  const at = (value) => {
    const share = Math.min(1, Math.max(0, (value - scale.start) / (scale.end - scale.start)))
    return wide ? frame.top + (1 - share) * size : frame.left + share * size
  }
  const ends = [at(from), at(to)].sort((a, b) => a - b)
  return [ends[0], Math.max(2, ends[1] - ends[0])]
}

function toData(frame, drawing, x, y) {
  const {x: across, y: up} = drawing
  return [across.start + ((x - frame.left) / frame.width) * (across.end - across.start),
    up.start + (1 - (y - frame.top) / frame.height) * (up.end - up.start)]
}

/** The stop at a place: that which holds it, or for points the nearest one. */
function stopAt(frame, drawing, x, y) {
  const [dx, dy] = toData(frame, drawing, x, y)
  if (drawing.pick === "point") return nearest(frame, drawing, x, y)
  const value = drawing.pick === "y" ? dy : dx
  return drawing.stops.findIndex((stop) => value >= stop.from && value < stop.to && (drawing.pick !== "cell" || (dy >= stop.low && dy < stop.high)))
}

function nearest(frame, drawing, x, y) {
  const far = drawing.stops.map((stop) => {
    const [left] = extent(frame, drawing, stop.at, stop.at)
    const [top] = extent(frame, drawing, stop.level, stop.level, true)
    return Math.hypot(left - x, top - y)
  })
  const best = far.indexOf(Math.min(...far))
  return best >= 0 && far[best] <= NEAR ? best : -1
}

/** The group at a height of a stop: the part of a stack, else the value next to it. */
function lineAt(stop, dy) {
  const inside = stop.lines.findIndex((line) => line.low != null && dy >= line.low && dy < line.high)
  if (inside >= 0 || stop.lines.some((line) => line.low != null)) return inside
  const far = stop.lines.map((line) => (line.at == null ? Infinity : Math.abs(line.at - dy)))
  return far.length ? far.indexOf(Math.min(...far)) : -1
}

function tipContent(stop, chosen, hint) {
  const rows = stop.lines.map((line, place) => h("tr", {"data-on": place === chosen || null},
    h("td", {}, h("i", {class: "swatch", style: `--colour: ${line.colour || "transparent"}`}), line.name), h("td", {class: "number"}, line.text)))
  if (stop.sum) rows.push(h("tr", {class: "sum"}, h("td", {}, stop.sum[0]), h("td", {class: "number"}, stop.sum[1])))
  return [h("b", {}, stop.title), h("table", {}, h("tbody", {}, ...rows)), hint ? h("small", {}, hint) : null]
}

function spoken(stop, chosen) {
  const line = stop.lines[chosen]
  if (line) return `${stop.title}: ${line.name} ${line.text}`
  const all = stop.lines.map((one) => `${one.name} ${one.text}`)
  if (stop.sum) all.unshift(`${stop.sum[0]} ${stop.sum[1]}`)
  return `${stop.title}: ${all.join(", ") || "nothing"}`
}

/** Make a figure's host readable and clickable. `hooks`: `choose(stop, line, add)`, `zoom(first, last)`, `hint(stop, line)`.
 *  Returns `show(drawing)` for what is drawn now. */
function readable(host, hooks) {
  const cursor = h("div", {class: "cursor", hidden: true}), band = h("div", {class: "band", hidden: true}, h("span"))
  const tip = h("div", {class: "tip", hidden: true, "aria-hidden": "true"}), voice = h("div", {class: "hush", "aria-live": "polite"})
  host.append(cursor, band, tip, voice)
  const state = {figure: null, drawing: null, stop: -1, line: -1, anchor: null, from: null, keys: false}
  const pieces = {host, cursor, band, tip, voice, state, hooks}
  const over = (event) => pointAt(pieces, event)
  host.addEventListener("pointermove", (event) => (state.from ? drag(pieces, event) : over(event)))
  host.addEventListener("pointerdown", (event) => press(pieces, event))
  host.addEventListener("pointerup", (event) => release(pieces, event))
  host.addEventListener("pointercancel", () => forget(pieces))
  host.addEventListener("pointerleave", () => { if (!state.from && !state.keys) forget(pieces) })
  host.addEventListener("keydown", (event) => { if (key(pieces, event)) event.preventDefault() })
  host.addEventListener("blur", () => forget(pieces))
  return {
    show(figure, drawing) {
      Object.assign(state, {figure, drawing})
      if (state.stop >= drawing.stops.length) forget(pieces)
      else if (state.stop >= 0) light(pieces)
    },
    /** What the keyboard or the pointer is on, in words; for the line that is read out. */
    get stop() { return state.drawing?.stops[state.stop] },
  }
}

function place(pieces, event) {
  const box = pieces.host.getBoundingClientRect()
  return [event.clientX - box.left, event.clientY - box.top]
}

function pointAt(pieces, event) {
  const {state} = pieces
  if (!state.drawing || event.pointerType === "touch") return
  state.keys = false
  point(pieces, event)
}

function point(pieces, event) {
  const {state} = pieces
  const frame = state.figure.frame(), [x, y] = place(pieces, event)
  const inside = x >= frame.left - 2 && x <= frame.left + frame.width + 2 && y >= frame.top - 2 && y <= frame.top + frame.height + 22
  state.stop = inside || state.drawing.pick === "y" ? stopAt(frame, state.drawing, x, y) : -1
  const stop = state.drawing.stops[state.stop]
  if (!stop) return forget(pieces)
  const [, dy] = toData(frame, state.drawing, x, y)
  state.line = state.drawing.pick === "x" ? lineAt(stop, dy) : stop.line ?? -1
  light(pieces, [x, y])
}

/** Draw cursor and box at the stop that is meant; without a pointer beside the stop itself. */
function light({host, cursor, tip, state, hooks}, at) {
  const {drawing, figure} = state, stop = drawing.stops[state.stop], frame = figure.frame()
  const wide = drawing.pick === "y"
  const [along, length] = extent(frame, drawing, stop.from ?? stop.at, stop.to ?? stop.at, wide)
  const cell = drawing.pick === "cell" || drawing.pick === "point" ? extent(frame, drawing, stop.low ?? stop.level, stop.high ?? stop.level, true) : null
  const [low, size] = cell || [wide ? frame.left : frame.top, wide ? frame.width : frame.height]
  const box = wide ? [low, along, size, length] : [along, low, length, size]
  cursor.hidden = drawing.pick === "point"
  Object.assign(cursor.style, Object.fromEntries(["left", "top", "width", "height"].map((name, k) => [name, `${box[k]}px`])))
  tip.replaceChildren(...tipContent(stop, state.line, hooks.hint(stop, stop.lines[state.line])).filter(Boolean))
  tip.hidden = false
  const [x, y] = at || [box[0] + box[2] / 2, wide || cell ? box[1] + box[3] / 2 : frame.top + 14]
  const {offsetWidth: width, offsetHeight: height} = tip
  const left = x + 16 + width > host.clientWidth ? Math.max(4, x - width - 16) : x + 16
  tip.style.left = `${Math.min(left, Math.max(4, host.clientWidth - width - 4))}px`
  tip.style.top = `${Math.max(-20, Math.min(y - 10, host.clientHeight - height + 6))}px`
  mark(host, "data-pointer", hooks.hint(stop, stop.lines[state.line]) ? "hand" : null)
}

function forget({cursor, band, tip, host, state}) {
  cursor.hidden = band.hidden = tip.hidden = true
  mark(host, "data-pointer", null)
  Object.assign(state, {stop: -1, line: -1, from: null, anchor: null, keys: false, range: null, span: null})
}

function press(pieces, event) {
  const {state, host} = pieces
  if (!state.drawing || event.button) return
  const [x, y] = place(pieces, event)
  const frame = state.figure.frame()
  const first = state.drawing.time && state.drawing.pick === "x" ? stopAt(frame, state.drawing, within(frame, x), y) : -1
  state.from = {x, y, first, moved: false, known: state.stop}
  if (event.pointerType !== "touch") host.setPointerCapture(event.pointerId)
}

function drag(pieces, event) {
  const {state} = pieces
  const [x, y] = place(pieces, event)
  if (!state.from.moved && Math.abs(x - state.from.x) < MOVED) return
  if (event.pointerType === "touch") return
  state.from.moved = true
  const frame = state.figure.frame()
  if (state.drawing.time && state.drawing.pick === "point") return showSpan(pieces, [state.from.x, x].map((at) => within(frame, at)).sort((a, b) => a - b))
  if (state.from.first < 0) return
  const last = stopAt(frame, state.drawing, within(frame, x), y)
  if (last >= 0) showBand(pieces, state.from.first, last)
}

const within = (frame, x) => Math.min(Math.max(x, frame.left + 1), frame.left + frame.width - 1)

/** A time taken from a chart without buckets, between two places. */
function showSpan({band, tip, cursor, state}, [left, right]) {
  const frame = state.figure.frame()
  const [since, until] = [left, right].map((x) => {
    const at = Math.round(toData(frame, state.drawing, x, frame.top)[0] / 1000) * 1000
    return at + new Date(at).getTimezoneOffset() * MINUTE // as `localised` took it away
  })
  Object.assign(band.style, {left: `${left}px`, width: `${right - left}px`, top: `${frame.top}px`, height: `${frame.height}px`})
  say(band.firstChild, between(since, until))
  band.hidden = false
  tip.hidden = cursor.hidden = true
  state.span = since < until ? [since, until] : null
}

function showBand({band, tip, cursor, state}, one, other) {
  const {stops} = state.drawing, [first, last] = [Math.min(one, other), Math.max(one, other)]
  const frame = state.figure.frame()
  const [left, width] = extent(frame, state.drawing, stops[first].from, stops[last].to)
  Object.assign(band.style, {left: `${left}px`, width: `${width}px`, top: `${frame.top}px`, height: `${frame.height}px`})
  say(band.firstChild, between(stops[first].since, stops[last].until))
  band.hidden = false
  tip.hidden = cursor.hidden = true
  state.range = [first, last]
}

function release(pieces, event) {
  const {state, hooks} = pieces, from = state.from
  if (!from) return
  state.from = null
  if (from.moved) {
    const {stops} = state.drawing, span = state.span || (state.range && [stops[state.range[0]].since, stops[state.range[1]].until])
    forget(pieces)
    if (span) hooks.zoom(...span)
    return
  }
  point(pieces, event)
  const stop = state.drawing.stops[state.stop]
  // A finger has no hover: its first touch reads, a second one on the same place chooses.
  if (stop && (event.pointerType !== "touch" || from.known === state.stop)) hooks.choose(stop, stop.lines[state.line], event.ctrlKey || event.metaKey || event.shiftKey)
}

/** Arrow keys move, Enter chooses, Shift with an arrow takes a range that Enter applies. Says whether the key was one of these. */
function key(pieces, event) {
  const {state} = pieces
  if (!state.drawing || !state.drawing.stops.length || event.altKey) return false
  if (event.key === "Escape") {
    const known = state.stop >= 0
    forget(pieces)
    return known
  }
  if (event.key === "Enter" || event.key === " ") return enter(pieces, event)
  const next = step(state, event.key)
  if (next == null) return false
  const before = Math.max(0, state.stop)
  Object.assign(state, next, {keys: true})
  if (event.shiftKey && state.drawing.time && state.drawing.pick === "x") {
    state.anchor ??= before
    light(pieces)
    showBand(pieces, state.anchor, state.stop)
    say(pieces.voice, `Range ${between(state.drawing.stops[state.range[0]].since, state.drawing.stops[state.range[1]].until)}. Enter to show only this.`)
    return true
  }
  state.anchor = null
  pieces.band.hidden = true
  light(pieces)
  say(pieces.voice, spoken(state.drawing.stops[state.stop], state.line))
  return true
}

function step({drawing, stop, line}, name) {
  const last = drawing.stops.length - 1, here = Math.max(stop, -1)
  const wide = drawing.pick === "y", [back, on] = wide ? ["ArrowUp", "ArrowDown"] : ["ArrowLeft", "ArrowRight"]
  const [down, up] = wide ? ["ArrowLeft", "ArrowRight"] : ["ArrowDown", "ArrowUp"]
  const to = (place) => ({stop: Math.min(last, Math.max(0, place)), line: drawing.pick === "x" ? -1 : drawing.stops[Math.min(last, Math.max(0, place))].line ?? -1})
  if (name === back) return to(here < 0 ? last : here - 1)
  if (name === on) return to(here + 1)
  if (name === "Home") return to(0)
  if (name === "End") return to(last)
  if (name !== down && name !== up) return null
  if (drawing.pick === "cell") return to(here + (name === up ? -drawing.across : drawing.across))
  const lines = drawing.stops[Math.max(0, here)].lines.length
  return {stop: Math.max(0, here), line: lines ? (line + (name === up ? 1 : -1) + lines + (line < 0 && name === down ? 1 : 0)) % lines : -1}
}

function enter(pieces, event) {
  const {state, hooks} = pieces, stop = state.drawing.stops[state.stop]
  if (!stop) return false
  if (state.anchor != null) {
    const [first, last] = state.range, {stops} = state.drawing
    forget(pieces)
    hooks.zoom(stops[first].since, stops[last].until)
  } else hooks.choose(stop, stop.lines[state.line] || (stop.lines.length === 1 ? stop.lines[0] : undefined), event.ctrlKey || event.metaKey)
  return true
}
