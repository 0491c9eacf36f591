"""What sparse methods share: settings, the plan of a grid put into place, the core that runs it."""
