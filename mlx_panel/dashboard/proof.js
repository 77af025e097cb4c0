// The privacy proof: its button, how far it is, and its report. Python holds the proof; this file draws it and asks.

const OFTEN = 500, SELDOM = 5000 // milliseconds between two questions while one runs, and while none does
const STATES = {running: ["Running", "busy"], clean: ["Clean", "good"], found: ["Something was found", "bad"],
  failed: ["Not finished", "bad"], cancelled: ["Cancelled", "warn"]}
const VERDICTS = {own: ["this server's own", "good"], "this machine": ["this machine", "calm"], outside: ["outside", "bad"]}
const KEPT = [
  ["Prefix cache on disk", "What models computed for prompts seen before, with the prompts' token numbers, not encrypted. The Engine tab of the Overview switches it off; the Prefix cache tab empties it.", "/", "Overview"],
  ["Presets and aliases", "System prompts and other values as you wrote them.", "/presets", "Presets"],
  ["Queries over the log", "Those that you saved.", "/sql", "SQL"],
  ["Models", "Their files, and which models you fetched.", "/models", "Models"],
  ["The audit log", "When, which model, how long, how many tokens, how it ended, from which address; the request id that a client chose. Never what was said.", "/audit", "Audit"],
]
const stamp = new Intl.DateTimeFormat(undefined, {year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
  second: "2-digit", hourCycle: "h23"})

function time(iso) {
  return h("time", {datetime: iso, title: iso}, stamp.format(new Date(iso)))
}

function bullets(lines) {
  return h("ul", {}, ...lines.map((line) => h("li", {}, ...coded(line))))
}

/** Text between backticks as code. */
function coded(text) {
  return text.split("`").map((part, place) => (place % 2 ? h("code", {}, part) : part))
}

// --- the run --------------------------------------------------------------------------------------------------------

function runPart(model) {
  const start = h("button", {type: "button", class: "main", onclick: () => model.send_msg({do: "start"})}, "Prove it")
  const cancel = h("button", {type: "button", onclick: () => model.send_msg({do: "cancel"})}, "Cancel")
  const fill = h("i")
  const bar = h("div", {class: "bar", role: "progressbar", "aria-label": "Proof", "aria-valuemin": 0, "aria-valuemax": 100}, fill)
  const step = h("span", {class: "muted"}), sent = h("span", {class: "muted"})
  const line = h("div", {class: "line", "aria-live": "polite"}, step, h("span", {class: "grow"}), sent)
  const words = h("p", {class: "words"}, "Random words are sent through every route of this server, streamed and not, with tools, with structure, "
    + "and with every mistake a request can have. Then everything the server can write is searched for them. It takes about a minute, "
    + "runs on the server whether this page is open or not, and gives way to other requests.")
  const node = h("section", {class: "panel run", "aria-label": "Privacy proof"},
    h("header", {}, h("h2", {}, "Privacy proof"), h("span", {class: "grow"}), cancel, start), words, bar, line)
  const show = () => {
    const {proof, busy} = model
    const running = proof?.state === "running"
    cancel.hidden = bar.hidden = line.hidden = !running
    start.hidden = running
    start.disabled = cancel.disabled = busy || proof == null
    say(start, proof?.state ? "Prove it again" : "Prove it")
    if (!running) return
    const share = proof.total ? Math.min(1, proof.steps / proof.total) : 0
    fill.style.width = `${100 * share}%`
    mark(bar, "aria-valuenow", Math.round(100 * share))
    say(step, proof.step)
    say(sent, `${count(proof.requests)} requests, ${count(proof.places.length)} places searched`)
  }
  return {node, show, on: ["proof", "busy"]}
}

// --- what came of it ------------------------------------------------------------------------------------------------

function saving(model, text, format, to) {
  const button = h("button", {type: "button", onclick: () => {
    model.send_msg({do: "report", format, to})
    if (to !== "clipboard") return
    say(button, "Copied ✓")
    setTimeout(() => say(button, text), 1500)
  }}, text)
  return button
}

