"""A model and a task become numbers, one row a question; the same code for a base and for any adapter on it."""
