"""What a training or inference set-up will need, by arithmetic: FLOPs, memory, time and money before any GPU is rented."""
