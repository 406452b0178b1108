"""What a training run forgets, measured while it runs, for any trainer of transformers."""
