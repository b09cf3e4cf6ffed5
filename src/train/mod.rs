//! Stage 4: the training loop, its checkpoints and its records.
