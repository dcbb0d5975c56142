"""Plugins that put the status table into other programs, through those programs' own plugin interfaces."""
