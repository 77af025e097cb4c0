// A text field for SQL: line numbers, colours, Tab, completion of names, and a mark where the server found a mistake.
// The text is an ordinary textarea, so that keyboards, screen readers, undo and phones work; its colours lie behind it.

const INDENT = "  "
const FEWEST_LINES = 6
const MOST_LINES = 18
const MOST_HINTS = 8

function inserted(field, text) {
  field.focus()
  if (!document.execCommand("insertText", false, text)) field.setRangeText(text, field.selectionStart, field.selectionEnd, "end")
}

/** Put `change(line)` in the place of each selected line. */
function changeLines(field, change) {
  const from = field.value.lastIndexOf("\n", field.selectionStart - 1) + 1
  const to = field.value.indexOf("\n", Math.max(field.selectionEnd - 1, field.selectionStart))
  const end = to < 0 ? field.value.length : to
  const text = field.value.slice(from, end).split("\n").map(change).join("\n")
  field.setSelectionRange(from, end)
  inserted(field, text)
  field.setSelectionRange(from, from + text.length)
}

function toggleComment(field) {
  const line = field.value.slice(field.value.lastIndexOf("\n", field.selectionStart - 1) + 1)
  changeLines(field, line.trimStart().startsWith("--") ? (one) => one.replace(/^(\s*)-- ?/, "$1") : (one) => `-- ${one}`)
}

/** The word before the caret and where it begins. */
function wordAt(field) {
  const before = field.value.slice(0, field.selectionStart)
  const word = /[A-Za-z_]\w*$/.exec(before)
  return field.selectionStart === field.selectionEnd && word ? {word: word[0], from: word.index} : {word: "", from: field.selectionStart}
}

/** What a word may become: columns and tables first, then functions and keywords. */
function hintsFor(word, names) {
  const low = word.toLowerCase()
  const fits = (one) => one.text.toLowerCase().startsWith(low) && one.text.toLowerCase() !== low
  const words = [...FUNCTIONS.map((text) => ({text, note: "function"})), ...[...KEYWORDS].map((text) => ({text: word === low ? text.toLowerCase() : text, note: "keyword"}))]
  return word.length < 2 ? [] : [...names.filter(fits), ...words.filter(fits)].slice(0, MOST_HINTS)
}

/** The list of hints below the caret. */
function hintBox(accept) {
  const node = h("ul", {class: "hints", role: "listbox", "aria-label": "Completions", id: "sql-hints", hidden: true})
  let hints = []
  let at = 0
  const mark_ = () => [...node.children].forEach((one, place) => mark(one, "aria-selected", String(place === at)))
  const show = (found, left, top) => {
    hints = found
    at = 0
    node.hidden = !found.length
    node.replaceChildren(...found.map((one) => h("li", {role: "option", onmousedown: (event) => { event.preventDefault(); accept(one) }},
      h("code", {}, one.text), h("small", {}, one.note))))
    node.style.left = `${left}px`
    node.style.top = `${top}px`
    mark_()
  }
  const key = (event) => {
    if (node.hidden) return false
    if (event.key === "ArrowDown" || event.key === "ArrowUp") at = (at + (event.key === "ArrowDown" ? 1 : hints.length - 1)) % hints.length
    else if (event.key === "Tab" || (event.key === "Enter" && !event.ctrlKey && !event.metaKey)) accept(hints[at])
    else if (event.key === "Escape") show([], 0, 0)
    else return false
    mark_()
    event.preventDefault()
    return true
  }
  return {node, show, key, hide: () => show([], 0, 0)}
}

