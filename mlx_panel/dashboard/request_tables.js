// The lower half of a request's page: its neighbours, its timeline as a table, and its row in full.

function scrolling(label, table) {
  return h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": label}, table)
}

function neighbourRow(model, found, one) {
  const beside = found.beside.find((other) => other.request_id === one.request_id)
  const own = one.request_id === found.record.request_id
  const name = own ? h("span", {}, "another prompt of this request")
    : beside ? toRequest(model, beside.id, {class: "mono", title: one.request_id}, shortName(one.request_id))
      : h("span", {class: "mono", title: `${one.request_id}, which is not in the log (it may still run)`}, shortName(one.request_id))
  return h("tr", {}, h("td", {}, name), h("td", {}, beside ? beside.model || NONE : NONE),
    h("td", {class: "number", title: `${one.prefill_ms} ms`}, one.prefill_ms ? duration(one.prefill_ms) : NONE),
    h("td", {class: "number"}, one.tokens ? count(one.tokens) : NONE), h("td", {class: "number"}, one.steps ? count(one.steps) : NONE),
    h("td", {class: "number", title: `${one.decode_ms} ms`}, one.decode_ms ? duration(one.decode_ms) : NONE))
}

function neighbours(model, found) {
  if (!found.neighbours.length) {
    return found.spans.length ? [h("p", {class: "muted note"}, "No other request was in its passes, and it waited for nobody's prompt.")] : []
  }
  const head = h("tr", {}, h("th", {scope: "col"}, "Request"), h("th", {scope: "col"}, "Model"), ...["Prefill waited for", "Tokens of it", "Steps shared", "Time shared"]
    .map((title) => h("th", {scope: "col", class: "number"}, title)))
  return [scrolling("Neighbours", h("table", {class: "neighbours"}, h("thead", {}, head), h("tbody", {}, ...found.neighbours.map((one) => neighbourRow(model, found, one)))))]
}

function timeline(model, found) {
  const head = h("tr", {}, h("th", {scope: "col"}, "What"), ...["From", "Time", "Tokens"].map((title) => h("th", {scope: "col", class: "number"}, title)))
  const rows = found.spans.map((span) => h("tr", {}, h("td", {}, model.names[span.kind] === "others' steps" ? "waiting" : model.names[span.kind]),
    h("td", {class: "number"}, `${(span.at_ms / 1000).toFixed(3)} s`), h("td", {class: "number", title: `${span.ms} ms`}, duration(span.ms)),
    h("td", {class: "number"}, span.tokens ? count(span.tokens) : NONE)))
  return h("details", {class: "timeline"}, h("summary", {}, `As table: ${count(found.spans.length)} spans`),
    scrolling("Timeline", h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows))))
}

const moment = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "medium"})
const FORMS = {
  ms: (value) => [duration(value), `${value} ms`], count: (value) => [count(value)], bool: (value) => [value ? "yes" : "no"],
  time: (value) => [moment.format(new Date(value)), value], number: (value) => [String(Math.round(value * 1000) / 1000), String(value)], "": (value) => [String(value)],
}

function fact([name, title, kind, help], record) {
  const value = record[name]
  const [text, exact] = value == null ? [NONE] : FORMS[kind](value)
  return h("div", {class: "fact", title: help}, h("dt", {}, title), h("dd", {class: kind === "" ? "text" : null, title: exact ? `${exact} – ${help}` : help}, text))
}

function facts(model, found) {
  return h("div", {class: "groups"}, ...model.groups.map(([title, list]) => h("section", {"aria-label": title}, h("h3", {}, title),
    h("dl", {}, ...list.map((one) => fact(one, found.record))))))
}

export function render({model}) {
  const beside = h("section", {class: "panel", "aria-label": "Neighbours"})
  const row = h("section", {class: "panel", "aria-label": "Row"})
  const show = () => {
    const found = parsed(model)
    beside.hidden = !found || !found.spans.length
    mark(root, "data-near", beside.hidden || null)
    row.hidden = !found
    if (!found) return
    beside.replaceChildren(h("header", {}, h("h2", {}, "Who was there"), h("span", {class: "muted"}, "Requests whose prompt this one waited for, and those it decoded with")),
      ...neighbours(model, found), timeline(model, found))
    row.replaceChildren(h("header", {}, h("h2", {}, "Its row"), h("span", {class: "muted"}, found.hashed ? `and keyed hashes of ${count(found.hashed)} blocks of its prompt` : "All that is kept of it")), facts(model, found))
  }
  const {root, whole} = stage("request-tables", beside, row)
  model.on("found", show)
  model.on("words", show)
  show()
  new ResizeObserver(() => matchHost(root)).observe(root)
  return whole
}
