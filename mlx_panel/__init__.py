"""Serve local MLX models to any OpenAI client and watch what happens, live."""

__version__ = "0.1.0"
