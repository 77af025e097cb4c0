// How each chart's table becomes a drawing: layers for the figure, and stops with the values that are read there.

const LEAST_LOG = 0.1 // milliseconds that a logarithmic scale still shows
const LEAST_ROWS = 4 // of a list of names: one alone should not fill the figure
const GAP = 0.08 // share of a bucket left free between bars

/** Whether requests can be filtered by a group: "other" and "all" are several together, and a closed vocabulary has no "unknown". */
const filterable = (field, name) => Boolean(field) && name !== "other" && name !== "all" && !(field === "backend" && name === "unknown")

const index = (answer, name) => answer.columns.findIndex((column) => column.name === name)
const valuesOf = (answer, name) => {
  const place = index(answer, name)
  return answer.rows.map((row) => row[place])
}

function timeScaleOf(answer) {
  const times = valuesOf(answer, "time")
  const size = answer.bucket_seconds * 1000
  return {start: localised(times[0]), end: localised(times[times.length - 1]) + size}
}

function upScale(unit, most, title) {
  const end = most > 0 ? most * 1.08 : 1
  return {start: 0, end, ...marks(unit, end), title}
}

/** The buckets of a chart over time, in order: `rows` of each, where it lies and what it is called. */
function bucketsOf(answer) {
  const size = answer.bucket_seconds * 1000, found = new Map()
  const at = index(answer, "time")
  for (const row of answer.rows) {
    if (!found.has(row[at])) {
      const from = localised(row[at])
      found.set(row[at], {since: row[at], until: row[at] + size, from, to: from + size, title: between(row[at], row[at] + size), rows: []})
    }
    found.get(row[at]).rows.push(row)
  }
  return [...found.values()].sort((a, b) => a.since - b.since)
}

/** Stacked bars: `parts(row)` gives a row's pieces as `{name, value, colour, field, choice}`. */
function stacked(answer, {unit, title, parts, sum}) {
  const bars = emptyLayer("bars"), buckets = bucketsOf(answer), size = answer.bucket_seconds * 1000
  let most = 0
  for (const bucket of buckets) {
    let top = 0
    bucket.lines = []
    for (const part of bucket.rows.flatMap(parts)) {
      if (!part.value) continue
      const low = top
      top += part.value
      for (const [name, value] of Object.entries({x: bucket.from + size / 2, bottom: low, top, width: size * (1 - GAP), colour: part.colour})) bars[name].push(value)
      bucket.lines.push({...part, low, high: top, text: worded(unit, part.value)})
    }
    bucket.lines.reverse()
    if (bucket.lines.length !== 1 || !bucket.lines[0].field) bucket.sum = [sum, worded(unit, top)]
    most = Math.max(most, top)
  }
  return {time: true, pick: "x", layers: {bars}, x: timeScaleOf(answer), y: upScale(unit, most, title), stops: buckets, empty: most === 0}
}

/** Lines over time, one a column; a point that has no neighbour is a dot. */
function curves(answer, {unit, title, columns, filled, most: least = 0, log = false}) {
  const lines = emptyLayer("lines"), dots = emptyLayer("dots"), areas = emptyLayer("areas")
  const buckets = bucketsOf(answer), size = answer.bucket_seconds * 1000
  const height = (value) => (log && value != null ? Math.log10(Math.max(value, LEAST_LOG)) : value)
  let most = least
  for (const {name, colour, dash} of columns) {
    const place = index(answer, name)
    const points = buckets.map((bucket) => ({x: bucket.from + size / 2, y: height(bucket.rows[0][place])}))
    for (const run of runs(points)) {
      most = Math.max(most, ...run.map((point) => point.y))
      if (filled === name && run.length > 1) addArea(areas, run, colour)
      if (run.length === 1) addDot(dots, {x: run[0].x, y: run[0].y, marker: "circle", size: 5, colour, edge: colour})
      else addLine(lines, run, colour, dash || "solid")
    }
  }
  for (const bucket of buckets) {
    bucket.lines = columns.map(({name, label, colour}) => ({name: label, colour, at: height(bucket.rows[0][index(answer, name)]),
      text: worded(unit, bucket.rows[0][index(answer, name)])}))
  }
  const known = buckets.some((bucket) => bucket.lines.some((line) => line.at))
  const y = log ? logScale(lines.ys.concat([dots.y]).flat()) : upScale(unit, most, title)
  return {time: true, pick: "x", layers: {lines, dots, areas}, x: timeScaleOf(answer), y, stops: buckets, empty: !known}
}

