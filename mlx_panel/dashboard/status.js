const WORDS = {"": ["Connecting", "calm"], idle: ["Idle", "calm"], loading: ["Loading", "busy"],
  ready: ["Serving", "good"], draining: ["Shutting down", "warn"]}

/** On a page: remember light or dark in a cookie, so that the server draws the next page right at once; the first
 *  time the system's preference counts. Elsewhere (a notebook) the host decides and this does nothing. */
function keepTheme(view) {
  let top = view
  while (top.parent) top = top.parent
  const property = top.model.data?.properties?.dark_theme
  if (!property) return
  const save = () => {
    const theme = top.model.data.dark_theme ? "dark" : "light"
    document.cookie = `mlx-panel-theme=${theme}; path=/; max-age=31536000; SameSite=Lax`
  }
  const known = document.cookie.match(/mlx-panel-theme=(dark|light)/)
  const dark = known ? known[1] === "dark" : matchMedia("(prefers-color-scheme: dark)").matches
  if (dark !== top.model.data.dark_theme) setTimeout(() => { top.model.data.dark_theme = dark })
  property.change.connect(save)
}

export function render({model, view}) {
  const chip = h("span", {class: "chip", role: "status"})
  const {root, whole} = stage("status", chip)
  const show = () => {
    const [word, tone] = WORDS[model.state] || WORDS[""]
    say(chip, word)
    mark(chip, "data-tone", tone)
  }
  model.on("state", show)
  show()
  keepTheme(view)
  watchEye(model, view, root)
  return whole
}
