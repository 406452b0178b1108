"""What is learned (tool calls) and what is asked (questions); knows nothing of who uses it."""
