"""The pretrain stage: DeepSpeed training with keyed resume, an order by formula, and a journal."""