/** A scale for values that are powers of ten, milliseconds. */
function logScale(powers) {
  const start = powers.length ? Math.floor(Math.min(...powers)) : 0, end = Math.max(start + 1, Math.max(...powers) + 0.08)
  return {start, end, ...logMarks(10 ** start, 10 ** end)}
}

function runs(points) {
  const found = [[]]
  for (const point of points) {
    if (point.y == null) found.push([])
    else found[found.length - 1].push(point)
  }
  return found.filter((run) => run.length)
}

function addLine(lines, run, colour, dash) {
  lines.xs.push(run.map((point) => point.x))
  lines.ys.push(run.map((point) => point.y))
  lines.colour.push(colour)
  lines.width.push(2)
  lines.dash.push(dash)
}

function addArea(areas, run, colour) {
  areas.xs.push([run[0].x, ...run.map((point) => point.x), run[run.length - 1].x])
  areas.ys.push([0, ...run.map((point) => point.y), 0])
  areas.colour.push(colour)
}

function addDot(dots, dot) {
  for (const [name, value] of Object.entries(dot)) dots[name].push(value)
}

/** Rows of names from the top down: `draw(y, row)` adds to the layers, and gives the lines that are read. */
function listed(names, unit, most, title) {
  const count = Math.max(names.length, LEAST_ROWS)
  const ticks = names.map((_, place) => count - place - 0.5)
  const short = (name) => (name.length > 22 ? `${name.slice(0, 10)}…${name.slice(-11)}` : name)
  return {y: {start: 0, end: count, ticks, labels: Object.fromEntries(names.map((name, place) => [ticks[place], short(name)]))},
    x: upScale(unit, most, title), level: (place) => count - place - 0.5}
}

function chosenLine(name, field, extra = {}) {
  return {name, field: filterable(field, name) ? field : null, choice: name, ...extra}
}

// --- one function a chart -----------------------------------------------------------------------------------

function drawRequests(answer, paint) {
  const by = answer.options.by
  return stacked(answer, {unit: "count", title: "requests", sum: "All", parts: ([, group, requests]) =>
    [chosenLine(group, by === "none" ? null : by, {value: requests, colour: paint(by, group)})]})
}

function drawTokens(answer, paint) {
  const by = answer.options.by
  const parts = by === "none"
    ? ([, , prompt, cached, made]) => [{name: "From the cache", value: cached, colour: paint.tone(2)}, {name: "Rest of the prompt", value: prompt - cached, colour: paint.tone(0)},
      {name: "Answer", value: made, colour: paint.tone(1)}]
    : ([, group, prompt, , made]) => [chosenLine(group, by, {value: prompt + made, colour: paint(by, group)})]
  return stacked(answer, {unit: "tokens", title: "tokens", sum: "All", parts})
}

function drawLatency(answer, paint) {
  const columns = [["p50", "50 %", 0, "solid"], ["p95", "95 %", 1, "solid"], ["p99", "99 %", 3, "dashed"]]
    .map(([name, label, tone, dash]) => ({name, label: `${label} under`, colour: paint.tone(tone), dash}))
  const drawing = curves(answer, {unit: "ms", columns, log: answer.show === "log"})
  for (const stop of drawing.stops) stop.sum = ["Requests", worded("count", stop.rows[0][index(answer, "requests")])]
  return {...drawing, legend: columns.map(({label, colour, dash}) => ({name: label, colour, dash}))}
}

