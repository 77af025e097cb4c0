"""The process around an engine that is measured without HTTP: `python -m mlx_panel.bench.engine_process`."""

from __future__ import annotations

import sys

from .engines import EngineSide
from .wire import main

if __name__ == "__main__":
    sys.exit(main(EngineSide))
