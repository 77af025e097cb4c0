// The upper half of a request's page: which request it is, one sentence, and the shares of its time.

const moment = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "medium"})

function copyId(id) {
  const button = h("button", {type: "button", class: "tonal copy", "aria-label": `Copy request id ${id}`}, "Copy id")
  button.addEventListener("click", async () => {
    await copyText(id)
    button.textContent = "Copied ✓"
    setTimeout(() => { button.textContent = "Copy id" }, 1200)
  })
  return button
}

/** The spans as a table for other programs: RFC 4180, milliseconds. */
function spansCsv(found) {
  const rows = found.spans.map((span) => [span.kind, span.at_ms, span.ms, span.tokens].join(","))
  return ["kind,at_ms,ms,tokens", ...rows, ""].join("\r\n")
}

/** A word of the caller's as a file's name. */
const fileName = (found) => `request-${found.id}`

function step(model, id, label, mark, key) {
  if (id == null) return h("button", {type: "button", class: "step", disabled: true, title: label, "aria-label": label}, mark)
  return toRequest(model, id, {class: "step", title: `${label} (${key})`, "aria-label": label, "aria-keyshortcuts": key}, mark)
}

function heading(model, found) {
  const record = found.record
  const same = found.same.filter((id) => id !== found.id)
  return [h("h2", {}, `Request ${shortName(record.request_id)}`),
    h("span", {class: "chip", "data-tone": REQUEST_TONES[record.status]}, record.status),
    h("span", {class: "muted grow"}, `${record.model_used || record.model_requested || record.endpoint}, ${moment.format(new Date(record.timestamp))}, number ${found.id} of the log`,
      ...(same.length ? [` – ${same.length} more with this id: `, ...same.slice(0, 5).flatMap((id) => [toRequest(model, id, {}, String(id)), " "])] : [])),
    step(model, found.before, "Request before", "‹", "Alt+ArrowLeft"), step(model, found.after, "Request after", "›", "Alt+ArrowRight")]
}

/** The parts of its time in one bar, and each with its name, how long, and how much of the whole. */
function shareBar(model, found) {
  const parts = Object.entries(found.shares)
  const whole = parts.reduce((sum, [, ms]) => sum + ms, 0) || 1
  const describe = ([kind, ms]) => `${model.names[kind]} ${duration(ms)}, ${percent(ms / whole)}`
  const bar = h("div", {class: "shares", role: "img", "aria-label": `Shares of its time: ${parts.map(describe).join("; ")}`},
    ...parts.map((part) => h("i", {style: `flex-grow: ${part[1] / whole}; background: ${model.colours[part[0]]}`, title: describe(part)})))
  const keys = h("ul", {class: "keys"}, ...parts.map(([kind, ms]) => h("li", {title: `${ms} ms`}, h("i", {class: "swatch", style: `background: ${model.colours[kind]}`}),
    `${model.names[kind]} `, h("b", {}, duration(ms)), h("small", {}, ` ${percent(ms / whole)}`))))
  return [bar, keys]
}

function body(model, found) {
  const name = fileName(found)
  const note = found.spans.length ? [] : [h("p", {class: "muted note"}, "There is no timeline: it never came to a model, or it is older than this version of the server.")]
  return [h("p", {class: "sentence"}, found.sentence), ...shareBar(model, found), ...note,
    h("div", {class: "do"}, copyId(found.record.request_id),
      h("button", {type: "button", onclick: () => saveFile(`${name}.json`, "application/json", model.found)}, "JSON"),
      h("button", {type: "button", disabled: !found.spans.length, title: "Its timeline", onclick: () => saveFile(`${name}.csv`, "text/csv", spansCsv(found))}, "CSV"))]
}

function absent(model) {
  if (model.state === "asking") return [h("p", {class: "empty"}, "Asking the server…")]
  const what = model.asked ? `There is no request “${model.asked}” in the log.` : "No request was named: the address ends with ?id= and its number."
  return [h("div", {class: "empty"}, h("p", {}, what), h("p", {}, "A request is written when it has ended; old ones are deleted after a time that the server's owner sets."),
    h("button", {type: "button", class: "main", onclick: () => model.send_msg({do: "again"})}, "Look again"))]
}

/** Alt and an arrow key turn the page. */
function turn(panel, event) {
  const key = {ArrowLeft: "Request before", ArrowRight: "Request after"}[event.key]
  const target = key && event.altKey && panel.querySelector(`.step[aria-label="${key}"]`)
  if (!target || target.disabled) return
  event.preventDefault()
  target.click()
}

export function render({model, view}) {
  const panel = h("section", {class: "panel", "aria-label": "Request", "aria-live": "polite"})
  const notices = h("div", {class: "notices"}, noticeLine(model))
  const show = () => {
    const found = model.state === "found" ? parsed(model) : null
    const parts = found ? [h("header", {}, ...heading(model, found)), notices, ...body(model, found)] : [notices, ...absent(model)]
    panel.replaceChildren(...parts)
  }
  const {root, whole} = stage("request", panel)
  model.on("found", show)
  model.on("state", show)
  model.on("asked", show)
  show()
  const turned = (event) => turn(panel, event)
  if (model.linked) document.addEventListener("keydown", turned)
  model.on("lifecycle:remove", () => document.removeEventListener("keydown", turned))
  watchEye(model, view, root)
  return whole
}
