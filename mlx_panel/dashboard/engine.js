// The engine's settings, for every model or for one.

const GROUPS = [
  ["Sharing the time", {max_batch: "Requests at once", max_decode_stall_ms: "Longest pause of an answer",
    decode_share: "Share of the time for answers", prefill_step: "Prompt tokens in one pass", admission_order: "Whose prompt is next"}],
  ["Prompts seen before", {prefix_cache_mb: "Room in memory", prefix_cache_disk: "Keep on disk too", prefix_cache_disk_mb: "Room on disk",
    strip_rules: "Lines left out of prompts"}],
  ["KV cache and memory", {kv_bits: "Bits a value", kv_group_size: "Values that share a scale", wired_limit_mb: "Wired memory"}],
  ["Guessing tokens", {speculation: "How", draft_model: "Draft model"}],
]
const SPECIAL = {}, CHOICES = {}

/** For whom the values are; those with values of their own are marked. */
function scopePart(model, form) {
  const select = h("select", {"aria-label": "Whose settings", onchange: () => {
    model.send_msg({do: "show", model: select.value})
  }})
  const names = h("datalist", {id: "known-models"})
  const show = () => {
    const ids = model.models.map((one) => one.id)
    const own = new Set(model.own)
    const known = JSON.stringify([ids, [...own]])
    if (select.dataset.known === known) return
    select.dataset.known = known
    select.replaceChildren(h("option", {value: ""}, "All models"),
      ...ids.map((id) => h("option", {value: id}, own.has(id) ? `${id} (own values)` : id)))
    names.replaceChildren(...ids.map((id) => h("option", {value: id})))
    select.value = model.model
  }
  model.on("models", show)
  model.on("own", show)
  model.on("model", () => form.fill(true))
  show()
  return [select, names]
}

/** Models that run with other values than those saved, until they are loaded anew. */
function pendingPart(model) {
  const node = h("div", {class: "pendings"})
  const show = () => {
    const waiting = model.models.filter((one) => one.pending.length)
    node.hidden = !waiting.length
    node.replaceChildren(...waiting.map((one) => {
      const busy = model.reloading.includes(one.id) || one.state !== "ready"
      const button = h("button", {type: "button", "aria-label": `Reload ${one.id}`, disabled: busy,
        title: "Running requests are finished first", onclick: () => model.send_msg({do: "reload", model: one.id})}, busy ? "Reloading…" : "Reload now")
      return h("div", {class: "banner"}, h("span", {class: "text"}, h("b", {}, one.id), ` was loaded before: ${one.pending.join(", ")} `
        + "will hold from its next load on."), button)
    }))
  }
  model.on("models", show)
  model.on("reloading", show)
  show()
  return node
}

export function render({model, view}) {
  const form = createForm(model)
  const submit = listen(form, model)
  const buttons = h("div", {class: "buttons"}, form.save, form.undo, form.reset, form.saved)
  const panel = h("section", {class: "panel", "aria-label": "Engine"},
    h("header", {}, h("h2", {}, "Engine"), h("span", {class: "muted grow"}, "How a model shares its time and its memory."), ...scopePart(model, form)),
    h("div", {class: "notices"}, noticeLine(model)), pendingPart(model),
    h("form", {novalidate: true, onsubmit: submit}, form.list, buttons))
  const {root, whole} = stage("engine", panel)
  form.fill(true)
  watchEye(model, view, root)
  return whole
}
