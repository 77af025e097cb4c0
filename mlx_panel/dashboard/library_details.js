// What is known of one model of this machine, and a report of what it can do.

/** Titles and values side by side; empty values are left out. */
function facts(pairs) {
  const known = pairs.filter(([, value]) => value != null && value !== "")
  return h("dl", {class: "facts"}, ...known.flatMap(([title, value]) => [h("dt", {}, title), h("dd", {}, value)]))
}

function part(title, ...children) {
  return h("section", {}, h("h3", {}, title), ...children)
}

function mono(text) {
  return h("span", {class: "mono path"}, text)
}

function tokens(n) {
  return n ? `${count(n)} tokens` : ""
}

/** What a model can do, for a person who wants to tell it to others: Markdown. */
function capabilityReport(one) {
  const can = one.capabilities
  const when = can.probed ? ` on ${new Date(can.probed * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC` : ""
  const how = can.source === "probe" ? `tried with real generations${when}` : "read from its files, not tried"
  const lines = [["Can", can.kinds.join(", ")], ["Architecture", can.architecture], ["Weights", one.dtype], ["Size on disk", bytes(one.bytes)],
    ["Context", tokens(can.context_length)], ["Context that was really processed", tokens(can.usable_context)], ["Tool calls", can.tools],
    ["Reasoning", can.reasoning], ["Switch for reasoning", can.switch], ["Template variables", can.template_variables.join(", ")],
    ["Dimensions", can.dimensions], ["Not supported", can.supported ? "" : can.reason || "yes"]]
  const items = lines.filter(([, value]) => value).map(([title, value]) => `- ${title}: ${value}`)
  return [`## ${one.id}`, "", `Capabilities, ${how}.`, "", ...items].join("\n")
}

function capabilityPart(one) {
  const can = one.capabilities, tried = can.source === "probe"
  const how = tried ? `Tried with real generations ${ago(can.probed)}.` : "Read from its files. Probe tries them with real generations."
  const pairs = [["Can", badges(can.kinds, tried)], ["Tool calls", can.tools], ["Reasoning", can.reasoning], ["Switched by", can.switch],
    ["Template variables", can.template_variables.join(", ")], ["Context", tokens(can.context_length)],
    ["Really processed", tokens(can.usable_context)], ["Dimensions", can.dimensions ? count(can.dimensions) : ""],
    ["Not supported", can.supported ? "" : can.reason || "It cannot be run here."]]
  return part("Capabilities", h("p", {class: "muted"}, how), facts(pairs), copyButton("Copy report", () => capabilityReport(one)))
}

function filesPart(one) {
  const pairs = [["Folder", mono(one.path)], ["Lies in", one.source], ["Revision", one.revision && mono(one.revision.slice(0, 12))],
    ["On disk", bytes(one.bytes)], ["Here since", one.created ? moment(one.created) : ""],
    ["Last used", one.last_used ? moment(one.last_used) : "never"], ["Verified", one.verified ? moment(one.verified) : "not yet"]]
  return part("Files", facts(pairs), copyButton("Copy folder", () => one.path))
}

function modelPart({model: one, presets, aliases}) {
  return part("Model", facts([["Architecture", one.capabilities.architecture], ["Parameters", parameterCount(one.parameters)], ["Weights", one.dtype],
    ["Takes in memory", one.expected ? bytes(one.expected) : ""], ["Presets", presets.join(", ")], ["Aliases", aliases.join(", ")]]))
}

/** The buttons of the drawer; each closes it first. */
function deedButtons(one, page, close) {
  const press = (action) => () => {
    close()
    action()
  }
  return deeds(one, page).slice(1).map(([title, action, tone]) =>
    h("button", {type: "button", class: tone === "bad" ? "warned" : null, onclick: press(action)}, title))
}

function detailsBody(found, page, close) {
  const one = found.model, states = page.states(), now = stateOf(one, states)
  const verdict = states.models?.[one.id]?.verdict || one.verdict
  const fits = ["ready", "incomplete"].includes(now) ? null : verdictChip(verdict, one.expected, states.budget)
  const missing = one.missing.map((path) => h("li", {class: "mono"}, path))
  return [h("p", {class: "chips"}, chip(...(MODEL_STATES[now] || [now, "calm"])), fits), h("div", {class: "deeds"}, ...deedButtons(one, page, close)),
    missing.length ? part("Missing files", h("ul", {class: "files"}, ...missing)) : "", filesPart(one), modelPart(found), capabilityPart(one)]
}

async function openDetails(id, page) {
  const box = openDialog(page.root, "drawer", id, h("p", {class: "muted"}, "Looking…"))
  const reply = await page.ask("show", {what: id})
  if (!box.node.open) return
  const found = page.answer("shown", reply)
  box.body.replaceChildren(...(found ? detailsBody(found, page, box.close) : [h("p", {class: "fault"}, reply.error)]))
}
