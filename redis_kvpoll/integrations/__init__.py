"""Plugins that connect other programs to the status table, through the programs' own plugin interfaces."""
