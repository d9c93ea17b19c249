"""What will it cost? The recipe vocabulary and the memory and throughput model."""
