// What the hub has: hits page by page.

const HIT_COLUMNS = [["Weights", "number"], ["Memory", null], ["Downloads", "number"], ["Likes", "number"], ["Updated", null]]
const AWAY = "The server is offline: the hub is not asked, and only models of this machine are shown."

function describeHit(one) {
  return [one.architecture, parameterCount(one.parameters), weightsWord(one)].filter(Boolean).join(" · ")
}

function hitRow(one, page) {
  const cell = (title, kind, ...children) => h("td", {class: kind, "data-label": title}, ...children)
  const get = fetchCell(one, page)
  const fit = h("span")
  const name = h("button", {type: "button", class: "quiet name", onclick: () => openHubDetails(one, page)}, one.id)
  const marks = h("span", {class: "marks"}, badges(one.capabilities), one.gated ? lock(one.gated) : null)
  const node = h("tr", {}, h("th", {scope: "row", class: "model"}, name, h("small", {}, describeHit(one)), marks),
    cell("Weights", "number", hubSize(one)), cell("Memory", "fit", fit),
    cell("Downloads", "number", h("span", {title: count(one.downloads)}, short(one.downloads))), cell("Likes", "number", short(one.likes)),
    cell("Updated", "", moment(one.updated)), h("td", {class: "do"}, get.node))
  const unknown = h("span", {class: "muted", title: "The hub does not say how large it is"}, "unknown")
  const show = () => {
    get.show()
    fit.replaceChildren(verdictChip(one.verdict, one.bytes, page.states().budget) || unknown)
  }
  return {node, show}
}

/** What stands in the place of hits where there are none. */
function noHits(state, page, form) {
  const button = (title, onclick) => h("button", {type: "button", onclick}, title)
  if (page.hub().offline || state === "offline") {
    return [h("p", {}, "The hub is not asked while the server is offline. Models of this machine are still here."),
      button("On this machine", () => page.go("local"))]
  }
  if (state === "failed") return [h("p", {}, "The search did not work."), button("Try again", () => form.submit())]
  return [h("p", {}, "No MLX model on the hub is like this. Fewer words or filters find more."), button("Clear all filters", form.clear)]
}

/** The search as it stands: `state` "new", "busy", "done", "offline" or "failed", `hits` and where the next ones are. */
function searching(page, changed) {
  const now = {state: "new", hits: [], cursor: "", reason: "", query: null}
  let serial = 0
  const run = async (query, cursor = "") => {
    const mine = ++serial
    Object.assign(now, {state: "busy", query})
    changed()
    const reply = await page.ask("search", {query: {...query, cursor}})
    if (mine !== serial) return
    const found = page.answer("found", reply)
    const before = cursor ? now.hits : []
    now.state = !found ? "failed" : found.offline ? "offline" : "done"
    Object.assign(now, {hits: [...before, ...(found?.models || [])], cursor: found?.cursor || "", reason: found?.reason || ""})
    page.tell(reply)
    changed()
  }
  return {now, run}
}

/** Search again when the server goes offline or comes back: what was found before is not what the hub has. */
function followOffline(model, find) {
  let away = null
  model.on("hub", () => {
    if (away != null && away !== model.hub.offline && find.now.query) find.run(find.now.query)
    away = model.hub.offline
  })
}

function hubPart(model, page) {
  const body = h("tbody")
  const table = h("div", {class: "scroll"}, h("table", {}, headRow(HIT_COLUMNS, "Download"), body))
  const words = h("span", {class: "text"})
  const offline = h("div", {class: "banner", role: "status", hidden: true}, words)
  const empty = h("div", {class: "empty"})
  const more = h("button", {type: "button"}, "More")
  const foot = h("div", {class: "foot"}, more)
  const line = h("div", {class: "searching", role: "status"})
  const rows = new Map()
  const find = searching(page, () => show())
  const form = searchForm(model.linked, (values) => {
    keepInAddress(model.linked, "hub", values)
    find.run(queryOf(values))
  })
  const node = h("div", {class: "view hub", role: "tabpanel", "aria-label": "On the hub"}, form.node,
    h("div", {class: "notices"}, offline), line, table, empty, foot)
  const show = () => {
    const {state, hits, cursor, reason} = find.now
    const busy = state === "busy"
    keyed(rows, hits, body, (one) => JSON.stringify(one), (one) => hitRow(one, page))
    for (const row of rows.values()) row.show()
    table.hidden = hits.length === 0
    foot.hidden = !cursor
    more.disabled = busy
    empty.hidden = hits.length > 0 || busy || state === "new"
    if (!empty.hidden) empty.replaceChildren(...noHits(state, page, form))
    say(line, busy ? "Searching…" : "")
    mark(table, "aria-busy", busy ? "true" : null)
    offline.hidden = !(page.hub().offline || state === "offline")
    say(words, reason || AWAY)
  }
  more.addEventListener("click", async () => {
    const before = find.now.hits.length
    await find.run(find.now.query, find.now.cursor)
    body.children[before]?.querySelector(".name").focus()
  })
  const open = () => {
    keepInAddress(model.linked, "hub", form.read())
    if (find.now.state === "new") form.submit()
  }
  followOffline(model, find)
  for (const name of ["downloads", "local", "hub", "states"]) model.on(name, () => find.now.state !== "new" && show())
  show()
  return {node, show, open}
}
