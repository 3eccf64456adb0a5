"""What serves: the contract every runtime fulfils, and one runtime per file."""
