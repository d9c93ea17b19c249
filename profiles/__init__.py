"""What is there? GPUs and models as YAML, the hardware probe, the model-card reader."""
