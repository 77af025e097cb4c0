"""`mlx-panel` as a process that also fails on any blocking call our code makes on the loop.

A blocking call raises where it stands; the request is then a 500, which no test expects.
"""

import sys

from blockbuster import blockbuster_ctx

from mlx_panel.cli import main

if __name__ == "__main__":
    with blockbuster_ctx(scanned_modules=["mlx_panel"]) as blockbuster:
        # The writer thread holds this lock for the microseconds it takes to look at a queue, never during a write.
        for name in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
            blockbuster.functions[name].can_block_in("audit/store.py", {"put", "pending", "close"})
        # Panel looks for its own style sheets while it builds a page.
        blockbuster.functions["os.stat"].can_block_in("panel_material_ui/base.py", {"_bundle_css"})
        sys.exit(main())