function drawPercentiles(answer, paint) {
  const names = valuesOf(answer, "group"), by = answer.options.by
  const known = answer.rows.filter((row) => row[2] != null)
  const log = (ms) => Math.log10(Math.max(ms, LEAST_LOG))
  const scales = {...listed(names, "ms", 1), x: logScale(known.flatMap((row) => [log(row[2]), log(row[5])]))}
  const lines = emptyLayer("lines"), dots = emptyLayer("dots")
  const shape = [[2, "circle", 10, "50 %"], [3, "square", 7, "90 %"], [4, "diamond", 10, "95 %"], [5, "triangle", 9, "99 %"]]
  const stops = answer.rows.map((row, place) => {
    const level = scales.level(place), colour = paint(by, row[0])
    if (row[2] != null) addLine(lines, [{x: log(row[2]), y: level}, {x: log(row[5]), y: level}], colour, "solid")
    if (row[2] != null) for (const [column, marker, size] of shape) addDot(dots, {x: log(row[column]), y: level, marker, size, colour, edge: colour})
    return {...chosenLine(row[0], by === "none" ? null : by), title: row[0], from: level - 0.5, to: level + 0.5, line: -1,
      lines: [...shape.map(([column, , , label]) => ({name: `${label} under`, colour, text: worded("ms", row[column])})),
        {name: "Longest", text: worded("ms", row[6])}, {name: "Requests", text: worded("count", row[1])}]}
  })
  return {pick: "y", layers: {lines, dots}, ...scales, stops, empty: !known.length,
    legend: shape.map(([, marker, , label]) => ({name: `${label} under`, marker, colour: "currentColor"}))}
}

function drawHeatmap(answer, paint) {
  const unit = answer.columns[2].unit, most = Math.max(0, ...valuesOf(answer, "value"))
  const cells = emptyLayer("cells")
  const stops = answer.rows.map(([weekday, hour, value]) => {
    const low = 6 - weekday
    for (const [name, one] of Object.entries({x: hour + 0.5, y: low + 0.5, colour: paint.heat(most ? (value ?? 0) / most : 0)})) cells[name].push(one)
    const what = {requests: "Requests", ttft: "First token, median", tokens: "Tokens"}[answer.options.value]
    return {title: `${WHOLE_WEEKDAYS[weekday]} ${hour}:00–${hour + 1}:00`, from: hour, to: hour + 1, low, high: low + 1, weekday, hour, line: 0,
      lines: [{name: what, text: worded(unit, value), colour: paint.heat(most ? (value ?? 0) / most : 0)}]}
  })
  const hours = [0, 3, 6, 9, 12, 15, 18, 21, 24]
  return {pick: "cell", across: 24, layers: {cells}, stops, empty: most === 0, x: {start: 0, end: 24, ticks: hours, labels: Object.fromEntries(hours.map((hour) => [hour, `${hour}:00`]))},
    y: {start: 0, end: 7, ticks: WEEKDAYS.map((_, day) => 6.5 - day), labels: Object.fromEntries(WEEKDAYS.map((day, place) => [6.5 - place, day]))},
    ramp: most ? [worded(unit, 0), worded(unit, most), [0, 0.25, 0.5, 0.75, 1].map(paint.heat)] : null}
}

function drawThroughput(answer, paint) {
  const columns = [{name: "server", label: "Whole server", colour: paint.tone(0)}, {name: "answer", label: "One answer", colour: paint.tone(1)}]
  return {...curves(answer, {unit: "tokens/s", title: "tokens per second", columns, filled: "server"}), legend: columns.map(({label, colour}) => ({name: label, colour, dash: "solid"}))}
}

function drawCache(answer, paint) {
  if (answer.show === "saved") {
    const drawing = stacked(answer, {unit: "ms", sum: "Saved", parts: (row) => [{name: "Prefill time saved", value: row[4], colour: paint.tone(2)}]})
    return {...drawing, legend: [{name: "Prefill time saved, an estimate", colour: paint.tone(2)}]}
  }
  const columns = [{name: "share", label: "From the cache", colour: paint.tone(2)}]
  const drawing = curves(answer, {unit: "share", title: "of prompt tokens", columns, filled: "share", most: 1})
  for (const stop of drawing.stops) {
    const [, prompt, cached, , saved] = stop.rows[0]
    stop.lines.push({name: "Prompt tokens", text: worded("tokens", prompt)}, {name: "of them cached", text: worded("tokens", cached)}, {name: "Time saved", text: worded("ms", saved)})
  }
  return {...drawing, empty: valuesOf(answer, "prompt_tokens").every((value) => !value), y: {...upScale("share", 1, "of prompt tokens"), end: 1.04},
    legend: [{name: "Share of prompt tokens from the cache", colour: paint.tone(2), dash: "solid"}]}
}

function drawErrors(answer, paint) {
  return stacked(answer, {unit: "count", title: "requests", sum: "All", parts: ([, group, requests]) =>
    [chosenLine(group, "error", {value: requests, colour: paint("error", group)})]})
}

