// The figures of the results that are shown, in tables: each one's, or the ratios of two.

const RATIOS = [["tokens/s", "Speed"], ["TTFT p50", "First token, median"], ["TTFT p95", "First token, 95 %"],
  ["ITL p50", "Between tokens, median"], ["ITL p95", "Between tokens, 95 %"]]

function ratioCell(cell) {
  if (!cell) return h("td", {class: "number"}, NONE)
  const better = cell.better === "higher" ? cell.median : 1 / cell.median
  const tone = better > 1.05 ? "good" : better < 0.95 ? "bad" : null
  return h("td", {class: "number"}, h("div", {class: "ratio", "data-tone": tone}, `${cell.median.toFixed(2)} ×`),
    h("small", {}, `${figure(cell.a)} : ${figure(cell.b)}`))
}

function ratioTable(ratios) {
  if (!ratios.length) return h("p", {class: "muted note"}, "These two measured no workload in common, so there are no ratios.")
  const head = h("tr", {}, h("th", {}, "A : B"), ...RATIOS.map(([, title]) => h("th", {class: "number"}, title)))
  const rows = ratios.map((row) => h("tr", {}, h("td", {}, row.workload),
    ...RATIOS.map(([metric]) => ratioCell(row.cells.find((cell) => cell.metric === metric)))))
  return h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Ratios"}, h("table", {class: "ratios"}, h("thead", {}, head), h("tbody", {}, ...rows)))
}

const MEASURES = [["Callers", (one) => count(one.concurrency)], ["Requests", (one) => count(one.requests)],
  ["Errors", (one) => count(one.failed)], ["Speed", (one) => `${figure(one.tokens_per_second)} tok/s`],
  ["First token", (one) => duration(one.ttft_p50)], ["95 %", (one) => duration(one.ttft_p95)],
  ["Between tokens", (one) => duration(one.itl_p50)], ["95 %", (one) => duration(one.itl_p95)]]

function figuresTable(result) {
  const head = h("tr", {}, h("th", {}, "Workload"), ...MEASURES.map(([title]) => h("th", {class: "number"}, title)))
  const rows = result.series.flatMap((line) => line.levels.map((one) => h("tr", {}, h("td", {}, h("i", {class: "swatch", style: `background: ${line.colour}`}), one.label),
    ...MEASURES.map(([, read]) => h("td", {class: "number"}, read(one))))))
  return h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": `Figures of ${result.letter}`},
    h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows)))
}

export function render({model}) {
  const panel = h("section", {class: "panel", "aria-label": "Figures", hidden: true})
  const show = () => {
    const {results = [], ratios = []} = model.shown
    const two = results.length === 2
    const notes = results.flatMap((result) => result.notes.map((text) => h("p", {class: "muted note"}, two ? `${result.letter}: ${text}` : text)))
    const commands = results.filter((result) => result.command).map((result) => h("div", {class: "command"},
      h("small", {}, two ? `${result.letter}, on a command line: ` : "On a command line: "), h("code", {}, result.command)))
    panel.hidden = !results.length
    panel.replaceChildren(...(two ? [ratioTable(ratios)] : results.map(figuresTable)), ...notes, ...commands)
  }
  const {root, whole} = stage("results", panel)
  model.on("shown", show)
  show()
  new ResizeObserver(() => matchHost(root)).observe(root)
  return whole
}
