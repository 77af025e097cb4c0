// What to look for on the hub: the form, and its values in the page's address.

const USUAL_QUERY = {text: "", author: "", architecture: "", bits: "", capability: "", max: "", fits: "", sort: "downloads"}
const HUB_SORTS = [["downloads", "Most downloaded"], ["likes", "Most liked"], ["updated", "Latest"], ["size", "Smallest"], ["name", "Name"]]
const HUB_BITS = [["", "Any"], ...[2, 3, 4, 5, 6, 8].map((bits) => [String(bits), `${bits} bits`]), ["16", "Not quantised"]]
const AUTHORS = ["mlx-community", "lmstudio-community"]
const ARCHITECTURES = ["llama", "qwen2", "qwen3", "qwen3_moe", "gemma3", "gemma3_text", "mistral", "mixtral", "phi3", "deepseek_v3", "gpt_oss", "glm4",
  "granite", "olmo2", "smollm3", "bert"]
const GB = 1e9

/** Filters as the address has them, so that a search can be kept as a link; only where the page is ours. */
function addressFilters(linked) {
  const values = {...USUAL_QUERY}
  const given = new URLSearchParams(linked ? location.search : "")
  for (const name of Object.keys(values)) if (given.has(name)) values[name] = given.get(name)
  return values
}

function keepInAddress(linked, view, values) {
  if (!linked) return
  const given = new URLSearchParams(location.search)
  for (const name of ["view", ...Object.keys(USUAL_QUERY)]) given.delete(name)
  if (view === "hub") {
    given.set("view", view)
    for (const [name, value] of Object.entries(values)) if (value !== USUAL_QUERY[name]) given.set(name, value)
  }
  const query = given.toString()
  history.replaceState(history.state, "", `${location.pathname}${query ? `?${query}` : ""}${location.hash}`)
}

/** The form's values as a `HubQuery`. */
function queryOf(values) {
  const max = Number(values.max)
  return {text: values.text.trim(), author: values.author.trim(), architecture: values.architecture.trim(), bits: Number(values.bits) || 0,
    capability: values.capability, max_bytes: max > 0 ? Math.round(max * GB) : 0, fits: values.fits === "yes", sort: values.sort}
}

function suggestions(id, words) {
  return h("datalist", {id}, ...words.map((word) => h("option", {value: word})))
}

function searchFields() {
  return {
    text: h("input", {type: "search", placeholder: "Search models for MLX", "aria-label": "Search the hub"}),
    author: h("input", {type: "text", placeholder: "Anybody", list: "hub-authors", autocomplete: "off"}),
    architecture: h("input", {type: "text", placeholder: "Any", list: "hub-architectures", autocomplete: "off"}),
    bits: choice(HUB_BITS),
    capability: choice([["", "Any"], ...Object.entries(CAPABILITIES).map(([key, [title]]) => [key, title])]),
    max: h("input", {type: "number", min: 0, step: "any", placeholder: "Any", inputmode: "decimal"}),
    sort: choice(HUB_SORTS),
  }
}

/** Enter in any field searches, and so does a filter that is changed. */
function searchForm(linked, search) {
  const fields = searchFields()
  const fits = h("input", {type: "checkbox", role: "switch", id: "hub-fits"})
  const read = () => ({...Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value])), fits: fits.checked ? "yes" : ""})
  const put = (given) => {
    for (const [name, field] of Object.entries(fields)) field.value = given[name]
    fits.checked = given.fits === "yes"
  }
  put(addressFilters(linked))
  const submit = (event) => {
    event?.preventDefault()
    search(read())
  }
  const {text, author, architecture, bits, capability, max, sort} = fields
  const node = h("form", {class: "search", role: "search", novalidate: true, onsubmit: submit},
    h("div", {class: "ask"}, text, h("button", {type: "submit", class: "main"}, "Search")),
    h("div", {class: "filters"}, labelled("hub-author", "Author", author), labelled("hub-architecture", "Architecture", architecture),
      labelled("hub-bits", "Weights", bits), labelled("hub-capability", "Can", capability), labelled("hub-max", "At most, GB", max),
      labelled("hub-sort", "Order", sort), h("div", {class: "field switch"}, h("label", {for: "hub-fits"}, "Fits in memory"), fits)),
    suggestions("hub-authors", AUTHORS), suggestions("hub-architectures", ARCHITECTURES))
  for (const field of [author, architecture, bits, capability, max, sort, fits]) field.addEventListener("change", () => submit())
  const clear = () => {
    put(USUAL_QUERY)
    submit()
  }
  return {node, read, submit, clear}
}
