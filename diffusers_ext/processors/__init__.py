"""Methods, one file each: settings, rule and core; nothing about models."""