function drawLoads(answer, paint, range) {
  const names = [...new Set(valuesOf(answer, "model"))].sort()
  const scales = listed(names, "count", 1)
  const dots = emptyLayer("dots"), spans = emptyLayer("spans"), open = new Map()
  const begin = range.since ?? answer.rows[0]?.[0] ?? 0, end = Math.max(range.until, begin + MINUTE)
  const lived = (model, from, to, colour) => {
    const level = scales.level(names.indexOf(model))
    for (const [name, value] of Object.entries({y: level, left: localised(from), right: localised(to), height: 0.3, colour, alpha: 0.35})) spans[name].push(value)
  }
  const stops = answer.rows.map(([time, model, kind, seconds, size, reason]) => {
    const level = scales.level(names.indexOf(model)), colour = paint("status", EVENT_TONES[kind] || "cancelled"), at = localised(time)
    if (kind === "loaded") open.set(model, time)
    else if (kind !== "restarted" && kind !== "load_failed") {
      if (open.get(model) !== null) lived(model, open.get(model) ?? begin, time, paint.tone(0))
      open.set(model, null)
    }
    addDot(dots, {x: at, y: level, marker: EVENT_MARKS[kind] || "circle", size: 11, colour, edge: colour})
    const facts = [["Took", worded("s", seconds)], ["Memory", worded("bytes", size)], ["Why", reason || NONE]].filter(([, text]) => text !== NONE)
    return {title: `${EVENT_WORDS[kind] || kind}: ${model}`, at, level, line: -1, field: "model", choice: model,
      lines: [{name: worded("time", time), text: "", colour}, ...facts.map(([name, text]) => ({name, text}))]}
  })
  for (const [model, time] of open) if (time !== null) lived(model, time, end, paint.tone(0))
  const seen = [...new Set(valuesOf(answer, "kind"))]
  return {time: true, pick: "point", layers: {spans, dots}, ...scales, x: {start: localised(begin), end: localised(end)}, stops, empty: !answer.rows.length,
    legend: [{name: "In memory", colour: paint.tone(0), soft: true}, ...seen.map((kind) => ({name: EVENT_WORDS[kind] || kind, colour: paint("status", EVENT_TONES[kind]), marker: EVENT_MARKS[kind]}))]}
}

function drawConcurrency(answer, paint) {
  const columns = [{name: "running", label: "Running", colour: paint.tone(0)}, {name: "waiting", label: "Waiting", colour: paint.tone(1)}]
  return {...curves(answer, {unit: "count", title: "requests at once", columns, filled: "running"}), legend: columns.map(({label, colour}) => ({name: label, colour, dash: "solid"}))}
}

function drawCallers(answer, paint) {
  const rows = answer.rows.slice(0, 12), most = Math.max(0, ...rows.map((row) => row[1]))
  const scales = listed(rows.map((row) => row[0]), "count", most, "requests")
  const spans = emptyLayer("spans")
  const stops = rows.map((row, place) => {
    const level = scales.level(place), [caller, requests, errors] = row
    const add = (left, right, colour) => {
      for (const [name, value] of Object.entries({y: level, left, right, height: 0.56, colour, alpha: 1})) spans[name].push(value)
    }
    add(0, requests - errors, paint.tone(0))
    if (errors) add(requests - errors, requests, paint("status", "error"))
    return {...chosenLine(caller, "caller"), title: caller, from: level - 0.5, to: level + 0.5, line: -1, lines: answer.columns.slice(1).map(({name, unit}, column) =>
      ({name: COLUMN_WORDS[name] || name, text: worded(unit, row[column + 1]), colour: column === 0 ? paint.tone(0) : column === 1 ? paint("status", "error") : null}))}
  })
  return {pick: "y", layers: {spans}, ...scales, stops, empty: !rows.length, more: answer.rows.length - rows.length,
    legend: [{name: "Went well", colour: paint.tone(0)}, {name: "Failed or rejected", colour: paint("status", "error")}]}
}

function drawCost(answer, paint) {
  const by = answer.options.by
  return stacked(answer, {unit: "usd", title: "US dollars", sum: "All", parts: ([, group, cost]) => [chosenLine(group, by === "none" ? null : by, {value: cost, colour: paint(by, group)})]})
}
