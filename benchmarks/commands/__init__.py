"""The commands of `bench`: parsing and printing. Nothing heavy is imported before a command runs."""
