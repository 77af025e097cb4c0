"""Embeddings: texts to vectors, by encoders of the BERT family and by decoders; `engine.py` is the way in."""
