// Jobs on the models of this machine: verify, probe, convert, import.

const TASK_WORDS = {
  verify: ["Verify", "Verified"], probe: ["Probe", "Probed"], convert: ["Convert", "Converted"], import: ["Import", "Imported"],
}
const TASK_STATES = {
  queued: ["Waiting", "calm"], running: ["Running", "busy"], done: ["Done", "good"], failed: ["Failed", "bad"], cancelled: ["Cancelled", "calm"],
}
const LEVELS = {info: ["✓", "good", "Fine"], warning: ["!", "warn", "Worth knowing"], action_needed: ["✕", "bad", "Something to do"]}
const TASK_OVER = ["done", "failed", "cancelled"]

function measure(task) {
  if (!task.total) return ""
  if (task.unit === "bytes") return `${bytes(task.done)} of ${bytes(task.total)}`
  return `${count(task.done)} of ${plural(task.total, task.unit.replace(/s$/, ""))}`
}

function valueText(value) {
  if (value == null || value === "") return ""
  return typeof value === "object" ? JSON.stringify(value) : String(value)
}

function findingItem(one) {
  const [sign, tone, word] = LEVELS[one.level] || LEVELS.info
  const value = valueText(one.value)
  const more = value && !one.text.includes(value) ? h("span", {class: "muted"}, ` ${value}`) : null
  return h("li", {class: "finding"}, h("span", {class: "sign", "data-tone": tone, role: "img", "aria-label": word}, sign),
    h("span", {class: "step"}, one.step), h("span", {class: "words"}, one.text, more))
}

/** In one line how a job ended. */
function outcome(task) {
  if (task.state === "failed") return task.error || "It failed."
  if (task.state === "cancelled") return "Nothing was changed."
  if (task.result) return `There is a new model: ${task.result}`
  const worst = task.findings.find((one) => one.level === "action_needed") || task.findings.find((one) => one.level === "warning")
  return worst ? worst.text : task.findings.length ? task.findings[task.findings.length - 1].text : ""
}

/** Which tone the end of a job has: one that is done may still have found something. */
function endTone(task) {
  if (task.state !== "done") return TASK_STATES[task.state][1]
  return task.findings.some((one) => one.level === "action_needed") ? "bad" : task.findings.some((one) => one.level === "warning") ? "warn" : "good"
}

function taskRow(first, {cancel, dismiss}) {
  const [verb] = TASK_WORDS[first.kind]
  const state = h("span", {class: "chip"})
  const bar = progressBar(`${verb} ${first.model}`)
  const about = h("span", {class: "muted"})
  const result = h("span", {class: "outcome"})
  const stop = twice("Cancel", "Really cancel", `${verb} ${first.model}`, () => cancel(first.id))
  const findings = h("ul", {class: "findings"})
  const report = h("details", {class: "report"}, h("summary", {}, "Report"), findings)
  const copy = copyButton("Copy report", () => latest.report)
  const gone = h("button", {type: "button", class: "quiet", "aria-label": `Dismiss ${verb} ${first.model}`, onclick: () => dismiss(first.id)}, "✕")
  const title = h("span", {class: "id"}, `${verb} ${first.model}`)
  const top = h("div", {class: "top"}, title, state, result, h("span", {class: "grow"}), copy, stop, gone)
  const node = h("article", {class: "task", "data-kind": first.kind}, top, bar.node, about, report)
  let latest = first
  let drawn = ""
  const show = (task) => {
    latest = task
    const over = TASK_OVER.includes(task.state)
    say(state, task.state === "done" ? TASK_WORDS[task.kind][1] : TASK_STATES[task.state][0])
    mark(state, "data-tone", over ? endTone(task) : TASK_STATES[task.state][1])
    say(result, over ? outcome(task) : "")
    bar.node.hidden = about.hidden = over
    bar.show(task.total ? task.done / task.total : task.state === "running" ? null : 0, TASK_STATES[task.state][1])
    say(about, [task.step, measure(task)].filter(Boolean).join(" · ") || "Waiting for its turn")
    stop.hidden = over
    gone.hidden = !over
    copy.hidden = !(over && task.report)
    report.hidden = task.findings.length === 0
    const text = JSON.stringify(task.findings)
    if (text === drawn) return
    drawn = text
    findings.replaceChildren(...task.findings.map(findingItem))
  }
  return {node, show}
}

/** The jobs, those under way first; one that is over stays until somebody dismisses it. */
function tasksPart(model, ask, tell) {
  const node = h("div", {class: "tasks", role: "group", "aria-label": "Jobs"})
  const rows = new Map()
  const gone = new Set() // dismissed, but still in a snapshot
  const cancel = async (id) => tell(await ask("cancel", {what: id}))
  const dismiss = async (id) => {
    gone.add(id)
    show()
    tell(await ask("dismiss", {what: id}))
  }
  const show = () => {
    const all = new Map([...JSON.parse(model.past), ...JSON.parse(model.tasks)].map((task) => [task.id, task]))
    const shown = [...all.values()].filter((task) => !gone.has(task.id))
      .sort((a, b) => TASK_OVER.includes(a.state) - TASK_OVER.includes(b.state) || b.created - a.created)
    keyed(rows, shown, node, (task) => task.id, (task) => taskRow(task, {cancel, dismiss}))
    shown.forEach((task) => rows.get(task.id).show(task))
    node.hidden = shown.length === 0
  }
  model.on("past", show)
  model.on("tasks", show)
  return {node, show}
}
