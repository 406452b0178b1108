"""Many arms, one answer: what was planned, what was run, what was compared and how sure it is."""
