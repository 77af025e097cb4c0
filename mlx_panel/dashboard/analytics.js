// The audit's charts: one component, one filter for all of them. Python answers what is asked; the figures are drawn here.

const SEEN_AHEAD = "240px" // how far below the screen a chart is asked for
const TWO_COLUMNS = 860 // pixels from which cards stand side by side, as in the style sheet
const QUIET = 40 // milliseconds in which what came on screen is asked for together
const LEAST_PAUSE = 3000, OLD = 60000 // milliseconds between two looks at new rows, and after which time itself has moved on
const SHARE = 20 // a look may take one part in so many of the time

/** Colours as the page has them now, for a canvas, which knows no style sheet. */
function coloursOf(root, probe) {
  const style = getComputedStyle(probe)
  const [red, green, blue] = canvasColour(style.color)
  const dark = 0.3 * red + 0.59 * green + 0.11 * blue > 140 // the text is light
  return {look: dark ? "dark" : "light", muted: style.outlineColor, line: style.borderTopColor, font: getComputedStyle(root).fontFamily}
}

/** Any CSS colour as red, green and blue, 0 to 255. */
function canvasColour(colour) {
  const context = h("canvas", {width: 1, height: 1}).getContext("2d", {willReadFrequently: true})
  context.fillStyle = colour
  context.fillRect(0, 0, 1, 1)
  return context.getImageData(0, 0, 1, 1).data
}

function plainColour(colour) {
  const [red, green, blue, alpha] = canvasColour(colour)
  return `rgba(${red}, ${green}, ${blue}, ${(alpha / 255).toFixed(3)})`
}

function heatColour(dark) {
  const [from, to] = dark ? [[30, 44, 56], [255, 214, 102]] : [[238, 243, 247], [11, 78, 120]]
  const middle = dark ? [44, 118, 140] : [72, 160, 190]
  return (share) => {
    const [low, high, at] = share < 0.5 ? [from, middle, share * 2] : [middle, to, share * 2 - 1]
    return `rgb(${low.map((value, place) => Math.round(value + (high[place] - value) * at)).join(", ")})`
  }
}

/** What cards, tiles and bar share: the filter, its changes, colours, and the way to Python. */
function pageOf(model, view) {
  const options = model.linked ? fromAddress().options : model.options
  const paintGroup = painter(), changed = new Set()
  const page = {
    model, view, pairs: model.filter, options, paused: false, look: null, room: 1000, id: Math.random().toString(36).slice(2), turn: 0,
    ask(message) {
      isKnown(view)
      model.send_msg(message)
    },
    onChange: (work) => changed.add(work),
    usual: (chart, option) => SHOWS[chart] && option === "show" ? SHOWS[chart][1][0][0] : model.infos[chart]?.options[option]?.[0],
    /** A choice that a chart has; an address may name others. */
    option(chart, option) {
      const given = page.options[chart]?.[option], known = option === "show" ? SHOWS[chart]?.[1].map(([value]) => value) : model.infos[chart]?.options[option]
      return known?.includes(given) ? given : page.usual(chart, option)
    },
    /** The choices made, without what no chart has. */
    chosen: () => Object.fromEntries(Object.entries(page.options).map(([chart, made]) =>
      [chart, Object.fromEntries(Object.entries(made).filter(([name, value]) => page.option(chart, name) === value))])),
    setOption(chart, option, value) {
      page.options = {...page.options, [chart]: {...page.options[chart], [option]: value}}
      page.commit()
    },
    change(pairs) {
      page.pairs = ordered(pairs)
      page.commit()
    },
    choose: (name, value, add) => page.change(toggled(page.pairs, name, value, add)),
    zoom: (since, until) => page.change(withTime(page.pairs, {since, until})),
    commit() {
      if (model.linked) history.pushState(history.state, "", toAddress(page.pairs, page.chosen(), page.usual))
      page.tell()
    },
    tell(pairs = page.pairs) {
      const options = Object.fromEntries(Object.entries(page.options).map(([chart, chosen]) =>
        [chart, Object.fromEntries(Object.entries(chosen).filter(([name]) => name !== "show"))]))
      if (model.infos.heatmap) options.heatmap = {...options.heatmap, offset: String(-new Date().getTimezoneOffset())}
      page.turn += 1
      page.ask({do: "filter", pairs, options, from: page.id, turn: page.turn})
      page.redraw()
    },
    redraw: () => changed.forEach((work) => work()),
    adopt(pairs, options) {
      page.pairs = ordered(pairs)
      if (options) page.options = options
      page.tell()
    },
    pause(paused) {
      page.paused = paused
      page.ask({do: "pause", paused})
      page.redraw()
    },
    /** Begin and end of what is shown, Unix milliseconds; `since` null where it is open. */
    bounds() {
      const {since, until, range} = timeOf(page.pairs), end = until ? Date.parse(until) : Date.now()
      return {since: since ? Date.parse(since) : range && range !== "all" ? end - RANGE_MS[range] : null, until: end}
    },
    colours: () => page.look,
    /** About what a card's figure has, pixels; to ask the figure itself would lay out the whole page. */
    width: (whole) => (whole || page.room < TWO_COLUMNS || page.alone ? page.room : page.room / 2),
    paint() {
      const {look} = page.look
      const paint = (kind, name) => paintGroup(look, kind, name)
      return Object.assign(paint, {tone: (place) => PALETTE[look][place], heat: heatColour(look === "dark")})
    },
    hint(chart, stop, line) {
      if (chart === "heatmap") return stop.lines[0].text === NONE || stop.lines[0].text === "0" ? "" : "Click: the last such hour"
      const {field, choice} = line?.field ? line : stop
      if (!field) return ""
      return all(page.pairs, field).includes(choice) ? "Click: show all again" : `Click: only ${choice}`
    },
    pick(chart, stop, line, add) {
      if (chart === "heatmap") return page.zoom(...lastHour(stop, page.bounds().until))
      const {field, choice} = line?.field ? line : stop
      if (field) page.choose(field, choice, add)
    },
  }
  return page
}