/** `names()` are `{text, note}` to complete; `run`, `changed` are told of keys and of every change. */
function sqlEditor({names, run, changed}) {
  const field = h("textarea", {spellcheck: "false", autocapitalize: "off", autocomplete: "off", autocorrect: "off", wrap: "off", "aria-label": "SQL",
    "aria-describedby": "sql-keys", placeholder: "SELECT model_used, count(*) FROM audit GROUP BY ALL"})
  const paint = h("pre", {"aria-hidden": "true"})
  const gutter = h("div", {class: "gutter", "aria-hidden": "true"})
  const wrong = h("i", {class: "wrong", hidden: true})
  const ruler = h("span", {class: "ruler", "aria-hidden": "true"}, "0".repeat(100))
  const hints = hintBox((one) => {
    const {from} = wordAt(field)
    field.setSelectionRange(from, field.selectionStart)
    inserted(field, one.text)
    hints.hide()
  })
  const code = h("div", {class: "code"}, paint, wrong, field, ruler, hints.node)
  const node = h("div", {class: "sql-editor"}, gutter, code)
  let leave = false // after Escape the Tab key leaves the field

  const cell = () => ({width: ruler.getBoundingClientRect().width / 100, height: parseFloat(getComputedStyle(field).lineHeight)})
  const scroll = () => {
    paint.style.transform = wrong.style.transform = `translate(${-field.scrollLeft}px, ${-field.scrollTop}px)`
    gutter.style.transform = `translateY(${-field.scrollTop}px)`
  }
  const show = () => {
    const lines = field.value.split("\n").length
    paint.replaceChildren(...painted(field.value), "\n")
    say(gutter, Array.from({length: lines}, (_, place) => place + 1).join("\n"))
    field.style.height = `calc(${Math.min(MOST_LINES, Math.max(FEWEST_LINES, lines + 1))} * 1.5em + 20px)`
    wrong.hidden = true
    scroll()
  }
  const complete = () => {
    const {word, from} = wordAt(field)
    const inText = /'[^']*$|--[^\n]*$/.test(field.value.slice(0, from))
    const found = inText ? [] : hintsFor(word, names())
    const {width, height} = cell()
    const before = field.value.slice(0, from).split("\n")
    const left = 12 + before.at(-1).length * width - field.scrollLeft
    hints.show(found, Math.max(0, Math.min(left, code.clientWidth - 240)), 10 + before.length * height - field.scrollTop)
  }
  const set = (text) => {
    field.value = text
    show()
    hints.hide()
    changed(text)
  }
  field.addEventListener("input", () => { show(); complete(); changed(field.value) })
  field.addEventListener("scroll", scroll)
  field.addEventListener("blur", hints.hide)
  field.addEventListener("click", hints.hide)
  field.addEventListener("keydown", (event) => {
    const command = event.ctrlKey || event.metaKey
    if (command && event.key === "Enter") { event.preventDefault(); hints.hide(); run() }
    else if (hints.key(event)) return
    else if (command && event.key === "/") { event.preventDefault(); toggleComment(field) }
    else if (event.key === "Tab" && !leave) {
      event.preventDefault()
      if (event.shiftKey) changeLines(field, (line) => line.replace(/^ {1,2}|^\t/, ""))
      else if (field.value.slice(field.selectionStart, field.selectionEnd).includes("\n")) changeLines(field, (line) => INDENT + line)
      else inserted(field, INDENT)
    }
    leave = event.key === "Escape" || (leave && event.key === "Shift")
  })
  show()
  return {
    node, set, text: () => field.value, focus: () => field.focus(),
    insert: (text) => { inserted(field, text); hints.hide() },
    /** Mark what is wrong: from line and column, both from 1, so many characters. */
    mark: (line, column, length) => {
      wrong.hidden = !line
      if (!line) return
      const {width, height} = cell()
      Object.assign(wrong.style, {left: `${12 + (column - 1) * width}px`, top: `${10 + (line - 1) * height}px`, width: `${Math.max(1, length) * width}px`, height: `${height}px`})
    },
    /** Put the caret where a mistake is. */
    goto: (line, column) => {
      const at = field.value.split("\n").slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0) + column - 1
      field.focus()
      field.setSelectionRange(at, at)
    },
  }
}
