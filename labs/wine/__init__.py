"""Which of three cultivars a wine is made of, from its chemical analysis."""
