"""Calls that a model wrote: read in whatever format they come, and judged by what they mean."""
