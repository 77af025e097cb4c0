// Versions, device, BLAS and folder, and what somebody should do about them.

function warningBox(text, fix) {
  const children = [h("div", {}, text)]
  if (fix) children.push(h("code", {class: "fix"}, fix))
  return h("div", {class: "banner"}, h("div", {class: "text"}, ...children))
}

function blasText(blas) {
  return blas.name + (blas.fast === false ? " (slow)" : "")
}

function facts(system) {
  const memory = system.memory || {}
  const audit = system.audit || {}
  const rows = [
    ["Device", system.device || "known once a model is loaded"],
    ["BLAS", system.blas && blasText(system.blas)],
    ["BLAS library", system.blas && system.blas.path],
    ["Memory", memory.total && `${bytes(memory.available)} free of ${bytes(memory.total)}`],
    ["CPU cores", system.cpu_count],
    ["Data folder", system.data_folder],
    ["Audit log", audit.written != null && `${count(audit.written)} rows written, ${count(audit.failed)} failed`],
    ["Running for", system.uptime_seconds != null && span(Math.floor(system.uptime_seconds))],
    ["Platform", system.platform],
  ]
  return rows.filter(([, value]) => value)
}

function list(title, rows) {
  const lines = rows.map(([name, value]) => h("div", {class: "fact"}, h("dt", {}, name), h("dd", {}, String(value))))
  return h("div", {class: "facts"}, h("h3", {}, title), h("dl", {}, ...lines))
}

/** What to do something about; a slow BLAS has a box with the line that fixes it, once. */
function warnings(system) {
  const {name, fast, fix} = system.blas || {fast: true}
  const others = (system.warnings || []).filter((text) => fast !== false || !fix || !text.includes(fix))
  const boxes = others.map((text) => warningBox(text))
  if (fast === false) boxes.unshift(warningBox(`Float matrix products run on the ${name}, which is slow. To fix it:`, fix))
  return boxes
}

function versions(system) {
  const own = {"mlx-panel": system.version, Python: system.python}
  return Object.entries({...own, ...(system.versions || {})}).filter(([, value]) => value)
}

export function render({model, view}) {
  const body = h("div", {class: "body"}, h("div", {class: "empty"}, "Asking the server…"))
  const panel = h("section", {class: "panel", "aria-label": "System"}, h("header", {}, h("h2", {}, "This server")),
    h("div", {class: "notices"}, noticeLine(model)), body)
  const {root, whole} = stage("system", panel)
  const show = () => {
    const system = model.system
    if (!Object.keys(system).length) return
    body.replaceChildren(...warnings(system), h("div", {class: "columns"}, list("This machine", facts(system)),
      list("Versions", versions(system))))
  }
  model.on("system", show)
  show()
  watchEye(model, view, root)
  return whole
}
