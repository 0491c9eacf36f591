"""Everything that sparse methods share: settings, the placed plan of a grid, and the core that runs it."""
