"""The command line: translates arguments into options, and runs servers."""
