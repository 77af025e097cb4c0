// Rules for names that nobody has: the first that matches decides. Rows move by their buttons or with Alt and an arrow.

const KINDS = [["exact", "is exactly"], ["prefix", "begins with"], ["regex", "matches (regex)"]]
const PRIORITIES = [["normal", "normal"], ["low", "low"]]
const PLAIN = {kind: "prefix", pattern: "", target: "", priority: "normal", enabled: true, note: ""}
const HELP = {
  kind: "exact: the whole name. prefix: how it begins. regex: an expression that the whole name has to match.",
  priority: "Low requests give way to others, and make no other model leave.",
}

function select(label, choices, changed, title) {
  return h("select", {"aria-label": label, title, onchange: changed}, ...choices.map(([value, text]) => h("option", {value}, text)))
}

function words(label, placeholder, changed, more = {}) {
  return h("input", {type: "text", "aria-label": label, placeholder, autocomplete: "off", spellcheck: "false", oninput: changed, ...more})
}

/** A rule as a row of fields. `rule()` reads it. */
function ruleRow(rule, hooks) {
  const place = h("span", {class: "place muted", "aria-hidden": "true"})
  const enabled = h("input", {type: "checkbox", role: "switch", "aria-label": "Rule is on", onchange: hooks.changed})
  const kind = select("How it matches", KINDS, () => { mark(pattern, "class", kind.value === "regex" ? "mono" : null); hooks.changed() }, HELP.kind)
  const pattern = words("Name or part of it", "claude-haiku", () => hooks.changed(), {maxlength: 256})
  const target = words("Model or preset that answers", "model or preset", () => hooks.changed(), {list: "alias-targets", maxlength: 512})
  const priority = select("Priority", PRIORITIES, hooks.changed, HELP.priority)
  const note = words("Note", "note", hooks.changed, {maxlength: 500})
  const up = h("button", {type: "button", class: "quiet", "aria-label": "Move this rule up", title: "Up (Alt ↑)", onclick: () => hooks.move(row, -1, up)}, "↑")
  const down = h("button", {type: "button", class: "quiet", "aria-label": "Move this rule down", title: "Down (Alt ↓)", onclick: () => hooks.move(row, 1, down)}, "↓")
  const gone = h("button", {type: "button", class: "quiet", "aria-label": "Delete this rule", title: "Delete", onclick: () => hooks.remove(row)}, "✕")
  const wrong = h("small", {class: "wrong"})
  const missing = h("small", {class: "warns"})
  const node = h("li", {class: "rule"}, h("span", {class: "lead"}, place, enabled), h("span", {class: "if"}, kind, pattern), h("span", {class: "arrow", "aria-hidden": "true"}, "→"), target,
    priority, note, h("span", {class: "moves"}, up, down, gone), wrong, missing)
  node.addEventListener("keydown", (event) => {
    const step = {ArrowUp: -1, ArrowDown: 1}[event.key]
    if (!event.altKey || !step) return
    event.preventDefault()
    hooks.move(row, step, event.target)
  })
  enabled.checked = rule.enabled
  Object.entries({kind, pattern, target, priority, note}).forEach(([name, input]) => { input.value = rule[name] ?? PLAIN[name] })
  mark(pattern, "class", rule.kind === "regex" ? "mono" : null)
  const read = () => ({pattern: pattern.value.trim(), target: target.value.trim(), kind: kind.value, priority: priority.value, enabled: enabled.checked, note: note.value.trim()})
  const fault = () => (!pattern.value.trim() ? "Say which names it is for." : !target.value.trim() ? "Say what answers." : "")
  const number = (index, total) => {
    say(place, String(index + 1))
    node.setAttribute("aria-label", `Rule ${index + 1}`)
    up.disabled = index === 0
    down.disabled = index === total - 1
  }
  const check = (refused = "", quiet = true) => {
    const text = refused || (quiet ? "" : fault())
    say(wrong, text)
    mark(node, "data-wrong", text ? "" : null)
  }
  const know = (targets) => {
    const name = target.value.trim()
    say(missing, name && targets.length && !targets.includes(name) ? "No model or preset has this name now." : "")
  }
  const row = {node, read, fault, number, check, know, pattern, hit: (yes) => mark(node, "data-hit", yes ? "" : null)}
  return row
}

/** The rules, in order. */
function rulesPart(model, changed) {
  let rows = [], base = "[]"
  const list = h("ol", {class: "rules"})
  const empty = h("div", {class: "empty"}, "Asking the server…")
  const spoken = h("div", {class: "hush", role: "status"})
  const read = () => rows.map((row) => row.read())
  const settle = () => {
    rows.forEach((row, index) => {
      if (list.children[index] !== row.node) list.insertBefore(row.node, list.children[index] || null)
      row.number(index, rows.length)
      row.know(model.targets)
    })
    empty.hidden = rows.length > 0
    list.hidden = !rows.length
    changed()
  }
  const hooks = {
    changed: () => { rows.forEach((row) => { row.check(); row.know(model.targets) }); changed() },
    move: (row, step, focus) => {
      const from = rows.indexOf(row), to = from + step
      if (to < 0 || to >= rows.length) return
      rows.splice(from, 1)
      rows.splice(to, 0, row)
      settle()
      ;(focus.disabled ? row.pattern : focus).focus()
      say(spoken, `Rule ${from + 1} is now rule ${to + 1} of ${rows.length}.`)
    },
    remove: (row) => {
      const at = rows.indexOf(row)
      rows = rows.filter((one) => one !== row)
      row.node.remove()
      settle()
      ;(rows[Math.min(at, rows.length - 1)]?.pattern || list.closest("section").querySelector(".add")).focus()
    },
  }
  const add = () => {
    const row = ruleRow(PLAIN, hooks)
    rows.push(row)
    settle()
    row.pattern.focus()
  }
  const fill = () => {
    if (!model.aliases) return
    rows.forEach((row) => row.node.remove())
    rows = JSON.parse(model.aliases).map((rule) => ruleRow(rule, hooks))
    say(empty, "There is no rule. A name that no model and no preset has is refused.")
    base = JSON.stringify(read())
    settle()
  }
  return {node: h("div", {}, spoken, empty, list), read, add, fill, settle, rows: () => rows, dirty: () => JSON.stringify(read()) !== base}
}

