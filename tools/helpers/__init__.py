"""What several scripts of tools/ share; no command of its own."""
