"""The dashboard as a file for `panel serve`; `mlx-panel app-path` prints where it lies. `?page=benchmarks` is the other page."""

import panel as pn

from mlx_panel.dashboard import pages
from mlx_panel.dashboard.local import Local
from mlx_panel.plugin import begin, runtime

pn.state.execute(begin)
path = pages.asked(pn.state.session_args)
pages.build(Local(runtime()), path, "query").servable(title=pages.title(path))
