"""The command line: the table of commands, shared options, `reskd config`."""
