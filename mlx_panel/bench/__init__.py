"""`mlx-benchmark` and its library: measure an engine or any OpenAI-compatible server, keep the figures, compare them.

    target = Target(url="http://127.0.0.1:10242", model="SmolLM2-135M-Instruct")
    result = await sweep(Plan(target=target, workloads=standard()), report=lambda progress: None)
    save(result)

The load comes from a process of its own, so nothing here blocks or burdens the caller's loop; cancelling the task ends
that process. Every `report` carries the runs that are done, so an interrupted sweep keeps them.
"""

from .compare import compare, compare_results
from .records import (
    BenchmarkError,
    Machine,
    Plan,
    Progress,
    Ratio,
    Replay,
    Result,
    Row,
    Run,
    Spread,
    Summary,
    Target,
    TargetInfo,
    Workload,
)
from .replay import Wish, plan, replay
from .report import page
from .results import Loaded, load, load_all, results_folder, save, write_parquet
from .sweep import matrix, standard, sweep

__all__ = [
    "BenchmarkError", "Loaded", "Machine", "Plan", "Progress", "Ratio", "Replay", "Result", "Row", "Run", "Spread", "Summary",
    "Target", "TargetInfo", "Wish", "Workload", "compare", "compare_results", "load", "load_all", "matrix", "page",
    "plan", "replay", "results_folder", "save", "standard", "sweep", "write_parquet",
]  # fmt: skip
