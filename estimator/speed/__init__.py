"""How long a training step takes: the work that the tape counted, and the rates at which a device does it."""
