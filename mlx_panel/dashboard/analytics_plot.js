// A Bokeh figure that is made and fed in the browser: it costs the server's loop nothing, and changes without being made anew.

const field = (name) => ({field: name})
const LAYERS = {
  spans: ["HBar", {y: field("y"), left: field("left"), right: field("right"), height: field("height"), fill_color: field("colour"), fill_alpha: field("alpha"),
    line_color: null}, ["y", "left", "right", "height", "colour", "alpha"]],
  cells: ["Rect", {x: field("x"), y: field("y"), width: 0.94, height: 0.9, fill_color: field("colour"), line_color: null}, ["x", "y", "colour"]],
  bars: ["VBar", {x: field("x"), bottom: field("bottom"), top: field("top"), width: field("width"), fill_color: field("colour"), line_color: null},
    ["x", "bottom", "top", "width", "colour"]],
  areas: ["Patches", {xs: field("xs"), ys: field("ys"), fill_color: field("colour"), fill_alpha: 0.16, line_color: null}, ["xs", "ys", "colour"]],
  lines: ["MultiLine", {xs: field("xs"), ys: field("ys"), line_color: field("colour"), line_width: field("width"), line_dash: field("dash"), line_join: "round"},
    ["xs", "ys", "colour", "width", "dash"]],
  dots: ["Scatter", {x: field("x"), y: field("y"), marker: field("marker"), size: field("size"), fill_color: field("colour"), line_color: field("edge"),
    line_width: 2}, ["x", "y", "marker", "size", "colour", "edge"]],
}
const TIME_FORMATS = {milliseconds: "%H:%M:%S", seconds: "%H:%M:%S", minsec: "%H:%M:%S", minutes: "%H:%M", hourmin: "%H:%M", hours: "%H:%M", days: "%d %b",
  months: "%b %Y", years: "%Y"}
const DAY_FORMATS = {milliseconds: "%d %b", seconds: "%d %b", minsec: "%d %b", minutes: "%d %b", hourmin: "%d %b", hours: "%d %b", days: "%Y", months: "",
  years: ""}
const AXIS_FONT = "11px"
const TICK_ROOM = 105 // pixels for a moment on the axis

/** Local time on Bokeh's axis, which knows no zones: a moment as the UTC one that reads alike. */
function localised(ms) {
  return ms - new Date(ms).getTimezoneOffset() * MINUTE
}

function emptyLayer(name) {
  return Object.fromEntries(LAYERS[name][2].map((column) => [column, []]))
}

function timeAxis(M) {
  const formatter = new M.DatetimeTickFormatter({...TIME_FORMATS, context: new M.DatetimeTickFormatter({...DAY_FORMATS, hide_repeats: true}),
    context_which: "start", context_location: "below"})
  return new M.DatetimeAxis({formatter})
}

function plotModel(M, spec) {
  const sources = {}
  const renderers = spec.layers.map((name) => {
    const [kind, look] = LAYERS[name]
    sources[name] = new M.ColumnDataSource({data: emptyLayer(name)})
    return new M.GlyphRenderer({data_source: sources[name], glyph: new M[kind]({...look})})
  })
  const plot = new M.Plot({x_range: new M.Range1d({start: 0, end: 1}), y_range: new M.Range1d({start: 0, end: 1}), renderers,
    sizing_mode: "stretch_both", toolbar_location: null, min_border: 4, min_border_right: 12, background_fill_alpha: 0, border_fill_alpha: 0,
    outline_line_color: null, tags: [spec.name]})
  const below = spec.time ? timeAxis(M) : new M.LinearAxis({ticker: new M.FixedTicker({ticks: []})})
  const left = new M.LinearAxis({ticker: new M.FixedTicker({ticks: []})})
  plot.add_layout(below, "below")
  plot.add_layout(left, "left")
  const grid = new M.Grid({dimension: spec.wide ? 0 : 1, axis: spec.wide ? below : left})
  plot.add_renderers(grid)
  return {plot, below, left, grid, sources, ticks: 0}
}

function axisLook(colours) {
  return {major_label_text_color: colours.muted, axis_label_text_color: colours.muted, axis_line_color: colours.line, major_tick_line_color: null,
    minor_tick_line_color: null, major_label_text_font_size: AXIS_FONT, axis_label_text_font_size: AXIS_FONT, axis_label_text_font_style: "normal",
    axis_label_standoff: 6, major_label_standoff: 6, major_label_text_font: colours.font, axis_label_text_font: colours.font}
}

function paintAxes({below, left, grid}, colours) {
  below.setv(axisLook(colours))
  left.setv({...axisLook(colours), axis_line_color: null})
  grid.grid_line_color = colours.line
}

function setAxis(axis, range, scale) {
  range.setv({start: scale.start, end: scale.end})
  if (axis.axis_label !== (scale.title || null)) axis.axis_label = scale.title || null
  const written = scale.ticks?.map((tick) => [tick, scale.labels[tick]])
  if (!written || JSON.stringify(written) === JSON.stringify([...axis.major_label_overrides])) return
  axis.ticker.ticks = scale.ticks
  axis.major_label_overrides = new Map(written)
}

/** Put a drawing into a figure's models: what has not changed costs nothing. */
function feed(parts, spec, drawing, width) {
  const {Models} = window.Bokeh
  setAxis(parts.below, parts.plot.x_range, drawing.x)
  setAxis(parts.left, parts.plot.y_range, drawing.y)
  const seconds = drawing.x.end - drawing.x.start < 10 * MINUTE // then they are written out
  const ticks = Math.min(9, Math.max(2, Math.round(width / (seconds ? 1.4 * TICK_ROOM : TICK_ROOM))))
  if (spec.time && ticks !== parts.ticks) parts.below.ticker = new Models.DatetimeTicker({desired_num_ticks: ticks, num_minor_ticks: 0})
  parts.ticks = ticks
  for (const [name, source] of Object.entries(parts.sources)) source.data = drawing.layers[name] || emptyLayer(name)
}

/** A figure in `host` of a first drawing: what is known before it is made need not be laid out twice. `spec` names its
 *  `layers` and says whether x is `time` and whether its bars lie (`wide`); `width` is about what it has, pixels. */
async function bokehFigure(view, host, spec, drawing, colours, width) {
  const parts = plotModel(window.Bokeh.Models, spec)
  let look = colours
  paintAxes(parts, colours)
  feed(parts, spec, drawing, width)
  const document = new view.model.document.constructor()
  document.add_root(parts.plot)
  const canvas = h("div", {class: "canvas"})
  host.prepend(canvas)
  const views = await window.Bokeh.embed.add_document_standalone(document, canvas)
  const drawn = views.get(parts.plot)
  return {
    draw(next, now, size) {
      if (now !== look) paintAxes(parts, now)
      look = now
      feed(parts, spec, next, size)
    },
    /** The area inside the axes, in pixels from the host's corner. */
    frame() {
      const {left, top, width, height} = drawn.frame.bbox
      return {left, top, width, height}
    },
    remove: () => drawn.remove(),
  }
}
