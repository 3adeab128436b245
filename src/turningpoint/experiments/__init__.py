"""One file per question: the walks it needs and the analysis it does."""
