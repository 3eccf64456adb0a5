"""Where wishes come from: a file system that is looked at again and again, or one fixed version."""
