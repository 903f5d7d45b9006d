"""muxd: many models on one GPU host behind one OpenAI-compatible endpoint."""

__version__ = "0.1.0"
