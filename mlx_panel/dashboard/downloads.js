// What is on its way from the hub, and what was. Python hands on the server's jobs; this file draws them and asks.

const DOWNLOAD_STATES = {
  queued: ["Waiting", "calm"], downloading: ["Downloading", "busy"], verifying: ["Checking", "busy"], paused: ["Paused", "warn"],
  completed: ["Completed", "good"], failed: ["Failed", "bad"], cancelled: ["Cancelled", "calm"],
}
const NOTHING_COMES = "Nothing is on its way. A model found on the hub is fetched with one press; it goes on when this page is closed."
const OVER = ["completed", "failed", "cancelled"]
const LINGER = 6000 // milliseconds one that is done stays above, before it fades into the list
const FADE = 900 // milliseconds; as in the style sheet

/** What one can do with a download: [title, message] in the order of the buttons; Cancel asks once more. */
function steps(state) {
  if (state === "queued" || state === "downloading") return [["Pause", "pause"], ["Cancel", "cancel"]]
  if (state === "paused") return [["Resume", "resume"], ["Cancel", "cancel"]]
  if (state === "verifying") return [["Cancel", "cancel"]]
  return state === "completed" ? [["Forget", "forget"]] : [["Retry", "retry"], ["Forget", "forget"]]
}

/** How far it is, in words: size, share, rate, time left. */
function reading(one) {
  const size = one.total ? `${bytes(one.done)} of ${bytes(one.total)}` : bytes(one.done)
  const words = [size]
  if (one.state === "downloading") {
    words.push(one.rate ? `${bytes(one.rate)}/s` : "no data at this moment")
    if (one.seconds_left != null && one.rate) words.push(`${span(Math.ceil(one.seconds_left))} left`)
  }
  return words.join(" · ")
}

function files(one) {
  const words = one.files ? [`${count(one.files_done)} of ${plural(one.files, "file")}`] : []
  if (one.file && !OVER.includes(one.state)) words.push(one.file)
  if (one.retries) words.push(`${plural(one.retries, "connection")} broke`)
  if (one.note) words.push(one.note)
  return words.join(" · ")
}

function revisionOf(one) {
  return one.revision && one.revision !== "main" ? `at ${one.revision}` : ""
}

function buttonsFor(one, press) {
  return steps(one.state).map(([title, what]) => {
    if (what === "cancel") return twice(title, "Really cancel", one.model, () => press(what, one.task), "What was fetched is deleted; Pause keeps it")
    const kind = {resume: "tonal", retry: "tonal"}[what]
    const kept = one.state === "completed" ? "the model stays" : "what was fetched is deleted"
    const hint = what === "forget" ? `Takes the line off this list; ${kept}` : null
    return h("button", {type: "button", class: kind, title: hint, "aria-label": `${title} ${one.model}`, onclick: () => press(what, one.task)}, title)
  })
}

function downloadRow(first, press) {
  const state = h("span", {class: "chip"})
  const bar = progressBar(`Download of ${first.model}`)
  const share = h("span", {class: "share"})
  const size = h("span")
  const about = h("span", {class: "muted file"})
  const fault = h("p", {class: "fault", hidden: true})
  const buttons = h("div", {class: "do"})
  const node = h("article", {class: "download", "aria-label": first.model},
    h("div", {class: "top"}, h("span", {class: "id"}, first.model), h("small", {}, revisionOf(first)), state, h("span", {class: "grow"}), buttons),
    bar.node, h("div", {class: "line"}, share, size, about), fault)
  let drawn = ""
  const show = (one, busy) => {
    const [word, tone] = DOWNLOAD_STATES[one.state] || [one.state, "calm"]
    say(state, word)
    mark(state, "data-tone", tone)
    bar.show(one.total ? one.done / one.total : one.state === "downloading" ? null : 0, tone)
    say(share, one.total ? percent(Math.floor(100 * one.done / one.total) / 100) : "")
    say(size, reading(one))
    say(about, files(one))
    fault.hidden = !one.error
    say(fault, one.error)
    if (drawn !== one.state) { // else a question that was asked in the row would be forgotten
      drawn = one.state
      buttons.replaceChildren(...buttonsFor(one, press))
    }
    for (const button of buttons.children) button.disabled = busy
  }
  return {node, show}
}

