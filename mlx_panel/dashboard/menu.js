// Links from page to page. Where the server is mounted is seen from the address, so a prefix needs no setting.

/** The address of a page, `path` "/" or "/name", seen from the page `here`. */
function address(path, here, linked) {
  if (linked === "query") return path === "/" ? location.pathname : `${location.pathname}?page=${path.slice(1)}`
  const base = location.pathname.replace(/\/$/, "")
  const root = here === "/" ? base : base.slice(0, -here.length)
  return root + path
}

export function render({model}) {
  const links = Object.entries(model.pages).map(([path, title]) => h("a", {href: address(path, model.here, model.linked),
    "aria-current": path === model.here ? "page" : null}, title))
  return stage("menu", h("nav", {"aria-label": "Pages"}, ...links)).whole
}
