// How this server stands to the hub: its address, the token, and whether it is asked at all.

const TOKEN_SOURCES = {environment: "from the environment (HF_TOKEN)", login: "from `hf auth login`"}
const TOKEN_HELP = "For gated and private models. Kept encrypted on this server and never shown again."
const OFFLINE_HELP = "The hub is not asked for anything: search shows models of this machine, nothing is downloaded."

function hubChip(hub) {
  if (hub.offline) return ["Offline", "warn"]
  if (hub.user) return [`Signed in as ${hub.user}`, "good"]
  return [hub.token ? "Has a token" : "No token", "calm"]
}

function hubWords(hub) {
  const from = TOKEN_SOURCES[hub.source] ? `The token comes ${TOKEN_SOURCES[hub.source]}.` : ""
  return [hub.endpoint, hub.cache ? `Models are kept in ${hub.cache}` : "", hub.free_disk ? `${bytes(hub.free_disk)} free` : "", from]
    .filter(Boolean).join(" · ")
}

/** What the card says of the last thing that was done: `change(name, values, word)` does it. */
function changes(page) {
  const said = h("p", {class: "said", role: "status"})
  const fault = faultLine()
  const change = async (name, values, word) => {
    fault.show("")
    say(said, "")
    const reply = await page.ask(name, values)
    fault.show(reply.error)
    if (!reply.error) say(said, word(reply.value))
  }
  return {said, fault, change}
}

function tokenCard(model, page) {
  const {said, fault, change} = changes(page)
  const field = h("input", {type: "password", autocomplete: "off", spellcheck: "false", placeholder: "hf_…"})
  const state = h("span", {class: "chip"})
  const about = h("p", {class: "muted"})
  const away = h("input", {type: "checkbox", role: "switch", id: "hub-offline", "aria-describedby": "hub-offline-help"})
  const save = h("button", {type: "submit", class: "main"}, "Save")
  const test = h("button", {type: "button"}, "Test")
  const forget = h("button", {type: "button"}, "Forget")
  const submit = async (event) => {
    event.preventDefault()
    const token = field.value.trim()
    field.value = ""
    if (token) await change("token", {token}, () => "Saved. Test asks the hub whose it is.")
    show()
  }
  field.addEventListener("input", () => show())
  test.addEventListener("click", () => change("test", {}, (value) => (value.user ? `The hub knows it: ${value.user}.` : "The hub accepts it.")))
  forget.addEventListener("click", () => change("forget", {}, () => "Forgotten."))
  away.addEventListener("change", async () => {
    const wanted = away.checked
    await change("offline", {on: wanted}, (value) => (value.offline === wanted ? "" : "HF_HUB_OFFLINE keeps this server offline."))
    show()
  })
  const node = h("section", {class: "panel token", "aria-label": "Hugging Face"}, h("header", {}, h("h2", {}, "Hugging Face"), state), about,
    h("form", {onsubmit: submit}, labelled("hub-token", "Access token", field, TOKEN_HELP), h("div", {class: "row"}, save, test, forget)),
    said, fault.node, h("div", {class: "away"}, away, h("label", {for: "hub-offline"}, "Offline"), h("small", {id: "hub-offline-help"}, OFFLINE_HELP)))
  const show = () => {
    const hub = model.hub, [word, tone] = hubChip(hub), given = Boolean(TOKEN_SOURCES[hub.source])
    node.hidden = !hub.endpoint
    say(state, word)
    mark(state, "data-tone", tone)
    say(about, hubWords(hub))
    away.checked = hub.offline
    save.disabled = !field.value.trim()
    test.disabled = !hub.token
    forget.disabled = !hub.token || given
    mark(forget, "title", given ? "It was not entered here" : null)
    if (hub.error) fault.show(hub.error)
  }
  model.on("hub", show)
  return {node, show}
}
