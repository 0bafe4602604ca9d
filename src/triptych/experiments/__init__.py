"""Many trainings that answer one question: comparisons, with what they may claim."""
