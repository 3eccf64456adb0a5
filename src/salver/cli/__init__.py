"""The commands, one file each; importing this package does nothing."""
