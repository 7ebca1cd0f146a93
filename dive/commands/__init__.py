"""One module per subcommand: it parses, calls one function of the library, and prints."""
