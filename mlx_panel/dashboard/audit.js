// The audit log, one page at a time. Python answers a query; this file asks, draws and turns pages.

const REST = 250 // milliseconds without a key until what was typed is asked for
const EXAMPLE = `curl ${location.origin}/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"model": "…", "messages": [{"role": "user", "content": "Hello"}]}'`

function choice(label, options, change) {
  const select = h("select", {"aria-label": label, onchange: () => change(select.value)},
    ...options.map(([value, text]) => h("option", {value}, text)))
  return select
}

/** What Python answered last. */
function shownPage(model) {
  return model.page ? JSON.parse(model.page) : {}
}

/** The newest query, and how to ask another; every change of a filter starts at the first row. `trail` are the marks of
 *  the pages above this one. */
function asker(model) {
  let query = {limit: 25, before: "", status: null, model: null, scope: "model", ...shownPage(model).query}
  let trail = []
  let last = 0
  let timer = null
  let resting = null
  const send = () => {
    last = performance.now()
    timer = null
    model.send_msg({do: "ask", query})
  }
  const filter = (change) => {
    query = {...query, ...change, before: ""}
    trail = []
    send()
  }
  return {
    get query() { return query },
    get above() { return trail.length * query.limit },
    older: (next) => {
      trail = [...trail, query.before]
      query = {...query, before: next}
      send()
    },
    newer: (newest) => {
      query = {...query, before: newest ? "" : trail[trail.length - 1] || ""}
      trail = newest ? [] : trail.slice(0, -1)
      send()
    },
    /** Other rows were asked for elsewhere: they are shown from the first. */
    restart: () => {
      query = {...query, before: ""}
      trail = []
    },
    filter,
    /** A filter that is being typed: ask when the hand rests. */
    type: (change) => {
      clearTimeout(resting)
      resting = setTimeout(() => filter(change), REST)
    },
    /** New rows were written: look again, at most once a second and only where they would be seen. */
    again: (node) => {
      if (query.before || model.still || timer || document.hidden || !node.getClientRects().length) return
      timer = setTimeout(send, Math.max(0, 1000 - (performance.now() - last)))
    },
  }
}

function filters(model, ask) {
  const scope = choice("Which requests", [["model", "Model requests"], ["all", "All API requests"]],
    (value) => ask.filter({scope: value}))
  const status = choice("Status", [["", "Any status"], ...model.statuses.map((name) => [name, name])],
    (value) => ask.filter({status: value || null}))
  const names = h("datalist", {id: "models"})
  const name = h("input", {type: "search", list: "models", placeholder: "Any model", "aria-label": "Model",
    oninput: () => ask.type({model: name.value.trim() || null})})
  const suggest = () => names.replaceChildren(...model.models.map((id) => h("option", {value: id})))
  model.on("models", suggest)
  suggest()
  scope.value = ask.query.scope
  status.value = ask.query.status || ""
  name.value = ask.query.model || ""
  return [scope, status, name, names]
}

function pager(model, ask) {
  const place = h("span", {class: "place muted", "aria-live": "polite"})
  const step = (label, text, move) => h("button", {type: "button", class: "step", "aria-label": label, title: label,
    onclick: move}, text)
  const newest = step("Newest", "«", () => ask.newer(true))
  const newer = step("Newer", "‹", () => ask.newer(false))
  const older = step("Older", "›", () => {
    older.disabled = true // until the page is there: two presses are two pages
    ask.older(next)
  })
  const size = choice("Rows a page", model.sizes.map((n) => [String(n), `${n} rows`]),
    (value) => ask.filter({limit: Number(value)}))
  let next = ""
  const show = ({rows, total, query, ...page}) => {
    next = page.next
    const range = rows.length ? `${count(ask.above + 1)}–${count(ask.above + rows.length)}` : ""
    say(place, total == null ? range : total ? `${range} of ${count(total)}` : "")
    newest.disabled = newer.disabled = !query.before
    older.disabled = !next
    size.value = String(query.limit)
  }
  return {node: h("footer", {class: "pager", hidden: true}, size, h("span", {class: "grow"}), place, newest, newer, older), show}
}

function emptyText(query, own) {
  if (!own || query.status || query.model) return ["No request matches this filter."]
  return ["No requests yet. Try:", h("br"), h("code", {}, EXAMPLE)]
}

function rowNode(row, columns, table) {
  return h("tr", {}, ...columns.map(([, , read, kind]) => h("td", {class: kind || null}, read(row, table))))
}

export function render({model, view}) {
  const ask = asker(model)
  const send = (field, value, add) => {
    isKnown(view)
    model.send_msg({do: "choose", field, value, add})
  }
  const place = {linked: model.linked, here: model.here, choose: model.own ? null : send}
  const body = h("tbody"), head = h("thead")
  const empty = h("div", {class: "empty"}, "Asking the server…")
  const table = h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Requests", hidden: true}, h("table", {}, head, body))
  const pages = pager(model, ask)
  const columns = columnChoice(model.own ? "overview" : "page", () => show())
  const panel = h("section", {class: "panel", "aria-label": "Audit log"},
    h("header", {}, h("h2", {}, model.own ? "Audit log" : "Requests"),
      h("span", {class: "muted grow"}, "One row a request, never its text"), ...(model.own ? filters(model, ask) : []), columns.node),
    h("div", {class: "notices"}, noticeLine(model)), table, empty, pages.node)
  const {root, whole} = stage("audit", panel)
  const show = () => {
    const page = shownPage(model)
    if (!page.rows) return
    const shown = columns.shown()
    head.replaceChildren(h("tr", {}, ...shown.map(([, title, , kind]) => h("th", {scope: "col", class: kind || null}, title))))
    body.replaceChildren(...page.rows.map((row) => rowNode(row, shown, place)))
    table.hidden = page.rows.length === 0
    empty.hidden = !table.hidden
    if (table.hidden) empty.replaceChildren(...emptyText(page.query, model.own))
    pages.show(page)
    pages.node.hidden = table.hidden && !page.query.before
  }
  model.on("page", show)
  let known = model.written
  model.on("written", () => {
    if (known >= 0) ask.again(root) // the first number is no news
    known = model.written
  })
  model.on("asked", ask.restart)
  show()
  closeOutside(model, root)
  watchEye(model, view, root)
  return whole
}
