"""What do experts say? The selection tables as YAML, nothing else."""