/** A name to try: which rule it hits, and what answers. */
function testPart(model, rules) {
  const input = words("Try a name", "for instance claude-haiku-4-5", () => { clearTimeout(timer); timer = setTimeout(ask, 350) }, {id: "alias-test"})
  const answer = h("output", {for: "alias-test", class: "answer"})
  let timer = null
  const ask = () => {
    if (input.value.trim()) model.send_msg({do: "test", name: input.value.trim()})
    else show()
  }
  const form = h("form", {class: "test", onsubmit: (event) => { event.preventDefault(); clearTimeout(timer); ask() }}, h("label", {for: "alias-test"}, "Try a name"), input,
    h("button", {type: "submit"}, "Test"), answer)
  const show = () => {
    const found = model.found
    const same = found.name && found.name === input.value.trim()
    const at = same && found.alias ? rules.rows().findIndex((row) => JSON.stringify([row.read().kind, row.read().pattern]) === JSON.stringify([found.alias.kind, found.alias.pattern])) : -1
    rules.rows().forEach((row, index) => row.hit(index === at))
    if (!same) return answer.replaceChildren()
    mark(answer, "data-tone", found.error ? "bad" : "good")
    if (found.error) return answer.replaceChildren(found.error)
    const steps = [h("code", {}, found.name)]
    if (found.alias) steps.push(at >= 0 ? ` → rule ${at + 1}` : ` → the rule “${found.alias.pattern}”`)
    if (found.preset) steps.push(" → preset ", h("b", {}, found.preset))
    steps.push(" → model ", h("b", {}, found.model))
    if (!found.alias && !found.preset) steps.push(", by its own name")
    if (found.priority === "low") steps.push(", low priority")
    if (rules.dirty()) steps.push(" (as it is saved)")
    answer.replaceChildren(...steps)
  }
  return {form, show, ask}
}

export function render({model, view}) {
  const save = h("button", {class: "main", type: "button", onclick: () => submit()}, "Save")
  const undo = h("button", {type: "button", onclick: () => rules.fill()}, "Discard changes")
  const add = h("button", {type: "button", class: "add", onclick: () => rules.add()}, "Add a rule")
  const saved = h("span", {class: "saved", role: "status"})
  const enable = () => {
    const dirty = rules.dirty()
    save.disabled = model.busy || !dirty
    undo.disabled = model.busy || !dirty
    say(save, model.busy ? "Saving…" : "Save")
    if (dirty) say(saved, "")
  }
  const rules = rulesPart(model, () => enable())
  const test = testPart(model, rules)
  const submit = () => {
    const wrong = rules.rows().find((row) => row.fault())
    rules.rows().forEach((row) => row.check("", false))
    if (wrong) return wrong.pattern.focus()
    sent = true
    model.send_msg({do: "save", aliases: rules.read()})
  }
  let sent = false
  const names = h("datalist", {id: "alias-targets"})
  const targets = () => {
    names.replaceChildren(...model.targets.map((name) => h("option", {value: name})))
    rules.rows().forEach((row) => row.know(model.targets))
  }
  const panel = h("section", {class: "panel", "aria-label": "Aliases"}, h("header", {}, h("h2", {}, "Aliases"),
    h("span", {class: "muted grow"}, "What answers to a name that no model and no preset has: the first rule that matches decides."), names),
    h("div", {class: "notices"}, noticeLine(model)), rules.node, h("div", {class: "buttons"}, save, undo, add, saved), test.form)
  const {root, whole} = stage("aliases", panel)
  model.on("news", () => model.send_msg({do: "ask"}))
  model.on("aliases", () => {
    if (sent || !rules.dirty()) rules.fill()
    sent = false
    if (test.form.elements[0].value.trim()) test.ask()
  })
  model.on("targets", targets)
  model.on("busy", enable)
  model.on("found", test.show)
  model.on("saved", () => {
    if (rules.dirty()) rules.fill()
    say(saved, model.saved.text ? `✓ ${model.saved.text}` : "")
  })
  model.on("notice", () => {
    sent = false
    const at = /^aliases\[(\d+)\]/.exec(model.notice.field || "")
    if (at && rules.rows()[Number(at[1])]) rules.rows()[Number(at[1])].check(model.notice.text)
  })
  const guard = (event) => { if (rules.dirty()) event.preventDefault() }
  addEventListener("beforeunload", guard)
  model.on("lifecycle:remove", () => removeEventListener("beforeunload", guard))
  rules.fill()
  targets()
  enable()
  watchEye(model, view, root)
  return whole
}
