// Dialogs that change something on this machine: delete, convert, import.

const HOLDING = ["ready", "loading", "stopping"]
const DTYPES = [["bfloat16", "bfloat16"], ["float16", "float16"], ["float32", "float32"]]
const PLAIN_TYPE = ["bits:0", "None: change the type only"]
const QUANTISATIONS = [
  ["bits:4", "4 bits"], ["bits:8", "8 bits"], ["bits:6", "6 bits"], ["bits:5", "5 bits"], ["bits:3", "3 bits"], ["bits:2", "2 bits"],
  ["recipe:mixed_4_6", "4 and 6 bits mixed"], ["recipe:mixed_3_6", "3 and 6 bits mixed"], ["recipe:mixed_3_4", "3 and 4 bits mixed"],
  ["recipe:mixed_2_6", "2 and 6 bits mixed"], ["mode:mxfp4", "MXFP4"], ["mode:nvfp4", "NVFP4"], ["mode:mxfp8", "MXFP8"], PLAIN_TYPE,
]
const MODE_BITS = {mxfp4: 4, nvfp4: 4, mxfp8: 8}
const NAME_HELP = "Letters, digits, dots, dashes."

/** A dialog's foot: Cancel and the one that does it; `does` gives a reply, and one without an error closes. */
function endings(box, fault, title, kind, does, page) {
  const act = h("button", {type: "button", class: kind}, title)
  act.addEventListener("click", async () => {
    act.disabled = true
    fault.show("")
    const reply = await does()
    act.disabled = false
    if (reply.error) return fault.show(reply.error)
    box.close()
    return page.tell(reply)
  })
  box.body.append(fault.node, h("div", {class: "ends"}, h("button", {type: "button", onclick: box.close}, "Cancel"), act))
  return act
}

/** Who would miss a model, in words. */
function missedBy(found) {
  const presets = found.presets.map((name) => `the preset ${name}`)
  return [...presets, ...found.aliases.map((pattern) => `the alias ${pattern}`)].join(", ")
}

async function openDelete(one, page) {
  const frees = h("p", {}, `This frees ${bytes(one.bytes)} on disk. It cannot be undone; what came from the hub can be downloaded again.`)
  const users = h("p", {class: "muted"}, "Looking who uses it…")
  const box = openDialog(page.root, "box", `Delete ${one.id}?`, frees, users)
  let force = false
  const button = endings(box, faultLine(), `Delete ${bytes(one.bytes)}`, "danger", async () => {
    const reply = await page.ask("delete", {what: one.id, force})
    if (reply.error && !force) say(button, "Delete anyway")
    force = true
    return {...reply, text: reply.error ? "" : `${one.id} was deleted: ${bytes(reply.value.freed)} are free again.`}
  }, page)
  button.disabled = true
  const found = page.answer("shown", await page.ask("show", {what: one.id}))
  const held = HOLDING.includes(stateOf(one, page.states()))
  const missed = found ? missedBy(found) : ""
  say(users, held ? "It is in memory. Unload it first." : missed ? `These will have no model: ${missed}.` : "No preset and no alias names it.")
  users.classList.toggle("fault", held)
  force = Boolean(missed)
  button.disabled = held
}

/** What the form says as a `ConvertOrder`. */
function orderOf(one, how, group, dtype, name) {
  const [kind, value] = how.split(":")
  const order = {model: one.id, name: name.trim(), dtype}
  if (kind === "bits") return {...order, bits: Number(value), group_size: Number(value) ? Number(group) : 0}
  if (kind === "mode") return {...order, mode: value, bits: MODE_BITS[value]}
  if (kind === "recipe") return {...order, recipe: value, bits: Number(value.match(/\d/)[0]), group_size: Number(group)}
  return {...order, bits: 0, dequantize: true}
}

function nameField(placeholder) {
  return h("input", {type: "text", autocomplete: "off", spellcheck: "false", placeholder})
}

function openConvert(one, page) {
  const quantised = one.capabilities.bits > 0 && one.capabilities.bits < 16
  const how = quantised ? choice([["undo:", "Undo the quantisation"], PLAIN_TYPE], "undo:") : choice(QUANTISATIONS, "bits:4")
  const group = choice([["0", "Usual for the method"], ["32", "32"], ["64", "64"], ["128", "128"]], "0")
  const dtype = choice([["", "As it is"], ...DTYPES])
  const name = nameField("its own name and what was done")
  const groups = labelled("convert-group", "Group size", group, "Weights that share a scale. Smaller is more exact and larger on disk.")
  how.addEventListener("change", () => { groups.hidden = !/^(bits:[1-9]|recipe)/.test(how.value) })
  groups.hidden = quantised
  const help = quantised ? "It is quantised already; for other bits convert the original. Undoing gives no quality back."
    : "Fewer bits take less memory and are less exact."
  const box = openDialog(page.root, "box", `Convert ${one.id}`,
    h("p", {class: "muted"}, "Makes a new model beside this one; a job that goes on when the page is closed."),
    h("div", {class: "form"}, labelled("convert-how", "Quantise to", how, help), groups,
      labelled("convert-dtype", "Type of the other weights", dtype, "What stays unquantised, norms for instance."),
      labelled("convert-name", "Name", name, NAME_HELP)))
  const order = () => orderOf(one, how.value, group.value, dtype.value, name.value)
  endings(box, faultLine(), "Convert", "main", () => page.ask("convert", {order: order()}), page)
}

function openImport(page) {
  const file = nameField("/path/to/model.gguf")
  const name = nameField("the file's own name")
  const dtype = choice([["", "Usual for the file"], ["keep", "Keep quantised weights"], ...DTYPES])
  const box = openDialog(page.root, "box", "Import a GGUF file",
    h("p", {class: "muted"}, "The file is read where the server runs and becomes a model of its own; the file stays as it is."),
    h("div", {class: "form"}, labelled("import-file", "File on the server's machine", file, "The whole path."),
      labelled("import-name", "Name", name, NAME_HELP), labelled("import-dtype", "Weights", dtype, "As which type they are stored.")))
  const order = () => ({file: file.value.trim(), name: name.value.trim(), dtype: dtype.value})
  const button = endings(box, faultLine(), "Import", "main", () => page.ask("import", {order: order()}), page)
  const check = () => { button.disabled = !file.value.trim() }
  file.addEventListener("input", check)
  file.addEventListener("keydown", (event) => { if (event.key === "Enter" && !button.disabled) button.click() })
  check()
  file.focus()
}