/** The last such hour of the week before `until`, in local time. */
function lastHour({weekday, hour}, until) {
  const at = new Date(until)
  at.setHours(hour, 0, 0, 0)
  while ((at.getDay() + 6) % 7 !== weekday || at.getTime() >= until) at.setDate(at.getDate() - 1)
  return [at.getTime(), at.getTime() + HOUR]
}

/** Ask for charts that came on screen, together. */
function watcher(page, cards) {
  const seen = new Set()
  let timer = null
  const tell = () => {
    timer = null
    page.ask({do: "see", charts: [...seen]})
  }
  const eyes = new IntersectionObserver((entries) => {
    for (const {target, isIntersecting} of entries) seen[isIntersecting ? "add" : "delete"](target.dataset.chart)
    timer ||= setTimeout(tell, QUIET)
  }, {rootMargin: SEEN_AHEAD, scrollMargin: SEEN_AHEAD})
  for (const card of cards) eyes.observe(card.node)
  return {remove: () => eyes.disconnect()}
}

/** Look again when rows were written, not oftener than can be afforded, and when time has moved on. */
function renewer(page, model, root, took) {
  let last = performance.now(), timer = null
  const due = () => Math.max(LEAST_PAUSE, SHARE * took())
  const moving = () => !page.paused && !timeOf(page.pairs).until && !document.hidden && root.getClientRects().length > 0
  const look = () => {
    timer = null
    if (!moving()) return
    last = performance.now()
    page.ask({do: "refresh"})
  }
  const soon = () => { timer ||= setTimeout(look, Math.max(0, due() - (performance.now() - last))) }
  const clock = setInterval(() => { if (moving() && performance.now() - last > OLD) look() }, OLD / 4)
  let known = model.written
  model.on("written", () => {
    if (known >= 0) soon() // the first number is no news
    known = model.written
  })
  return {remove: () => {
    clearTimeout(timer)
    clearInterval(clock)
  }}
}

function saveFile({name, data, type}) {
  const content = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
  const link = h("a", {href: URL.createObjectURL(new Blob([content], {type})), download: name})
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
}

/** Follow the host's colours: a transition on an element that nobody sees tells of any change of theme. */
function followTheme(page, root, probe) {
  const read = () => {
    const found = coloursOf(root, probe)
    page.look = {...found, muted: plainColour(found.muted), line: plainColour(found.line)}
  }
  read()
  probe.addEventListener("transitionend", () => {
    const before = JSON.stringify(page.look)
    read()
    if (JSON.stringify(page.look) !== before) page.redraw()
  })
}

export function render({model, view}) {
  const page = pageOf(model, view)
  const bar = model.parts.includes("bar") ? filterBar(page) : null
  const summary = model.parts.includes("tiles") ? tiles(page) : null
  const chosen = chips(page), problems = problemsLine(model), probe = h("div", {class: "probe", "aria-hidden": "true"})
  const cards = model.parts.filter((name) => model.infos[name]).map((name) => chartCard(page, model.infos[name]))
  const grid = h("div", {class: "grid", "data-alone": cards.length === 1 || null}, ...cards.map((card) => card.node))
  const {root, whole} = stage("analytics", probe, bar?.node, problems.node, h("div", {class: "notices"}, noticeLine(model)), chosen.node, summary?.node, grid)
  const numbers = () => summary?.show(model.stats ? JSON.parse(model.stats) : null)
  const show = () => {
    bar?.show()
    chosen.show()
    numbers()
    for (const card of cards) {
      card.mind()
      card.show()
    }
  }
  matchHost(root)
  setTimeout(() => {
    matchHost(root)
    followTheme(page, root, probe)
    page.onChange(show)
    for (const card of cards) {
      const put = () => card.take(model[`chart_${card.info.name}`])
      model.on(`chart_${card.info.name}`, put)
      put()
    }
    page.tell(model.linked ? fromAddress().pairs : model.filter)
  })
  model.on("stats", numbers)
  model.on("choices", () => bar?.show())
  model.on("chosen", () => page.choose(model.chosen.field, model.chosen.value, model.chosen.add))
  model.on("problems", problems.show)
  model.on("file", () => { if (model.file.data) saveFile(model.file) })
  const follow = (pairs) => {
    const same = JSON.stringify(pairs) === JSON.stringify(page.pairs)
    page.pairs = pairs
    if (model.linked) history.replaceState(history.state, "", toAddress(page.pairs, page.chosen(), page.usual))
    if (!same) page.redraw()
  }
  model.on("told", () => {
    const {pairs, from, turn} = model.told
    if (from !== page.id || turn === page.turn) follow(pairs) // else this page has gone on meanwhile
  })
  const back = () => {
    const {pairs, options} = fromAddress()
    page.adopt(pairs, options)
  }
  if (model.linked) window.addEventListener("popstate", back)
  problems.show()
  closeOutside(model, root)
  page.alone = cards.length === 1
  const room = new ResizeObserver(([{contentRect}]) => { page.room = contentRect.width })
  room.observe(grid)
  const helpers = [{remove: () => room.disconnect()}, watcher(page, cards), renewer(page, model, root, () => cards.reduce((sum, card) => sum + card.took, 0))]
  watchEye(model, view, root)
  model.on("lifecycle:remove", () => {
    window.removeEventListener("popstate", back)
    for (const one of [...helpers, ...cards]) one.remove()
  })
  return whole
}
