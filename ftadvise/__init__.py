"""ftadvise: which fine-tuning recipe fits your GPU, what it costs, and a run that shows how right that was."""

__version__ = "0.1.0"
