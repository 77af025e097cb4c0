// A small box that opens below a button.

/** A box that opens below its button and closes with Escape or when the focus leaves. `toggled(open)` is called at both. */
function popover(label, content, toggled) {
  const summary = h("summary", {"aria-label": label})
  const box = h("details", {class: "popover"}, summary, h("div", {class: "box"}, content))
  box.addEventListener("toggle", () => toggled?.(box.open))
  box.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !box.contains(event.relatedTarget)) box.open = false
  })
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !box.open) return
    event.stopPropagation()
    box.open = false
    summary.focus()
  })
  return {box, summary, close: () => { box.open = false }}
}

/** Close open boxes when something else is pressed. */
function closeOutside(model, root) {
  const close = (event) => {
    for (const box of root.querySelectorAll("details.popover[open]")) if (!event.composedPath().includes(box)) box.open = false
  }
  document.addEventListener("pointerdown", close)
  model.on("lifecycle:remove", () => document.removeEventListener("pointerdown", close))
}