function verdictPart(model) {
  const sign = h("span", {class: "sign", "aria-hidden": "true"})
  const chip = h("span", {class: "chip"})
  const words = h("p", {class: "headline"})
  const about = h("p", {class: "muted about"})
  const buttons = h("div", {class: "saving"}, saving(model, "Copy report", "markdown", "clipboard"),
    saving(model, "Download Markdown", "markdown", "file"), saving(model, "Download JSON", "json", "file"))
  const node = h("section", {class: "panel verdict", "aria-label": "What came of it", hidden: true},
    h("div", {class: "big"}, sign, h("div", {class: "grow"}, chip, words, about)), buttons)
  const show = () => {
    const {proof, headline} = model
    node.hidden = !proof?.state || proof.state === "running"
    if (node.hidden) return
    const [word, tone] = STATES[proof.state]
    mark(node, "data-tone", tone)
    say(sign, {good: "✓", bad: "✕", warn: "–"}[tone])
    say(chip, word)
    mark(chip, "data-tone", tone)
    say(words, headline)
    const versions = ["mlx-panel", "mlx", "mlx-lm", "duckdb"].filter((name) => proof.versions[name]).map((name) => `${name} ${proof.versions[name]}`)
    const answered = proof.model ? `Answered by ${proof.model}${proof.embedder ? `, vectors by ${proof.embedder}` : ""}.` : ""
    about.replaceChildren(time(proof.started), `, ${span(proof.seconds)}. ${answered} ${versions.join(", ")}`)
  }
  return {node, show, on: ["proof", "headline"]}
}

function wordsPart(model) {
  const node = h("section", {class: "panel meaning", "aria-label": "What this means"},
    h("div", {}, h("h3", {}, "What a clean proof shows"), bullets(model.shown)),
    h("div", {}, h("h3", {}, "What it does not"), bullets(model.limits)))
  return {node, show: () => {}, on: []}
}

function keptPart(model) {
  const rows = KEPT.map(([name, words, path, title]) => h("li", {}, h("b", {}, name), h("span", {}, words),
    model.linked ? h("a", {href: address(path, model.here, model.linked)}, title) : null))
  const node = h("section", {class: "panel keeping", "aria-label": "Kept on purpose"}, h("header", {}, h("h2", {}, "What is kept on purpose")), h("ul", {}, ...rows))
  return {node, show: () => {}, on: []}
}

// --- the report -----------------------------------------------------------------------------------------------------

function table(heads, rows, label) {
  const head = h("tr", {}, ...heads.map(([title, kind]) => h("th", {scope: "col", class: kind}, title)))
  const lines = rows.map((cells) => h("tr", {"data-tone": cells.tone}, ...cells.map((cell, place) => {
    const [title, kind] = heads[place]
    return h(place ? "td" : "th", {class: kind, "data-label": title, scope: place ? null : "row"}, ...[cell].flat())
  })))
  return h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": label},
    h("table", {}, h("thead", {}, head), h("tbody", {}, ...lines)))
}

/** "1 file", "28 columns". */
function amount({files, unit}) {
  return files === 1 ? `1 ${{processes: "process"}[unit] || unit.slice(0, -1)}` : `${count(files)} ${unit}`
}

function placeRow(place) {
  const notes = [place.note,
    place.older ? `${count(place.older)} older, not changed since and so left out` : "",
    place.skipped ? `${count(place.skipped)} could not be searched` : "",
    place.found ? `${place.expected ? "" : `in ${place.where.join(", ")}, `}as ${place.encodings.join(", ")}` : ""].filter(Boolean)
  const bad = place.found && !place.expected
  const found = place.found ? h("span", {class: "chip", "data-tone": bad ? "bad" : "warn"}, bad ? count(place.found) : "on purpose")
    : h("span", {class: "none"}, "nothing")
  const blind = place.controls < place.planted
  const marks = place.planted ? h("span", {class: blind ? "blind" : ""}, `${place.controls} of ${place.planted}`) : NONE
  return Object.assign([place.name, amount(place), bytes(place.bytes), found, marks, h("small", {}, ...coded(notes.join("; ")))],
    {tone: bad || blind ? "bad" : null})
}

const PLACE_HEADS = [["Place"], ["Searched", "number"], ["Bytes", "number"], ["Found"], ["Marks found", "number"], ["About", "about"]]

function placesPart(model) {
  const body = h("div")
  const node = h("section", {class: "panel places", "aria-label": "What was searched", hidden: true}, h("header", {}, h("h2", {}, "What was searched"),
    h("span", {class: "muted"}, "Marks are put into a place first, in every encoding, to see that the search finds them.")), body)
  let known = 0
  const show = () => {
    const places = model.proof?.places || []
    node.hidden = !places.length
    if (known === places) return
    known = places
    body.replaceChildren(table(PLACE_HEADS, places.map(placeRow), "What was searched"))
  }
  return {node, show, on: ["proof"]}
}

