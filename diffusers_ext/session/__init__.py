"""Everything that exists while methods are in force: `apply`, its checks, the hook and the report."""
