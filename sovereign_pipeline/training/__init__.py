"""Training: the trainer's process, the training methods, and the stages with their gates."""
