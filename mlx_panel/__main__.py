"""`python -m mlx_panel` is `mlx-panel`."""

import sys

from .cli import main

sys.exit(main())
