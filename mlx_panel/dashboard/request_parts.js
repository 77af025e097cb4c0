// What both halves of a request's page use.

const REQUEST_TONES = {success: "good", error: "bad", timeout: "warn", cancelled: "calm", rejected: "warn"}

/** The way to another request: an address where pages have one, else a button that asks for it here. */
function toRequest(model, id, attributes, ...children) {
  const href = requestAddress(id, "/request", model.linked)
  if (href) return h("a", {...attributes, href}, ...children)
  return h("button", {type: "button", ...attributes, class: `quiet ${attributes.class || ""}`, onclick: () => model.send_msg({do: "show", id})}, ...children)
}

function shortName(id) {
  const own = id.replace(/^req_/, "")
  return own.length > 10 ? `${own.slice(0, 8)}…` : own
}

/** What was found, or null. */
function parsed(model) {
  return model.found ? JSON.parse(model.found) : null
}

/** Let the browser save a file. */
function saveFile(name, type, text) {
  const link = h("a", {download: name, href: URL.createObjectURL(new Blob([text], {type}))})
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}
