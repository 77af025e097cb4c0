// A result as a chart: what stands on which axis is chosen from the columns' types, and can be chosen otherwise.

const SERIES = {
  light: ["#0072b2", "#d55e00", "#009e73", "#b0578d", "#b07a00", "#3a9bd1", "#6a51a3", "#7a7a7a"],
  dark: ["#4aa3df", "#f08a4b", "#2fc79a", "#df8fbc", "#e3b341", "#8fd0f5", "#a996e0", "#a3a9b0"],
} // Okabe and Ito's colours, told apart by colour-blind eyes, lightened for dark pages
const DASHES = ["", "6 4", "2 3", "8 3 2 3"]
const MOST_SERIES = 8
const MOST_BARS = 60
const MOST_POINTS = 4000
const BOX = {width: 900, height: 340, left: 70, right: 16, top: 12, bottom: 66}

/** Where to begin: time across if there is one, the first figure up, and a text of few values as the series. */
function firstChoice(result) {
  const kinds = result.types.map(kindOf)
  const values = (place) => new Set(result.rows.map((row) => row[place])).size
  const x = [kinds.indexOf("time"), kinds.indexOf("text"), kinds.indexOf("number")].find((place) => place >= 0) ?? 0
  const figures = kinds.map((kind, place) => (kind === "number" && place !== x ? place : -1)).filter((place) => place >= 0)
  const y = figures.find((place) => !/(^|_)id$/i.test(result.columns[place])) ?? figures[0] ?? -1
  const group = kinds[x] === "text" ? -1 : kinds.findIndex((kind, place) => kind === "text" && place !== x && values(place) > 1 && values(place) <= MOST_SERIES)
  return {kind: kinds[x] === "text" ? "bar" : "line", x, y, group}
}

function niceTicks(low, high, wanted = 5) {
  if (!(high > low)) high = low + 1
  const rough = (high - low) / wanted
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough)
  const ticks = []
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) ticks.push(Math.abs(at) < step / 1e6 ? 0 : at)
  return ticks
}

const STEPS = [1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 2 * 86400, 7 * 86400, 30 * 86400, 90 * 86400, 365 * 86400]

function timeTicks(low, high) {
  const step = 1000 * (STEPS.find((one) => (high - low) / 1000 / one <= 6) ?? (high - low) / 6000)
  const ticks = []
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) ticks.push(at)
  const days = step >= 86_400_000
  return {ticks, text: (at) => new Date(at).toISOString().slice(days ? 0 : high - low > 86_400_000 ? 5 : 11, days ? 10 : step < 60_000 ? 19 : 16).replace("T", " ")}
}

const short = new Intl.NumberFormat("en", {maximumSignificantDigits: 4, notation: "compact"})
const exact = new Intl.NumberFormat("en", {maximumSignificantDigits: 12})

/** The rows as series of points `{x, y, label}`; what has no number is left out, and how much that is. */
function seriesOf(result, choice) {
  const kind = kindOf(result.types[choice.x])
  const found = new Map()
  let left = 0
  for (const row of result.rows.slice(0, MOST_POINTS)) {
    const y = row[choice.y] == null ? NaN : Number(row[choice.y])
    const x = choice.kind === "bar" ? cellText(row[choice.x]) ?? "NULL" : sortKey(row[choice.x], kind)
    const name = choice.group < 0 ? "" : cellText(row[choice.group]) ?? "NULL"
    if (!Number.isFinite(y) || x == null || (typeof x === "number" && !Number.isFinite(x)) || (!found.has(name) && found.size >= MOST_SERIES)) { left += 1; continue }
    if (!found.has(name)) found.set(name, [])
    found.get(name).push({x, y, label: cellText(row[choice.x]) ?? "NULL"})
  }
  if (choice.kind === "line") for (const points of found.values()) points.sort((a, b) => a.x - b.x)
  return {series: [...found].map(([name, points]) => ({name, points})), left: left + Math.max(0, result.rows.length - MOST_POINTS)}
}

function axes(scaleY, ticks, names) {
  const lines = ticks.map((at) => svg("g", {class: "tick"}, svg("line", {x1: BOX.left, x2: BOX.width - BOX.right, y1: scaleY(at), y2: scaleY(at)}),
    svg("text", {x: BOX.left - 8, y: scaleY(at) + 4, "text-anchor": "end"}, short.format(at))))
  const middle = (BOX.top + BOX.height - BOX.bottom) / 2
  return [...lines, svg("text", {class: "name", x: 14, y: middle, transform: `rotate(-90 14 ${middle})`, "text-anchor": "middle"}, names.y),
    svg("text", {class: "name", x: (BOX.left + BOX.width - BOX.right) / 2, y: BOX.height - 6, "text-anchor": "middle"}, names.x)]
}

