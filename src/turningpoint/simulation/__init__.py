"""How paths are simulated and kept: noise, walks, the engine, the store."""
