"""The commands of the command line, one file each. A command turns flags into a call of `ftadvise.api` and shows the answer."""
