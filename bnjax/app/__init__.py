"""The application on top of the library: command line, data, run folders, pictures."""
