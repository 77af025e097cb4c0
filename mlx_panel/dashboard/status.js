const WORDS = {"": ["Connecting", "calm"], idle: ["Idle", "calm"], loading: ["Loading", "busy"],
  ready: ["Serving", "good"], draining: ["Shutting down", "warn"], lost: ["No connection", "bad"]}
const FIRST_PAUSE = 1000, LONGEST_PAUSE = 5000 // milliseconds between two questions whether the server is back
const SETTLED = 10000 // milliseconds; a page that loses its server sooner is in no hurry to be loaded again

/** The page this is on, null elsewhere (a notebook). */
function pageOf(view) {
  let top = view
  while (top.parent) top = top.parent
  return top.model.data?.properties?.dark_theme ? top.model : null
}

/** Remember light or dark in a cookie, so that the server draws the next page right at once; the first time the
 *  system's preference counts. */
function keepTheme(page) {
  const save = () => {
    const theme = page.data.dark_theme ? "dark" : "light"
    document.cookie = `mlx-panel-theme=${theme}; path=/; max-age=31536000; SameSite=Lax`
  }
  const known = document.cookie.match(/mlx-panel-theme=(dark|light)/)
  const dark = known ? known[1] === "dark" : matchMedia("(prefers-color-scheme: dark)").matches
  if (dark !== page.data.dark_theme) setTimeout(() => { page.data.dark_theme = dark })
  page.data.properties.dark_theme.change.connect(save)
}

/** Whether the server of this page answers. This address costs it nothing; the page's own would make a session. */
async function serverAnswers() {
  const place = `${location.pathname.replace(/\/$/, "")}/metadata`
  const answer = await fetch(place, {cache: "no-store", signal: AbortSignal.timeout(LONGEST_PAUSE)}).catch(() => null)
  return Boolean(answer && answer.ok)
}

/** Bokeh would patch the document of a server that is gone into a session of the new one. It is not to try. */
function keepBokehFromReconnecting(document) {
  document.config.setv({reconnect_session: false, notify_connection_status: false}, {sync: false})
}

/** The page's session ended with its server. Load the page anew once the server is back and somebody looks. */
function comeBack() {
  let pause = performance.now() < SETTLED ? LONGEST_PAUSE : FIRST_PAUSE
  let unseen = false
  const ask = async () => {
    unseen = document.hidden
    if (unseen) return
    if (await serverAnswers()) {
      location.reload()
      return
    }
    setTimeout(ask, pause)
    pause = Math.min(1.5 * pause, LONGEST_PAUSE)
  }
  document.addEventListener("visibilitychange", () => {
    if (unseen && !document.hidden) ask()
  })
  setTimeout(ask, pause)
}

export function render({model, view}) {
  const chip = h("span", {class: "chip", role: "status"})
  const {root, whole} = stage("status", chip)
  const page = pageOf(view)
  let state = null
  const show = () => {
    const [word, tone] = WORDS[state || model.state] || WORDS[""]
    say(chip, word)
    mark(chip, "data-tone", tone)
  }
  model.on("state", show)
  show()
  onLost(view, () => {
    state = "lost"
    show()
    if (page) comeBack()
  })
  if (page) {
    keepBokehFromReconnecting(view.model.document)
    keepTheme(page)
  }
  watchEye(model, view, root)
  return whole
}
