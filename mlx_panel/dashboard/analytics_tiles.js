// The filter's requests in numbers, above the charts.

function tile(title, unit = "") {
  const value = h("strong", {}, NONE), note = h("small", {}, "")
  const node = h("div", {class: "tile"}, h("span", {class: "label"}, title), value, note)
  return {node, put: (text, words) => {
    say(value, text)
    say(note, words || "")
  }}
}

/** A bar of what became of the requests; a part of it filters. */
function outcomes(page) {
  const bar = h("div", {class: "outcomes", role: "group", "aria-label": "What became of them"})
  const show = (stats) => {
    const paint = page.paint()
    const parts = Object.entries(stats.by_status).filter(([, number]) => number)
    bar.hidden = !parts.length
    bar.replaceChildren(...parts.map(([status, number]) => h("button", {type: "button", style: `--share: ${number}; --colour: ${paint("status", status)}`,
      "aria-pressed": String(all(page.pairs, "status").includes(status)), "aria-label": `${status}: ${count(number)}`, title: `${status}: ${count(number)} of ${count(stats.requests)}`,
      onclick: (event) => page.choose("status", status, event.ctrlKey || event.metaKey || event.shiftKey)})))
  }
  return {bar, show}
}

function tiles(page) {
  const requests = tile("Requests"), failed = tile("Errors, timeouts"), tokens = tile("Tokens"), first = tile("First token"), whole = tile("Whole request"),
    cache = tile("From the cache"), cost = tile("Cloud cost")
  const bar = outcomes(page)
  requests.node.append(bar.bar)
  const only = h("button", {type: "button", class: "quiet small", onclick: () => page.change([...without(page.pairs, "status"),
    ...(isFailed(page.pairs) ? [] : [["status", "error"], ["status", "timeout"]])])}, "Only these")
  failed.node.append(only)
  const node = h("div", {class: "tiles", role: "group", "aria-label": "In numbers"}, ...[requests, failed, tokens, first, whole, cache, cost].map((one) => one.node))
  const show = (stats) => {
    if (!stats || stats.error) return
    requests.put(count(stats.requests), words(["cancelled", stats.cancelled], ["rejected", stats.rejected]))
    bar.show(stats)
    failed.put(stats.requests ? worded("share", stats.error_rate) : NONE, words(["errors", stats.errors], ["timeouts", stats.timeouts]))
    only.hidden = !(stats.errors + stats.timeouts) && !isFailed(page.pairs)
    say(only, isFailed(page.pairs) ? "Show all" : "Only these")
    tokens.put(stats.total_tokens >= 1e6 ? compact.format(stats.total_tokens) : count(stats.total_tokens), `${compact.format(stats.prompt_tokens)} prompt, ${compact.format(stats.completion_tokens)} answer`)
    first.put(duration(stats.ttft_p50), stats.ttft_p95 == null ? "" : `95 % under ${duration(stats.ttft_p95)}`)
    whole.put(duration(stats.total_p50), stats.total_p95 == null ? "" : `95 % under ${duration(stats.total_p95)}`)
    cache.put(stats.prompt_tokens ? worded("share", stats.cached_tokens / stats.prompt_tokens) : NONE, stats.saved_ms ? `saved about ${duration(stats.saved_ms)}` : "of prompt tokens")
    cost.node.hidden = !stats.cost
    cost.put(dollars(stats.cost), "by the prices set")
    first.node.title = whole.node.title = stats.sampled > 1 ? `Percentiles of one request in ${count(stats.sampled)}` : ""
  }
  return {node, show}
}

const isFailed = (pairs) => all(pairs, "status").sort().join() === "error,timeout"
const words = (...parts) => parts.filter(([, number]) => number).map(([name, number]) => `${count(number)} ${name}`).join(", ")
