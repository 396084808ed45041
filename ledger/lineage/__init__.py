"""The stages behind a checkpoint: their graph, what they cost, whether their files are whole, what sets two builds apart."""
