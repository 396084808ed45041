"""What GLM is: architecture, masking, tokenizer, checkpoints. Knows nothing of stages."""