function drawBars(series, scaleY, colours) {
  const names = [...new Set(series.flatMap((one) => one.points.map((point) => point.x)))].slice(0, MOST_BARS)
  const room = (BOX.width - BOX.left - BOX.right) / Math.max(1, names.length)
  const wide = Math.min(56, (room * 0.78) / series.length)
  const marks = []
  const nodes = series.flatMap((one, which) => one.points.filter((point) => names.includes(point.x)).map((point) => {
    const x = BOX.left + room * (names.indexOf(point.x) + 0.5) + (which - series.length / 2) * wide
    const [top, low] = [scaleY(Math.max(0, point.y)), scaleY(Math.min(0, point.y))]
    marks.push({x: x + wide / 2, y: top, series: one.name, ...point, cx: x + wide / 2, value: point.y})
    return svg("rect", {x, y: top, width: Math.max(1, wide - 1), height: Math.max(1, low - top), fill: colours[which % colours.length], rx: 2})
  }))
  const letters = Math.max(4, Math.floor(room / 7))
  const slant = names.some((name) => name.length > letters) && names.length > 4
  const most = slant ? 14 : letters
  const labels = names.map((name, place) => {
    const x = BOX.left + room * (place + 0.5)
    const y = BOX.height - BOX.bottom + 16
    const text = name.length > most ? `${name.slice(0, most - 1)}…` : name
    return room < 9 && place % Math.ceil(12 / room) ? "" : svg("text", slant ? {x, y: y - 4, "text-anchor": "end", transform: `rotate(-28 ${x} ${y - 4})`} : {x, y, "text-anchor": "middle"}, text)
  })
  return {nodes: [...nodes, ...labels], marks}
}

function drawLines(series, scaleY, colours, isTime, dots) {
  const xs = series.flatMap((one) => one.points.map((point) => point.x))
  const [low, high] = [Math.min(...xs), Math.max(...xs)]
  const scaleX = (at) => BOX.left + ((at - low) / (high - low || 1)) * (BOX.width - BOX.left - BOX.right)
  const {ticks, text} = isTime ? timeTicks(low, high) : {ticks: niceTicks(low, high, 6), text: (at) => short.format(at)}
  const marks = []
  const nodes = series.flatMap((one, which) => {
    const colour = colours[which % colours.length]
    const path = one.points.map((point, place) => `${place ? "L" : "M"}${scaleX(point.x).toFixed(1)} ${scaleY(point.y).toFixed(1)}`).join("")
    for (const point of one.points) marks.push({...point, series: one.name, cx: scaleX(point.x), y: scaleY(point.y), value: point.y})
    const line = svg("path", {d: path, fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": DASHES[which % DASHES.length]})
    const points = one.points.length > 60 && !dots ? [] : one.points.map((point) => svg("circle", {cx: scaleX(point.x), cy: scaleY(point.y), r: 3, fill: colour}))
    return dots ? points : [line, ...points]
  })
  const labels = ticks.map((at) => svg("text", {x: scaleX(at), y: BOX.height - BOX.bottom + 18, "text-anchor": "middle"}, text(at)))
  return {nodes: [...nodes, ...labels], marks}
}

/** The drawing, and the marks that a pointer or the arrow keys go through. */
function drawn(result, choice, dark) {
  const {series, left} = seriesOf(result, choice)
  const values = series.flatMap((one) => one.points.map((point) => point.y))
  if (!values.length) return null
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)]
  const ticks = niceTicks(low, high)
  const [bottom, top] = [Math.min(low, ticks[0]), Math.max(high, ticks.at(-1))]
  const scaleY = (at) => BOX.height - BOX.bottom - ((at - bottom) / (top - bottom || 1)) * (BOX.height - BOX.bottom - BOX.top)
  const colours = SERIES[dark ? "dark" : "light"]
  const isTime = kindOf(result.types[choice.x]) === "time"
  const made = choice.kind === "bar" ? drawBars(series, scaleY, colours) : drawLines(series, scaleY, colours, isTime, choice.kind === "points")
  const names = {x: result.columns[choice.x] + (isTime && choice.kind !== "bar" ? " (UTC)" : ""), y: result.columns[choice.y]}
  const legend = series.length > 1 ? h("ul", {class: "legend"}, ...series.map((one, which) => h("li", {}, h("i", {style: `background: ${colours[which % colours.length]}`}), one.name))) : null
  return {nodes: [...axes(scaleY, ticks, names), ...made.nodes], marks: made.marks, legend, left, names}
}

function chooser(label, changed) {
  const select = h("select", {"aria-label": label, onchange: () => changed(select.value)})
  const node = h("label", {}, h("span", {class: "muted"}, label), select)
  return {node, show: (entries, value) => {
    select.replaceChildren(...entries.map(([key, text]) => h("option", {value: key, selected: String(key) === String(value)}, text)))
  }}
}

