"""`mlx-panel` as a process that also fails on any blocking call our code makes on the loop.

A blocking call raises where it stands; the request is then a 500, which no test expects.
"""

import sys

from blockbuster import blockbuster_ctx

from mlx_panel import serve
from mlx_panel.cli import main

# They call the loop, so they stand below everything that runs on it.
BELOW_THE_LOOP = ["mlx_panel.cli", "mlx_panel.serve"]

if __name__ == "__main__":
    serve.FIRST_PAGES = ()  # a second of work at each start, and most of these servers show no page
    with blockbuster_ctx(scanned_modules=["mlx_panel"], excluded_modules=BELOW_THE_LOOP) as blockbuster:
        # The writer thread holds this lock for the microseconds it takes to look at a queue, never during a write.
        for name in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
            blockbuster.functions[name].can_block_in("audit/store.py", {"put", "pending", "close"})
        # Panel reads its own scripts and style sheets while it builds the first page of a kind, and keeps them; it
        # asks for the path of its theme's at every change.
        for name in blockbuster.functions.keys() - {"time.sleep"}:
            blockbuster.functions[name].can_block_in("panel/io/application.py", {"initialize_document"})
            blockbuster.functions[name].can_block_in("panel/io/server.py", {"get"})
            blockbuster.functions[name].can_block_in("panel/reactive.py", {"_param_change"})
        sys.exit(main())
