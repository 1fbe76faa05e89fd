"""The commands of the program ``hpfree``."""