function pastRow(one, press) {
  const took = one.ended && one.created ? `in ${span(Math.round(one.ended - one.created))}` : ""
  const [word, tone] = DOWNLOAD_STATES[one.state]
  const words = [one.total ? bytes(one.total) : "", one.state === "completed" ? took : "", revisionOf(one)].filter(Boolean).join(" · ")
  const about = h("small", {}, words, words ? " · " : "", moment(one.ended))
  const node = h("li", {class: "past"}, chip(word, tone), h("span", {class: "id"}, one.model), about, h("span", {class: "grow"}),
    h("span", {class: "do"}, ...buttonsFor(one, press)), one.error ? h("p", {class: "fault"}, one.error) : null)
  return {node, show: (_, busy) => node.querySelectorAll("button").forEach((button) => { button.disabled = busy })}
}

/** All downloads, newest first: what the server listed, and over it what it says each second. */
function together(known, live) {
  const all = new Map([...known, ...live].map((one) => [one.task, one]))
  return [...all.values()].sort((a, b) => b.created - a.created)
}

/** Which stay above: those under way, failed ones, and those that were seen to end a moment ago. */
function lingering(changed) {
  const ending = new Map()
  return {
    above: (one, before) => {
      if (!OVER.includes(one.state)) ending.delete(one.task)
      if (!OVER.includes(one.state) || one.state === "failed") return true
      if (!ending.has(one.task) && before.has(one.task)) {
        ending.set(one.task, performance.now())
        setTimeout(changed, LINGER)
        setTimeout(changed, LINGER + FADE)
      }
      return ending.has(one.task) && performance.now() - ending.get(one.task) < LINGER + FADE
    },
    fades: (one) => ending.has(one.task) && performance.now() - ending.get(one.task) >= LINGER,
  }
}

function summary(all) {
  const running = all.filter((one) => one.state === "downloading")
  const rate = running.reduce((sum, one) => sum + one.rate, 0)
  const waiting = all.filter((one) => one.state === "queued").length
  const paused = all.filter((one) => one.state === "paused").length
  return [running.length ? `${count(running.length)} running, ${bytes(rate)}/s` : "", waiting ? `${count(waiting)} waiting` : "",
    paused ? `${count(paused)} paused` : ""].filter(Boolean).join(" · ")
}

/** Speaks when a download ends, and only then. */
function speaker() {
  const node = h("div", {class: "hush", role: "status", "aria-live": "polite"})
  let before = null
  const show = (all) => {
    const now = new Map(all.map((one) => [one.task, one.state]))
    const news = before ? all.filter((one) => before.has(one.task) && before.get(one.task) !== one.state && OVER.includes(one.state)) : []
    if (news.length) say(node, news.map((one) => `${one.model}: ${DOWNLOAD_STATES[one.state][0]}`).join(", "))
    before = now
  }
  return {node, show}
}

export function render({model, view}) {
  const voice = speaker()
  const total = h("span", {class: "muted"})
  const list = h("div", {class: "active"})
  const older = h("ul")
  const heading = h("summary")
  const past = h("details", {class: "earlier", hidden: true}, heading, older)
  const empty = h("p", {class: "none muted"}, NOTHING_COMES)
  const panel = h("section", {class: "panel", "aria-label": "Downloads"}, h("header", {}, h("h2", {}, "Downloads"), total),
    h("div", {class: "notices"}, noticeLine(model)), list, empty, past)
  const {root, whole} = stage("downloads", voice.node, panel)
  const rows = new Map(), lines = new Map()
  let shownAbove = new Set()
  const press = (what, task) => model.send_msg({do: what, task})
  const linger = lingering(() => show())
  const show = () => {
    const all = together(JSON.parse(model.known || "[]"), JSON.parse(model.live))
    const above = all.filter((one) => linger.above(one, shownAbove))
    const below = all.filter((one) => !above.includes(one))
    shownAbove = new Set(above.map((one) => one.task))
    keyed(rows, above, list, (one) => one.task, (one) => downloadRow(one, press))
    above.forEach((one) => {
      rows.get(one.task).show(one, model.busy.includes(one.task))
      rows.get(one.task).node.classList.toggle("fading", linger.fades(one))
    })
    keyed(lines, below, older, (one) => `${one.task} ${one.state} ${one.ended}`, (one) => pastRow(one, press))
    below.forEach((one) => lines.get(`${one.task} ${one.state} ${one.ended}`).show(one, model.busy.includes(one.task)))
    say(total, summary(all))
    say(heading, `Earlier (${count(below.length)})`)
    past.hidden = below.length === 0
    empty.hidden = above.length > 0
    panel.classList.toggle("quiet-panel", above.length === 0)
    voice.show(all)
  }
  model.on("live", show)
  model.on("known", show)
  model.on("busy", show)
  model.on("news", () => model.send_msg({do: "ask"}))
  show()
  watchEye(model, view, root)
  return whole
}
