// Where the pages are. Where the server is mounted is seen from the address, so a prefix needs no setting.

/** The address of a page, `path` "/" or "/name", seen from the page `here`. */
function address(path, here, linked) {
  if (linked === "query") return path === "/" ? location.pathname : `${location.pathname}?page=${path.slice(1)}`
  const base = location.pathname.replace(/\/$/, "")
  const root = here === "/" ? base : base.slice(0, -here.length)
  return root + path
}

/** The address of the page of a stored request; "" where there are no pages. */
function requestAddress(id, here, linked) {
  if (!linked || id == null) return ""
  const page = address("/request", here, linked)
  return `${page}${page.includes("?") ? "&" : "?"}id=${id}`
}
