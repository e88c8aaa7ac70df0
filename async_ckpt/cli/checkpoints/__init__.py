"""The subcommands that look at directories of checkpoints and change them, a module each."""
