"""One file per picture; each is drawn from a tidy table that is saved beside it."""
