"""Incremental parsers of generated text: pure, no clock, no engine."""
