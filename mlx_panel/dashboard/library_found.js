// One model on the hub: what is known of it, and fetching it.

const GATES = {
  auto: "Its author asks you to accept terms on the hub. Accept them there, as the owner of this server's token (see Hugging Face), then download.",
  manual: "Its author admits each person by hand. Ask on the hub, as the owner of this server's token (see Hugging Face), and wait for the answer.",
}
const LOCK = "M4.5 7V5a3.5 3.5 0 0 1 7 0v2h.5a1 1 0 0 1 1 1v5a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V8a1 1 0 0 1 1-1zm1.5 0h4V5a2 2 0 0 0-4 0z"
const FIT_NOTES = {
  too_large: ["It is too large for the memory that models may take on this machine: it can be downloaded, but not loaded.", "fault"],
  evicts: ["To load it, other models have to be unloaded first.", "muted"],
}
const LONGEST_FACT = 300

function lock(gated) {
  const picture = svg("svg", {viewBox: "0 0 16 16", width: 12, height: 12, "aria-hidden": "true"}, svg("path", {d: LOCK, fill: "currentColor"}))
  return h("span", {class: "badge lock", title: GATES[gated] || GATES.auto}, picture, "Gated")
}

function gateNote(one, page) {
  return one.gated ? h("p", {class: "gate"}, lock(one.gated), " ", GATES[one.gated] || GATES.auto, " ", hubPageLink(one.id, page)) : ""
}

function hubPageLink(id, page) {
  const path = id.split("/").map(encodeURIComponent).join("/")
  const address = webAddress(`${page.hub().endpoint || "https://huggingface.co"}/${path}`)
  return address ? webLink(address, "Open on the hub ↗") : ""
}

function hubSize(one) {
  return one.bytes ? `${one.estimated ? "≈ " : ""}${bytes(one.bytes)}` : NONE
}

function weightsWord(one) {
  return one.bits >= 16 ? "not quantised" : one.bits ? `${one.bits}-bit` : ""
}

/** Download, or how far that is, or that it is here. */
function fetchCell(one, page) {
  const button = h("button", {type: "button", class: "tonal", "aria-label": `Download ${one.id}`, onclick: () => openDownload(one, page)}, "Download")
  const here = chip("On this machine", "good")
  const under = h("span", {class: "chip under", "data-tone": "busy"})
  const node = h("div", {class: "fetch"}, button, here, under)
  const show = () => {
    const job = page.fetched()[one.id], local = page.isLocal(one.id) || (one.local && !page.known())
    button.hidden = Boolean(job) || local
    here.hidden = Boolean(job) || !local
    under.hidden = !job
    if (!job) return
    say(under, job.state === "paused" ? `Paused at ${job.share} %` : job.state === "queued" ? "Waiting" : `${job.share} %`)
    mark(under, "data-tone", job.state === "paused" ? "warn" : "busy")
  }
  return {node, show}
}

/** A config's plain values as facts; what lies deeper as short JSON. */
function configFacts(config) {
  return facts(Object.entries(config).map(([name, value]) => {
    const text = typeof value === "object" ? JSON.stringify(value) : String(value)
    return [name, mono(text.length > LONGEST_FACT ? `${text.slice(0, LONGEST_FACT)}…` : text)]
  }))
}

function fileList(files) {
  const rows = files.map((file) => h("tr", {}, h("td", {class: "mono path"}, file.path), h("td", {class: "number"}, bytes(file.bytes))))
  return h("table", {class: "files"}, h("tbody", {}, ...rows))
}

function fold(title, open, ...children) {
  return h("details", {class: "part", open}, h("summary", {}, title), ...children)
}

function sizeWords(files) {
  return `${bytes(files.reduce((sum, file) => sum + file.bytes, 0))} in ${plural(files.length, "file")}`
}

function foundFacts(found) {
  const one = found.model
  return facts([["Download", found.files.length ? sizeWords(found.files) : hubSize(one)], ["Takes in memory", found.needed ? bytes(found.needed) : ""],
    ["Architecture", one.architecture], ["Parameters", parameterCount(one.parameters)], ["Weights", weightsWord(one)],
    ["Context", tokens(found.context_length)], ["Licence", found.licence], ["Downloads", count(one.downloads)], ["Likes", count(one.likes)],
    ["Updated", one.updated ? moment(one.updated) : ""], ["Commit", found.commit ? mono(found.commit.slice(0, 12)) : ""]])
}

function foundBody(found, page) {
  const one = found.model
  const get = fetchCell(one, page)
  get.show()
  const verdict = verdictChip(one.verdict, found.needed || one.bytes, page.states().budget)
  const config = Object.keys(found.config).length ? fold("Config", false, configFacts(found.config)) : ""
  const said = found.readme.trim() ? fold("What its author says", true, readmeNode(found.readme))
    : h("p", {class: "muted"}, "Its author wrote no description.")
  return [h("p", {class: "chips"}, verdict, badges(one.capabilities), h("span", {class: "grow"}), hubPageLink(one.id, page), get.node),
    gateNote(one, page), found.reason ? h("p", {class: "fault"}, found.reason) : "", foundFacts(found),
    fold(`Files (${found.files.length})`, false, fileList(found.files)), config, said]
}

async function openHubDetails(one, page) {
  const box = openDialog(page.root, "drawer", one.id, h("p", {class: "muted"}, "Asking the hub…"))
  const reply = await page.ask("details", {what: one.id})
  if (!box.node.open) return
  const found = page.answer("details", reply)
  box.body.replaceChildren(...(found ? foundBody(found, page) : [h("p", {class: "fault"}, reply.error), gateNote(one, page)]))
}

async function openDownload(one, page) {
  const size = h("p", {}, one.bytes ? `About ${bytes(one.bytes)} of weights; asking the hub for the rest…` : "Asking the hub how much it is…")
  const room = h("p", {class: "muted"})
  const [note, tone] = FIT_NOTES[one.verdict] || ["", ""]
  const box = openDialog(page.root, "box", `Download ${one.id}?`, size, room, note ? h("p", {class: tone}, note) : "", gateNote(one, page))
  const fault = faultLine()
  const button = endings(box, fault, "Download", "main", async () => {
    const reply = await page.ask("download", {what: one.id})
    return {...reply, text: reply.error ? "" : `${one.id} is on its way. It goes on when this page is closed.`}
  }, page)
  button.focus()
  const reply = await page.ask("details", {what: one.id})
  const found = page.answer("details", reply)
  if (!found) return say(size, reply.error)
  const total = found.files.reduce((sum, file) => sum + file.bytes, 0), place = page.hub().cache
  say(size, `${sizeWords(found.files)}.`)
  say(room, found.free_disk ? `${bytes(found.free_disk)} are free on disk${place ? `, in ${place}` : ""}.` : "")
  button.disabled = Boolean(found.free_disk) && total > found.free_disk
  return fault.show(button.disabled ? `The disk is too full: ${bytes(total - found.free_disk)} more are needed.` : found.reason)
}
