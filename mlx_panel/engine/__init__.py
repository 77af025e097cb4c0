"""Model loading, prompts, batching and detokenising. The engine itself is `mlx_panel.engine.engine.Engine`.

Nothing is imported here: `blas.preload()` has to run before anything imports mlx, and `fake` runs without mlx.
"""
