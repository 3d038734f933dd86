"""The commands, one file each: from options, through the library, to what is shown."""
