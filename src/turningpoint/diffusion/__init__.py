"""The mathematics: schedules, denoisers, guidance, grids of times and samplers; it knows no files."""