function fold(title, words) {
  const body = h("div"), note = h("span", {class: "muted"})
  const node = h("details", {class: "panel fold", hidden: true}, h("summary", {}, h("h2", {}, title), note), h("p", {class: "words"}, words), body)
  return {node, body, note}
}

function socketsPart(model) {
  const {node, body, note} = fold("Connections", "What the server and its processes held open, looked at each second. A connection is told by its far end, without the port of whoever came.")
  const heads = [["Process"], ["Here"], ["There"], ["Whose"], ["About", "about"]]
  const show = () => {
    const sockets = model.proof?.sockets || []
    node.hidden = !sockets.length
    if (node.hidden) return
    const outside = sockets.filter((one) => one.verdict === "outside").length
    say(note, outside ? `${count(outside)} to other machines` : "none to other machines")
    body.replaceChildren(table(heads, sockets.map((one) => {
      const [word, tone] = VERDICTS[one.verdict]
      return [one.process, h("code", {}, one.local), one.remote ? h("code", {}, one.remote) : NONE,
        h("span", {class: "chip", "data-tone": one.note && one.remote ? "warn" : tone}, word), h("small", {}, one.note)]
    }), "Connections"))
  }
  return {node, show, on: ["proof"]}
}

function sentPart(model) {
  const {node, body, note} = fold("What was sent", "Each request carried canaries in its body, its address or its headers. Most are meant to be refused: that is where programs quote what they were given.")
  const heads = [["Group"], ["Method"], ["Route"], ["Requests", "number"], ["Answers", "about"]]
  const show = () => {
    const sent = model.proof?.sent || []
    node.hidden = !sent.length
    if (node.hidden) return
    say(note, `${count(model.proof.requests)} requests to ${count(new Set(sent.map((one) => one.route)).size)} routes`)
    body.replaceChildren(table(heads, sent.map((one) => [one.group, one.method, h("code", {}, one.route), count(one.requests),
      h("small", {}, Object.entries(one.statuses).map(([status, number]) => `${number} × ${status}`).join(", "))]), "What was sent"))
  }
  return {node, show, on: ["proof"]}
}

function skippedPart(model) {
  const {node, body, note} = fold("What was not tried", "And why.")
  const show = () => {
    const skipped = model.proof?.skipped || []
    node.hidden = !skipped.length || model.proof.state === "running"
    say(note, count(skipped.length))
    body.replaceChildren(h("ul", {class: "plain"}, ...skipped.map((one) => h("li", {}, h("b", {}, `${one.what}. `), one.why))))
  }
  return {node, show, on: ["proof"]}
}

function emptyPart(model) {
  const node = h("div", {class: "panel empty"})
  const show = () => {
    node.hidden = Boolean(model.proof?.state)
    say(node, model.proof == null ? "Asking the server…" : "No proof has run on this server yet.")
  }
  return {node, show, on: ["proof"]}
}

// --- all of it ------------------------------------------------------------------------------------------------------

function deliver({name, text, type, to}) {
  if (to === "clipboard") return copyText(text)
  const link = h("a", {download: name, href: URL.createObjectURL(new Blob([text], {type}))})
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60000)
}

/** Ask while it is looked at: often while a proof runs, else now and then, as another page may have begun one. */
function poll(model, root) {
  let last = performance.now()
  const timer = setInterval(() => {
    const pause = model.proof?.state === "running" ? OFTEN : SELDOM
    if (document.hidden || !root.getClientRects().length || root.classList.contains("lost") || performance.now() - last < pause) return
    last = performance.now()
    model.send_msg({do: "ask"})
  }, OFTEN)
  model.on("lifecycle:remove", () => clearInterval(timer))
}

export function render({model, view}) {
  const parts = [runPart, verdictPart, emptyPart, placesPart, socketsPart, sentPart, skippedPart, wordsPart, keptPart].map((make) => make(model))
  const {root, whole} = stage("proof", h("div", {class: "notices"}, noticeLine(model)), ...parts.map((part) => part.node))
  for (const {show, on} of parts) {
    for (const name of on) model.on(name, show)
    show()
  }
  model.on("file", () => deliver(model.file))
  poll(model, root)
  watchEye(model, view, root)
  return whole
}
