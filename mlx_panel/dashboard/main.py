"""The dashboard as a file for `panel serve`; `mlx-panel app-path` prints where it lies."""

import panel as pn

from mlx_panel.dashboard import pages
from mlx_panel.dashboard.local import Local
from mlx_panel.plugin import begin, runtime

pn.state.execute(begin)
pages.build(Local(runtime())).servable(title="mlx-panel")
