// Words, numbers and colours of the audit's charts.

const MINUTE = 60000, HOUR = 60 * MINUTE, DAY = 24 * HOUR // milliseconds
const WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
const WHOLE_WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
const RANGE_WORDS = {"1h": "Last hour", "6h": "6 hours", "24h": "24 hours", "7d": "7 days", "30d": "30 days", all: "All"}
const RANGE_SHORT = {"1h": "1 h", "6h": "6 h", "24h": "24 h", "7d": "7 d", "30d": "30 d", all: "All"}
const RANGE_MS = {"1h": HOUR, "6h": 6 * HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
const FIELD_WORDS = {model: "Model", caller: "Caller", status: "Status", endpoint: "Endpoint", backend: "Backend", error: "Error", preset: "Preset",
  text: "Name has", since: "From", until: "To", range: "Range", scope: "Requests"}
const OPTION_LABELS = {by: "By", metric: "Time", value: "Colour", limit: "Rows"}
const OPTION_WORDS = {none: "all together", ttft: "first token", itl: "between tokens", queue: "in the queue", total: "whole request",
  requests: "requests", tokens: "tokens"}
const COLUMN_WORDS = {time: "Time", group: "Group", requests: "Requests", prompt_tokens: "Prompt tokens", cached_tokens: "Cached tokens",
  completion_tokens: "Answer tokens", p50: "50 %", p90: "90 %", p95: "95 %", p99: "99 %", max: "Longest", weekday: "Weekday", hour: "Hour",
  value: "Value", server: "Server", answer: "One answer", share: "From the cache", saved: "Time saved", id: "No.", request_id: "Request",
  model: "Model", endpoint: "Endpoint", status: "Status", duration: "Duration", ttft: "First token", queue: "Queue", kind: "What", seconds: "Took",
  bytes: "Memory", reason: "Why", running: "Running", waiting: "Waiting", caller: "Caller", errors: "Errors", cost: "Cost"}
const EVENT_WORDS = {loaded: "Loaded", load_failed: "Load failed", unloaded: "Unloaded", evicted: "Made room", expired: "Idle too long", died: "Died",
  restarted: "Restarted", given_up: "Given up"}
// Where a page says it better than the chart's own line, which is for any client.
const DOC_WORDS = {
  requests: "By when they arrived. Drag over a time to look closer, click a colour to see only that.",
  percentiles: "The same for the whole time, group beside group, on a logarithmic scale.",
  heatmap: "When requests arrive, or how long their first token takes, in your local time.",
  concurrency: "Requests that ran, and that waited for their turn or for a model's load, on average.",
  cost: "What cloud models cost by the prices you set; local ones cost nothing.",
  slowest: "Those that took longest; the number leads to where the time went.",
}

// Eight colours that people with any colour vision tell apart, each in a shade for light and one for dark paper.
const PALETTE = {
  light: ["#0072b2", "#d55e00", "#009e73", "#b0578d", "#b07a00", "#3a9bd1", "#6a51a3", "#2b3542", "#8a8a8a"],
  dark: ["#4aa3df", "#f08a4b", "#2fc79a", "#df8fbc", "#e3b341", "#8fd0f5", "#a996e0", "#f2ead8", "#8b929a"],
}
const TONES = {
  light: {success: "#009e73", error: "#c8321f", timeout: "#b07a00", cancelled: "#7a7a7a", rejected: "#6a51a3"},
  dark: {success: "#2fc79a", error: "#ff7a66", timeout: "#e3b341", cancelled: "#a3a9b0", rejected: "#a996e0"},
}
const EVENT_TONES = {loaded: "success", restarted: "timeout", unloaded: "cancelled", expired: "cancelled", evicted: "rejected", died: "error",
  load_failed: "error", given_up: "error"}
const EVENT_MARKS = {loaded: "triangle", restarted: "diamond", unloaded: "inverted_triangle", expired: "inverted_triangle",
  evicted: "inverted_triangle", died: "x", load_failed: "x", given_up: "x"}
const REST_COLOUR = 8 // of "other", and of what is left when colours run out

const dayTime = new Intl.DateTimeFormat(undefined, {weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23"})
const dayOnly = new Intl.DateTimeFormat(undefined, {weekday: "short", day: "numeric", month: "short", year: "numeric"})
const timeOnly = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", hourCycle: "h23"})
const timeExact = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"})
const precise = new Intl.DateTimeFormat(undefined, {day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit",
  second: "2-digit", hourCycle: "h23"})
const decimals = new Intl.NumberFormat("en", {maximumFractionDigits: 2})
const scarce = new Intl.NumberFormat("en", {maximumSignificantDigits: 2})
const compact = new Intl.NumberFormat("en", {notation: "compact", maximumFractionDigits: 1})

/** From one moment to another, in local time, as short as can be understood. */
function between(from, to) {
  const begin = new Date(from), end = new Date(to)
  if (to - from >= DAY && begin.getHours() + begin.getMinutes() === 0) {
    const last = new Date(to - 1)
    return begin.toDateString() === last.toDateString() ? dayOnly.format(begin) : `${dayOnly.format(begin)} – ${dayOnly.format(last)}`
  }
  if (to - from < MINUTE) return `${dayTime.format(begin).replace(timeOnly.format(begin), "")}${timeExact.format(begin)}–${timeExact.format(end)}`
  return `${dayTime.format(begin)}–${begin.toDateString() === end.toDateString() ? timeOnly.format(end) : dayTime.format(end)}`
}

function dollars(value) {
  if (value == null) return NONE
  if (value === 0) return "$0"
  return value < 0.01 ? `$${scarce.format(value)}` : `$${value.toLocaleString("en", {minimumFractionDigits: 2, maximumFractionDigits: 2})}`
}

/** A value with its unit (see `analytics.Column`), exactly enough to be quoted. */
function worded(unit, value) {
  if (value == null) return NONE
  switch (unit) {
    case "time": return precise.format(new Date(value))
    case "ms": return duration(value)
    case "s": return value ? span(value) : NONE
    case "share": return `${decimals.format(100 * value)} %`
    case "bytes": return value ? bytes(value) : NONE
    case "usd": return dollars(value)
    case "tokens/s": return `${decimals.format(value)} tok/s`
    case "tokens": return decimals.format(Math.round(value))
    case "count": return decimals.format(value)
    default: return String(value)
  }
}

/** Seven marks at most between 0 and `most`, and how they are written; milliseconds in the unit a person would use. */
function marks(unit, most) {
  const scale = unit === "ms" ? timeScale(most) : unit === "share" ? [0.01, " %"] : [1, unit === "bytes" ? " B" : ""]
  const step = niceStep(most / scale[0] / 5)
  const ticks = [], labels = {}
  const exact = new Intl.NumberFormat("en", {maximumFractionDigits: Math.max(2, Math.min(9, Math.ceil(-Math.log10(step))))})
  for (let at = 0; at <= most / scale[0] * 1.0001; at += step) {
    const value = Number((at * scale[0]).toPrecision(12))
    ticks.push(value)
    labels[value] = unit === "usd" ? dollars(value) : `${at >= 10000 ? compact.format(at) : exact.format(at)}${scale[1]}`
  }
  return {ticks, labels}
}

/** The same on a logarithmic scale: places are powers of ten. Milliseconds. */
function logMarks(least, most) {
  const known = [0.1, 1, 10, 100, 1000, 10000, MINUTE, 10 * MINUTE, HOUR, 10 * HOUR].filter((at) => at >= least / 1.01 && at <= most * 1.01)
  const ticks = known.map(Math.log10)
  return {ticks, labels: Object.fromEntries(known.map((at, place) => [ticks[place], at < 1000 ? `${at} ms` : duration(at).replace(".0", "")]))}
}

function timeScale(most) {
  if (most < 2000) return [1, " ms"]
  if (most < 120000) return [1000, " s"]
  return most < 2 * HOUR ? [MINUTE, " min"] : [HOUR, " h"]
}

function niceStep(rough) {
  if (!(rough > 0)) return 1
  const power = 10 ** Math.floor(Math.log10(rough))
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= rough)
}

function optionWord(value) {
  return OPTION_WORDS[value] || value
}

/** Colours by name for one look; a group keeps its colour as long as the page is open. */
function painter() {
  const places = new Map()
  return (look, kind, name) => {
    const toned = TONES[look][name]
    if (kind === "status" && toned) return toned
    if (name === "other") return PALETTE[look][REST_COLOUR]
    const key = `${kind} ${name}`
    if (!places.has(key)) places.set(key, [...places.keys()].filter((one) => one.startsWith(`${kind} `)).length)
    return PALETTE[look][Math.min(places.get(key), REST_COLOUR)]
  }
}