function resultChart() {
  let result = null
  let choice = null
  let marks = []
  let at = -1
  const change = (name) => (value) => { choice = {...choice, [name]: name === "kind" ? value : Number(value)}; draw() }
  const pickers = {kind: chooser("Chart", change("kind")), x: chooser("Across", change("x")), y: chooser("Up", change("y")), group: chooser("Series", change("group"))}
  const tip = h("div", {class: "tip", role: "status", hidden: true})
  const pin = svg("circle", {r: 5, class: "pin", visibility: "hidden"})
  const picture = svg("svg", {viewBox: `0 0 ${BOX.width} ${BOX.height}`, tabindex: "0", role: "img"})
  const legend = h("div")
  const empty = h("p", {class: "empty"}, "A chart needs a column of numbers.")
  const stageNode = h("div", {class: "picture"}, picture, tip)
  const node = h("div", {class: "chart"}, h("div", {class: "pickers"}, ...Object.values(pickers).map((one) => one.node)), stageNode, legend, empty)

  const point = (place) => {
    at = place
    tip.hidden = place < 0
    mark(pin, "visibility", place < 0 ? "hidden" : "visible")
    if (place < 0) return
    const one = marks[place]
    mark(pin, "cx", one.cx)
    mark(pin, "cy", one.y)
    const scale = picture.getBoundingClientRect().width / BOX.width
    tip.replaceChildren(h("b", {}, one.label.replace("T", " ").replace(/\.\d+/, "")), ...(one.series ? [h("span", {}, one.series)] : []),
      h("span", {}, `${result.columns[choice.y]}: ${exact.format(one.value)}`))
    tip.style.left = `${Math.min(one.cx * scale + 12, stageNode.clientWidth - 170)}px`
    tip.style.top = `${Math.max(0, one.y * scale - 20)}px`
  }
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect()
    const [x, y] = [((event.clientX - box.left) / box.width) * BOX.width, ((event.clientY - box.top) / box.height) * BOX.height]
    let best = -1
    let least = 60 ** 2
    marks.forEach((one, place) => {
      const far = (one.cx - x) ** 2 + ((one.y - y) / 4) ** 2
      if (far < least) [best, least] = [place, far]
    })
    point(best)
  })
  picture.addEventListener("pointerleave", () => point(-1))
  picture.addEventListener("blur", () => point(-1))
  picture.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key]
    if (!marks.length || (!step && event.key !== "Home" && event.key !== "End" && event.key !== "Escape")) return
    event.preventDefault()
    if (step) point(Math.max(0, Math.min(marks.length - 1, at + step)))
    else point({Home: 0, End: marks.length - 1, Escape: -1}[event.key])
  })

  const draw = () => {
    const dark = getComputedStyle(node).colorScheme.includes("dark") || document.documentElement.getAttribute("data-mui-color-scheme") === "dark" || isDark(node)
    const kinds = result.types.map(kindOf)
    const named = (fits) => result.columns.map((name, place) => [place, name]).filter(([place]) => fits(kinds[place]))
    pickers.kind.show([["line", "Line"], ["points", "Points"], ["bar", "Bars"]], choice.kind)
    pickers.x.show(named(() => true), choice.x)
    pickers.y.show(named((kind) => kind === "number"), choice.y)
    pickers.group.show([[-1, "none"], ...named((kind) => kind === "text")], choice.group)
    const made = choice.y < 0 || (choice.kind !== "bar" && kinds[choice.x] === "text") ? null : drawn(result, choice, dark)
    marks = made ? made.marks : []
    stageNode.hidden = legend.hidden = !made
    empty.hidden = Boolean(made)
    say(empty, choice.y < 0 ? "A chart needs a column of numbers." : kinds[choice.x] === "text" && choice.kind !== "bar" ? "Text across goes with bars." : "There is nothing to draw.")
    picture.replaceChildren(...(made ? made.nodes : []), pin)
    mark(picture, "aria-label", made ? `${made.names.y} by ${made.names.x}, ${marks.length} points; arrow keys go through them` : null)
    legend.replaceChildren(...[made?.legend, made?.left ? h("p", {class: "muted"}, `${count(made.left)} rows are not drawn: no number there, or too many for one picture.`) : null].filter(Boolean))
    point(-1)
  }
  return {node, redraw: () => result && draw(), show: (found) => {
    result = found
    choice = firstChoice(found)
    draw()
  }}
}

/** Whether what lies behind is dark: the text on it is light then. */
function isDark(node) {
  const [red, green, blue] = (getComputedStyle(node).color.match(/[\d.]+/g) || [0, 0, 0]).map(Number)
  return 0.3 * red + 0.59 * green + 0.11 * blue > 140
}
