// Beside the editor: the queries that are kept, and the tables with their columns.

function queryRow(query, actions) {
  const open = h("button", {type: "button", class: "open", title: query.doc || query.sql, onclick: () => actions.open(query)}, h("span", {}, query.name),
    query.doc ? h("small", {}, query.doc) : null)
  if (query.built_in) return h("li", {}, open)
  const rename = h("button", {type: "button", class: "quiet icon", "aria-label": `Rename ${query.name}`, title: "Rename", onclick: () => actions.rename(query)}, "✎")
  const away = h("button", {type: "button", class: "quiet icon", "aria-label": `Delete ${query.name}`, title: "Delete", onclick: () => actions.away(query)}, "✕")
  return h("li", {}, open, rename, away)
}

function queriesPart(model, actions) {
  const own = h("ul", {class: "queries own"})
  const given = h("ul", {class: "queries"})
  const none = h("p", {class: "muted none"}, "Nothing kept yet: write a query and press Save.")
  const undo = h("div", {class: "banner", role: "status", hidden: true}, h("span", {class: "text"}), h("button", {type: "button", onclick: () => model.send_msg({do: "undo"})}, "Undo"))
  const node = h("section", {"aria-label": "Kept queries"}, h("h3", {}, "Kept"), undo, none, own, h("h3", {}, "Examples"), given)
  const show = () => {
    const queries = model.queries ? JSON.parse(model.queries) : []
    const mine = queries.filter((one) => !one.built_in)
    own.replaceChildren(...mine.map((one) => queryRow(one, actions)))
    given.replaceChildren(...queries.filter((one) => one.built_in).map((one) => queryRow(one, actions)))
    none.hidden = mine.length > 0
    undo.hidden = !model.deleted
    say(undo.firstChild, model.deleted ? `Deleted ${model.deleted}.` : "")
  }
  model.on("queries", show)
  model.on("deleted", show)
  return {node, show}
}

function tableBlock(table, insert, find) {
  const columns = table.columns.filter((one) => !find || one.name.toLowerCase().includes(find))
  if (find && !columns.length && !table.name.includes(find)) return null
  const shown = columns.length ? columns : table.columns
  const name = h("button", {type: "button", class: "quiet insert", title: `${table.doc}\nPut its name into the query`, onclick: () => insert(sqlName(table.name))}, "↵")
  return h("details", {class: "table", open: Boolean(find) || table.name === "audit"}, h("summary", {}, h("code", {}, table.name), h("small", {}, count(table.rows)), h("span", {class: "grow"}), name),
    table.doc ? h("p", {class: "muted"}, table.doc) : null, h("ul", {}, ...shown.map((one) => h("li", {}, h("button", {type: "button", title: `${one.type}\n${one.doc}`,
      "aria-label": `Insert ${one.name}, ${shortType(one.type)}: ${one.doc}`, onclick: () => insert(sqlName(one.name))}, h("code", {}, one.name), h("small", {}, shortType(one.type)))))))
}

function tablesPart(model, insert) {
  const find = h("input", {type: "search", placeholder: "Find a column", "aria-label": "Find a column"})
  const list = h("div", {class: "tables"})
  const node = h("section", {"aria-label": "Tables"}, h("h3", {}, "Tables"), find, list)
  const show = () => {
    const tables = model.tables ? JSON.parse(model.tables) : []
    const wanted = find.value.trim().toLowerCase()
    list.replaceChildren(...tables.map((one) => tableBlock(one, insert, wanted)).filter(Boolean))
    if (!list.children.length) list.append(h("p", {class: "muted none"}, model.tables ? "No column has that in its name." : "Asking the server…"))
  }
  find.addEventListener("input", show)
  model.on("tables", show)
  return {node, show}
}

/** What can be completed: the columns and tables of the log. */
function knownNames(model) {
  const tables = model.tables ? JSON.parse(model.tables) : []
  const seen = new Map()
  for (const table of tables) {
    seen.set(table.name, {text: sqlName(table.name), note: "table"})
    for (const one of table.columns) if (!seen.has(one.name)) seen.set(one.name, {text: sqlName(one.name), note: shortType(one.type)})
  }
  return [...seen.values()]
}
