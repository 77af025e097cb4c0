// Links from page to page. Where there is no room for all of them side by side they open below the title of the page one
// is on.

function links(model) {
  return h("nav", {"aria-label": "Pages"}, ...Object.entries(model.pages).map(([path, title]) => h("a", {href: address(path, model.here, model.linked),
    "aria-current": path === model.here ? "page" : null}, title)))
}

export function render({model}) {
  const fold = h("details", {class: "folded"}, h("summary", {}, model.pages[model.here] || "Pages"), links(model))
  fold.addEventListener("focusout", (event) => { if (!fold.contains(event.relatedTarget)) fold.open = false })
  fold.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return
    fold.open = false
    fold.firstChild.focus()
  })
  return stage("menu", links(model), fold).whole
}
